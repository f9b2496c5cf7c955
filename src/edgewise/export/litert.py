"""LiteRT files (.tflite): fp32 and int8, written by litert-torch and ai-edge-quantizer in their own toolchain."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgewise import runs
from edgewise.device.seal import seal
from edgewise.errors import ExportError
from edgewise.export import toolchain
from edgewise.export.base import ExportSpec
from edgewise.export.child import SECONDS
from edgewise.export.facts import facts_of

if TYPE_CHECKING:
    from edgewise.models import Model

TOOLCHAIN = "litert"
_CHILD = Path(__file__).with_name("litert_child.py")


class LiteRtExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".tflite"
    sidecars: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "int8")
    schemes: tuple[str, ...] = ("a8w8",)

    def missing(self) -> str:
        """The command that makes the toolchain ready."""
        return toolchain.missing(TOOLCHAIN)

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Convert once per workspace; int8 is made from the fp32 file."""
        if spec.precision == "int8" and (spec.calibration is None or not len(spec.calibration)):
            raise ExportError("int8 needs calibration images", code="X02", fix="give training images")
        floating = spec.workspace / "float.tflite"
        if not floating.exists():
            _write_float(model, floating)
        content = floating.read_bytes()
        if spec.precision == "int8":
            with tempfile.TemporaryDirectory(prefix="edgewise-litert-") as name:
                folder = Path(name)
                np.save(folder / "calibration.npy", spec.calibration)
                words = ["int8", str(floating.absolute()), "calibration.npy", "int8.tflite"]
                toolchain.run(TOOLCHAIN, _CHILD, words, folder, SECONDS)
                content = (folder / "int8.tflite").read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(path, seal(content, {}, facts_of(model, "litert", spec.precision)))


def _write_float(model: Model, target: Path) -> None:
    """Export the model with torch.export and let the toolchain translate it."""
    with tempfile.TemporaryDirectory(prefix="edgewise-litert-") as name:
        folder = Path(name)
        save_program(model, folder / "net.pt2")
        toolchain.run(TOOLCHAIN, _CHILD, ["float", "net.pt2", "net.tflite"], folder, SECONDS)
        target.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(target, (folder / "net.tflite").read_bytes())


def save_program(model: Model, path: Path) -> None:
    """Write the deployed model, uint8 (1, height, width, channels) to logits, as a torch.export file.

    Raises:
        ExportError: X22, torch.export cannot follow the model.
    """
    import torch

    from edgewise.export.onnx import deployed

    example = torch.zeros((1, *model.input.shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.export.save(torch.export.export(deployed(model).eval(), (example,)), path)
        except (RuntimeError, TypeError, ValueError) as problem:
            raise ExportError(
                "the model cannot be traced",
                code="X22",
                where={"model": model.architecture},
                why=str(problem).splitlines()[0] if str(problem) else type(problem).__name__,
                fix="choose another model; `edgewise models` lists the ones that are tested",
            ) from problem
