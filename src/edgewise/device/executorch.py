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


class _Pool:
    """ExecuTorch's one pool of threads for the whole process.

    A loaded file keeps the pool of its time and crashes the process when it runs after another was made, so sessions
    ask for the number of the pool and open their file again when it has changed.
    """

    def __init__(self) -> None:
        self._number = 0

    def of(self, threads: int, library: Any) -> int:
        """The number of a pool of so many threads: the present one, or one that is made now."""
        if library._threadpool_get_thread_count() != threads:
            library._unsafe_reset_threadpool(threads)
            self._number += 1
        return self._number


_POOL = _Pool()


class ExecuTorchSession:
    """One .pte file; it was written for one image at a time, so a batch goes through it image by image."""

    def __init__(self, sealed: Sealed, threads: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._torch: Any = importlib.import_module("torch")
                self._library: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
        except ImportError as problem:
            raise not_importable("executorch", "E85", problem, ExecuTorchRuntime.install) from problem
        self._sealed = sealed
        self._threads = threads
        self._open()

    def _open(self) -> None:
        self._pool = _POOL.of(self._threads, self._library)
        try:
            self._module: Any = self._library._load_for_executorch_from_buffer(self._sealed.content)
            self._module.method_meta("forward")
        except RuntimeError as problem:
            why = str(problem).splitlines()[0]
            fix = "export the model again; it may need a newer executorch"
            raise refused("ExecuTorch", self._sealed.path, why, fix) from problem

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes) of uint8 pixels (N, height, width, channels).

        Raises:
            ValueError: the pixels are not as the model wants them.
        """
        self._sealed.check(batch)
        if _POOL.of(self._threads, self._library) != self._pool:
            self._open()
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
