"""What converters are handed: the model as a file of torch's, and calibration images."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgewise.errors import ExportError
from edgewise.export.base import ExportSpec
from edgewise.export.child import run_child
from edgewise.export.padding import with_fixed_padding

if TYPE_CHECKING:
    from edgewise.device import Pixels
    from edgewise.models import Model

PROGRAM = "net.pt2"
UNTRACEABLE = "untraceable.txt"


def calibration_of(spec: ExportSpec) -> Pixels:
    """The calibration images of an int8 order.

    Raises:
        ExportError: X02, there are none.
    """
    if spec.calibration is None or not len(spec.calibration):
        raise ExportError("int8 needs calibration images", code="X02", fix="give training images")
    return spec.calibration


def save_calibration(spec: ExportSpec, path: Path) -> None:
    """Write the calibration images as a `.npy` file; raises as `calibration_of`."""
    np.save(path, calibration_of(spec), allow_pickle=False)


def save_exported(model: Model, path: Path) -> None:
    """Write the model, from uint8 (1, height, width, channels) to logits, as a torch.export file.

    A process of its own rebuilds the model and traces it: torch.export has crashed in processes where other runtimes
    had worked before, and took the run with it.

    Raises:
        ExportError: X22, torch.export cannot follow the model; X20 or X21, the process failed or took too long.
    """
    from edgewise.models import save_model

    with tempfile.TemporaryDirectory(prefix="edgewise-program-") as name:
        folder = Path(name)
        save_model(model, folder / "model")
        source = str(Path(__file__).parents[2])
        start = (
            f"import sys; sys.path.insert(0, {source!r}); from edgewise.export.program import trace_here; trace_here()"
        )
        run_child([sys.executable, "-I", "-c", start], folder, converter="torch.export")
        untraceable = folder / UNTRACEABLE
        if untraceable.exists():
            raise _untraceable(model, untraceable.read_text(encoding="utf-8"))
        path.write_bytes((folder / PROGRAM).read_bytes())


def trace_here() -> None:
    """What the process of `save_exported` does in its working folder: `model` in; `net.pt2`, or the reason, out."""
    from edgewise.models import open_model

    model = open_model(Path("model"))
    try:
        trace(model, Path(PROGRAM))
    except ExportError as problem:
        Path(UNTRACEABLE).write_text(problem.why, encoding="utf-8")


def trace(model: Model, path: Path) -> None:
    """As `save_exported`, in this process. Raises ExportError (X22)."""
    import torch

    from edgewise.export.onnx import deployed

    example = torch.zeros((1, *model.input.shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.export.save(torch.export.export(deployed(model).eval(), (example,)), path)
        except (RuntimeError, TypeError, ValueError) as problem:
            raise _untraceable(model, _reason(problem)) from problem


def save_traced(model: Model, path: Path) -> None:
    """Write the model, from float pixels 0..255 (1, channels, height, width) to logits, as a TorchScript file.

    One batch norm in front turns the pixels into what the net was trained on, so that a converter finds a single layer
    there.

    Raises:
        ExportError: X22, the model cannot be traced.
    """
    import torch

    spec = model.input
    front = torch.nn.BatchNorm2d(spec.channels, eps=0.0, affine=False)
    front.running_mean = 255 * torch.tensor(spec.mean)
    front.running_var = (255 * torch.tensor(spec.std)) ** 2
    net = torch.nn.Sequential(front, with_fixed_padding(model)).eval()
    example = torch.zeros((1, spec.channels, spec.height, spec.width))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.jit.trace(net, example).save(str(path))  # type: ignore[no-untyped-call]
        except (RuntimeError, TypeError, ValueError) as problem:
            raise _untraceable(model, _reason(problem)) from problem


def _reason(problem: Exception) -> str:
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


def _untraceable(model: Model, why: str) -> ExportError:
    return ExportError(
        "the model cannot be traced",
        code="X22",
        where={"model": model.architecture},
        why=why,
        fix="choose another model; `edgewise models` lists the ones that are tested",
    )
