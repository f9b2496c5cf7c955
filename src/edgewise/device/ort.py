"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels, Scores, Session
from edgewise.device.onnxfile import BadModel, check_model, read_model
from edgewise.device.package import installed, not_importable, refused
from edgewise.errors import UntrustedError


class OrtSession:
    """One ONNX file opened for single-stream use: sequential execution, one inter-op thread.

    `model` is the ONNX file's bytes where they are not simply those of `path`.
    """

    def __init__(self, path: Path, threads: int, model: bytes | None = None) -> None:
        model = _checked(path, model)
        try:
            import onnxruntime as ort
        except ImportError as problem:
            raise not_importable("onnxruntime", "E10", problem, OrtRuntime.install) from problem
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # the runtime's errors share no other base class
            why = str(problem).splitlines()[0]
            fix = "export the model again; `edgewise verify BUNDLE` tells whether the file was changed"
            raise refused("onnxruntime", path, why, fix) from problem
        self._input: str = self._session.get_inputs()[0].name
        self._threads = threads
        self._version: str = ort.__version__

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels)."""
        scores: Scores = np.asarray(self._session.run(None, {self._input: batch})[0], dtype=np.float32)
        return scores

    def describe(self) -> dict[str, str]:
        """Runtime name, version, provider and threads."""
        return {
            "runtime": "onnxruntime",
            "version": self._version,
            "provider": self._session.get_providers()[0],
            "threads": str(self._threads),
        }


def _checked(path: Path, model: bytes | None) -> bytes:
    """The bytes of an ONNX file that is safe to hand to a runtime."""
    try:
        model = read_model(str(path)) if model is None else model
        check_model(model)
    except OSError as problem:
        raise UntrustedError(
            "the model file cannot be read", code="U60", where={"file": path}, why=str(problem)
        ) from None
    except BadModel as problem:
        raise UntrustedError(
            problem.what,
            code=problem.code,
            where={"file": path},
            why=str(problem),
            fix="export the model again with edgewise; do not run this file",
        ) from None
    return model


class OrtRuntime:
    """Runs `.onnx` files; see `edgewise.device.base.Runtime`."""

    format = "onnx"
    module = "onnxruntime"
    install = "pip install onnxruntime"
    example = """
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(None, {session.get_inputs()[0].name: image})[0]
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open an ONNX file that holds all its weights.

        The file is checked before the runtime sees it (`edgewise.device.onnxfile`), which gets it as bytes: nothing
        outside it is ever opened.
        """
        return OrtSession(path, threads)

    def version(self) -> str | None:
        """The installed onnxruntime, found without importing it."""
        return installed("onnxruntime")
