"""ncnn files through pnnx: fp32, fp16 (weights stored in 16 bits) and int8 (see `ncnn_int8`).

The graph takes float pixels 0..255 as `ncnn::Mat::from_pixels` makes them; its first layer normalises.
"""

from __future__ import annotations

import importlib.util
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise import runs
from edgewise.device.ncnn import WEIGHTS
from edgewise.device.seal import seal, sidecar
from edgewise.errors import ExportError, UnavailableError
from edgewise.export.base import ExportSpec
from edgewise.export.child import run_child
from edgewise.export.facts import facts_of
from edgewise.export.program import calibration_of, save_traced

if TYPE_CHECKING:
    from edgewise.models import Model

INSTALL = 'pip install "edgewise[to-ncnn]"'


class NcnnExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".param"
    sidecars: tuple[str, ...] = (WEIGHTS,)
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    schemes: tuple[str, ...] = ("s8",)

    def missing(self, precision: str = "") -> str:  # noqa: ARG002 - all need the same
        """The install line when pnnx or ncnn is not there."""
        return "" if all(importlib.util.find_spec(name) for name in ("pnnx", "ncnn")) else INSTALL

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Convert once per workspace and width of the weights; int8 is made from the fp32 files."""
        images = calibration_of(spec) if spec.precision == "int8" else None
        half = spec.precision == "fp16"
        kept = spec.workspace / ("half.param" if half else "float.param")
        if not kept.exists():
            _convert(model, kept, half)
        structure, weights = kept.read_bytes(), sidecar(kept, WEIGHTS).read_bytes()
        if images is not None:
            from edgewise.export.ncnn_int8 import quantize

            structure, weights = quantize(structure.decode(), weights, images)
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(sidecar(path, WEIGHTS), weights)
        facts = facts_of(model, "ncnn", spec.precision)
        runs.write_bytes(path, seal(structure, {WEIGHTS: weights}, facts))


def _convert(model: Model, target: Path, half: bool) -> None:
    """Trace the model, let pnnx translate it, and keep the pair of files."""
    program = _pnnx()
    spec = model.input
    with tempfile.TemporaryDirectory(prefix="edgewise-pnnx-") as name:
        folder = Path(name)
        save_traced(model, folder / "m.pt")
        shape = f"inputshape=[1,{spec.channels},{spec.height},{spec.width}]f32"
        said = run_child([str(program), "m.pt", shape, f"fp16={int(half)}"], folder, converter="pnnx")
        structure = (folder / "m.ncnn.param").read_text(encoding="ascii")
        _check(structure, said, model)
        target.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(sidecar(target, WEIGHTS), (folder / "m.ncnn.bin").read_bytes())
        runs.write_text(target, structure)


def _check(structure: str, said: str, model: Model) -> None:
    """pnnx ends well also where it leaves an operator untranslated: its name then has a dot or is one of its own."""
    foreign = sorted({line.split()[0] for line in structure.splitlines()[2:] if "." in line.split()[0]})
    foreign += sorted({line.split()[0] for line in structure.splitlines()[2:] if line.startswith(("aten::", "pnnx"))})
    if foreign:
        raise ExportError(
            "ncnn has no layer for part of this model",
            code="X23",
            where={"model": model.architecture, "layers": ", ".join(foreign)},
            why="\n".join(line for line in said.splitlines() if "not supported" in line or "ignore" in line),
            fix="choose another format; docs/formats.md lists what was tried",
        )


def _pnnx() -> Path:
    """The pnnx program, which its wheel brings along; importing the package is not needed and would import torch."""
    found = importlib.util.find_spec("pnnx")
    program = Path(found.origin).with_name("pnnx") if found and found.origin else None
    if program is None or not program.exists():
        raise UnavailableError("pnnx is not installed; it writes ncnn files", code="E86", fix=INSTALL)
    if not program.stat().st_mode & stat.S_IXUSR:
        raise UnavailableError(
            "pnnx may not be executed here", code="E86", where={"file": program}, fix=f"chmod +x {program}"
        )
    return program
