"""LiteRT (TensorFlow Lite) on the CPU, with its XNNPACK kernels."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels, Scores, Session
from edgewise.device.package import installed, not_importable, refused
from edgewise.device.seal import Sealed, open_sealed


class LiteRtSession:
    """One .tflite file; it was written for one image at a time, so a batch goes through it image by image."""

    def __init__(self, sealed: Sealed, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as problem:
            raise not_importable("ai-edge-litert", "E85", problem, LiteRtRuntime.install) from problem
        try:
            self._interpreter: Any = Interpreter(model_content=sealed.content, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as problem:
            why = str(problem).splitlines()[0]
            fix = "export the model again; it may need a newer ai-edge-litert"
            raise refused("LiteRT", sealed.path, why, fix) from problem
        self._input: int = self._interpreter.get_input_details()[0]["index"]
        self._output: int = self._interpreter.get_output_details()[0]["index"]
        self._sealed = sealed
        self._threads = threads

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels).

        Raises:
            ValueError: the pixels are not as the model wants them.
        """
        self._sealed.check(batch)
        scores = np.empty((len(batch), self._sealed.classes), np.float32)
        for row in range(len(batch)):
            self._interpreter.set_tensor(self._input, batch[row : row + 1])
            self._interpreter.invoke()
            scores[row] = self._interpreter.get_tensor(self._output)[0]
        return scores

    def describe(self) -> dict[str, str]:
        """Runtime name, version, provider and threads."""
        version = importlib.metadata.version("ai-edge-litert")
        return {"runtime": "litert", "version": version, "provider": "XNNPACK", "threads": str(self._threads)}


class LiteRtRuntime:
    """Runs `.tflite` files; see `edgewise.device.base.Runtime`."""

    format = "litert"
    module = "ai_edge_litert"
    install = 'pip install "edgewise[litert]"'
    example = """
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(model_path="model.tflite", num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
interpreter.invoke()
logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open a `.tflite` file."""
        return LiteRtSession(open_sealed(path, self.format), threads)

    def version(self) -> str | None:
        """The installed ai-edge-litert, found without importing it."""
        return installed("ai-edge-litert")
