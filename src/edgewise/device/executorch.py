"""ExecuTorch on the CPU, with its XNNPACK kernels.

The Python package of ExecuTorch is built on torch and imports it, so the first `load` does: memory and start-up that
are measured here are those of torch. On a device the same file is run by ExecuTorch's C++ or Android library.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels, Scores, Session
from edgewise.device.package import installed, not_importable, refused
from edgewise.device.seal import Sealed, open_sealed


class ExecuTorchSession:
    """One .pte file; it was written for one image at a time, so a batch goes through it image by image.

    ExecuTorch has one pool of threads for the whole process; it is set anew where another session changed it.
    """

    def __init__(self, sealed: Sealed, threads: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._torch: Any = importlib.import_module("torch")
                self._library: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
        except ImportError as problem:
            raise not_importable("executorch", "E85", problem, ExecuTorchRuntime.install) from problem
        try:
            self._module: Any = self._library._load_for_executorch_from_buffer(sealed.content)
            self._module.method_meta("forward")
        except RuntimeError as problem:
            why = str(problem).splitlines()[0]
            fix = "export the model again; it may need a newer executorch"
            raise refused("ExecuTorch", sealed.path, why, fix) from problem
        self._sealed = sealed
        self._threads = threads

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels).

        Raises:
            ValueError: the pixels are not as the model wants them.
        """
        self._sealed.check(batch)
        if self._library._threadpool_get_thread_count() != self._threads:
            self._library._unsafe_reset_threadpool(self._threads)
        scores = np.empty((len(batch), self._sealed.classes), np.float32)
        for row in range(len(batch)):
            image = self._torch.from_numpy(batch[row : row + 1].copy())  # torch wants memory that may be written
            scores[row] = self._module.forward((image,))[0][0].numpy()
        return scores

    def describe(self) -> dict[str, str]:
        """Runtime name, version, provider, threads, and the torch that it is built on."""
        return {
            "runtime": "executorch",
            "version": importlib.metadata.version("executorch"),
            "provider": "XNNPACK",
            "threads": str(self._threads),
            "torch": str(self._torch.__version__),
        }


class ExecuTorchRuntime:
    """Runs `.pte` files; see `edgewise.device.base.Runtime`."""

    format = "executorch"
    module = "executorch"
    install = 'pip install "edgewise[executorch]"'
    example = """
import torch
from executorch.extension.pybindings import portable_lib

module = portable_lib._load_for_executorch("model.pte")
logits = module.forward((torch.from_numpy(image),))[0].numpy()
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open a `.pte` file."""
        return ExecuTorchSession(open_sealed(path, self.format), threads)

    def version(self) -> str | None:
        """The installed executorch, found without importing it."""
        return installed("executorch")
