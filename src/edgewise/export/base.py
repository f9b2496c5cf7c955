"""What an exporter must offer."""

from __future__ import annotations

import importlib.util
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
class ExportSpec:
    """What to write.

    precision: one of the exporter's `precisions`.
    scheme: for int8, one of the exporter's `schemes`.
    calibration: for int8, uint8 (N, height, width, channels) training images that set the ranges.
    workspace: a folder that belongs to this model, where an exporter may keep what its next call can use (the float
        file, the calibrated ranges).
    opset: of ONNX files; other formats have none.
    """

    precision: str
    workspace: Path
    scheme: str = ""
    calibration: Pixels | None = None
    opset: int = OPSET


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
