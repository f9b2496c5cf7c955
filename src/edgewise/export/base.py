"""What an exporter must offer."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgewise.device import Pixels
    from edgewise.models import Model

OPSET = 13
"""The lowest opset with per-channel quantization: read by onnxruntime >= 1.7 and TensorRT >= 8, so old boards too."""


@dataclass(frozen=True)
class Ptq:
    """How an int8 ONNX file is made without training; see `edgewise.export.ptq` for what chooses it.

    method: how ranges are taken from what was seen, a key of `edgewise.compress.ranges.METHODS`. images: how many of
    the calibration images are looked at, 0 for all. equalize: scales of channels are evened out between layers first.
    correct: biases take up the mean shift that rounding the weights brings. floats: nodes that stay float.
    logits: the answer is rounded to 8 bits too, as onnxruntime's quantizer does when it is left to itself.
    """

    method: str = "minmax"
    images: int = 0
    equalize: bool = False
    correct: bool = False
    floats: tuple[str, ...] = ()
    logits: bool = False

    def words(self) -> str:
        """For tables: what differs from smallest to largest values of all images."""
        parts = [] if self.method == "minmax" else [self.method]
        parts += [f"{self.images} images"] if self.images else []
        parts += ["equalized"] * self.equalize + ["bias corrected"] * self.correct + ["8-bit logits"] * self.logits
        parts += [f"in float: {', '.join(self.floats)}"] if self.floats else []
        return "; ".join(parts) or "minmax"

    def slug(self) -> str:
        """A file name for it."""
        told = f"{self.method}-{self.images}-{self.equalize:d}{self.correct:d}{self.logits:d}"
        return told + (f"-{zlib.crc32(repr(self.floats).encode()):08x}" if self.floats else "")


PLAIN = Ptq()


@dataclass(frozen=True)
class ExportSpec:
    """What to write.

    precision: one of the exporter's `precisions`.
    scheme: for int8, one of the exporter's `schemes`.
    calibration: for int8, uint8 (N, height, width, channels) training images that set the ranges.
    workspace: a folder that belongs to this model, where an exporter may keep what its next call can use (the float
        file, the calibrated ranges).
    opset: of ONNX files; other formats have none.
    ptq: how int8 ONNX files are made; other formats have ways of their own.
    """

    precision: str
    workspace: Path
    scheme: str = ""
    calibration: Pixels | None = None
    opset: int = OPSET
    ptq: Ptq = PLAIN


class Exporter(Protocol):
    """Writes models in one format."""

    suffix: str
    """Ending of the model file, with its dot; the runtime opens this one."""
    sidecars: tuple[str, ...]
    """Endings of further files of the same name that belong to the model (weights beside a structure); usually none."""
    precisions: tuple[str, ...]
    """The precisions it can write, out of fp32, fp16 and int8; fp32 first."""
    schemes: tuple[str, ...]
    """The int8 schemes it knows, in the order they are tried."""

    def missing(self, precision: str = "") -> str:
        """The command that installs what this exporter lacks here for a precision, or, with "", for any of its own.

        "" when it lacks nothing. Imports nothing heavy.
        """
        ...

    def can_export(self, model: Model) -> list[str]:
        """Reasons why this model cannot be written here; empty when it can."""
        ...

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Write the model to `path` (and its sidecars beside it).

        Run by the runtime of this format it takes uint8 (N, height, width, channels) pixels, 0..255, and gives float32
        (N, classes) logits; normalisation is part of what is written.

        Raises:
            ExportError: it cannot be written.
        """
        ...


def sidecars_of(exporter: Exporter, path: Path) -> list[Path]:
    """The further files of a model whose main file is `path`."""
    stem = path.name.removesuffix(exporter.suffix)
    return [path.with_name(stem + ending) for ending in exporter.sidecars]


def missing_modules(names: Sequence[str], install: str) -> str:
    """`install` when one of these modules cannot be found, else ""; imports none of them."""
    return "" if all(importlib.util.find_spec(name) for name in names) else install
