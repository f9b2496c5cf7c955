"""What a runtime must offer, so that measuring, verifying and live use never ask which one it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""uint8, (N, height, width, channels), RGB or gray, 0..255: the input of every model file."""

Scores = NDArray[np.float32]
"""float32, (N, classes): logits, before softmax."""


class Session(Protocol):
    """A loaded model."""

    def scores(self, batch: Pixels) -> Scores:
        """Logits for a batch; the batch is not changed."""
        ...

    def describe(self) -> dict[str, str]:
        """Facts that must stand beside any figure: runtime name and version, provider, threads."""
        ...


class Runtime(Protocol):
    """A way to run model files of one format."""

    format: str
    """The bundle format it runs, e.g. "onnx"."""
    module: str
    """The Python module that `load` imports."""
    install: str
    """The command that installs it."""
    example: str
    """Python lines that open the model file of a bundle and make `logits` of `image`, which is uint8
    (1, height, width, channels), with nothing of edgewise; they stand in the bundle's README."""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Open a model file for single-stream use on `threads` threads.

        Raises:
            UnavailableError: the runtime's package is missing or does not work here.
            UntrustedError: the file is damaged or not of this format.
        """
        ...

    def version(self) -> str | None:
        """The installed version of the runtime's package, None when it is missing. Must not import it."""
        ...
