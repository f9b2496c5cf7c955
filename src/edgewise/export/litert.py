"""LiteRT files (.tflite): fp32 and int8, written by litert-torch and ai-edge-quantizer in their own toolchain."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise import runs
from edgewise.device.seal import seal
from edgewise.export import toolchain
from edgewise.export.base import ExportSpec
from edgewise.export.child import SECONDS
from edgewise.export.facts import facts_of
from edgewise.export.program import calibration_of, save_calibration, save_exported

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

    def missing(self, precision: str = "") -> str:  # noqa: ARG002 - all need the same
        """The command that makes the toolchain ready."""
        return toolchain.missing(TOOLCHAIN)

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Convert once per workspace; int8 is made from the fp32 file."""
        if spec.precision == "int8":
            calibration_of(spec)  # both are told before the long part
        toolchain.require(TOOLCHAIN)
        named, plain = (spec.workspace / name for name in ("named.tflite", "float.tflite"))
        if not (named.exists() and plain.exists()):
            _write_float(model, named, plain)
        with tempfile.TemporaryDirectory(prefix="edgewise-litert-") as name:
            written = plain
            if spec.precision == "int8":
                folder = Path(name)
                written = folder / "int8.tflite"
                save_calibration(spec, folder / "calibration.npy")
                words = ["int8", str(named.absolute()), "calibration.npy", written.name]
                toolchain.run(TOOLCHAIN, _CHILD, words, folder, SECONDS)
            content = written.read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(path, seal(content, {}, facts_of(model, "litert", spec.precision)))


def _write_float(model: Model, named: Path, plain: Path) -> None:
    """Export the model with torch.export and let the toolchain translate it, with and without the layers' names."""
    with tempfile.TemporaryDirectory(prefix="edgewise-litert-") as name:
        folder = Path(name)
        save_exported(model, folder / "net.pt2")
        toolchain.run(TOOLCHAIN, _CHILD, ["float", "net.pt2", named.name, plain.name], folder, SECONDS)
        named.parent.mkdir(parents=True, exist_ok=True)
        for target in (named, plain):
            runs.write_bytes(target, (folder / target.name).read_bytes())
