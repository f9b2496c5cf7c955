"""ExecuTorch files (.pte) for XNNPACK: fp32 and int8.

The converter runs in a process of its own, although it lives beside edgewise: its imports take seconds and hundreds of
megabytes, and it logs to standard error as it likes.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise import runs
from edgewise.device.seal import seal
from edgewise.errors import UnavailableError
from edgewise.export.base import ExportSpec
from edgewise.export.child import run_child
from edgewise.export.facts import facts_of
from edgewise.export.program import save_calibration, save_exported

if TYPE_CHECKING:
    from edgewise.models import Model

INSTALL = 'pip install "edgewise[host,executorch]"'
_CHILD = Path(__file__).with_name("executorch_child.py")


class ExecuTorchExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".pte"
    sidecars: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "int8")
    schemes: tuple[str, ...] = ("a8w8",)

    def missing(self, precision: str = "") -> str:  # noqa: ARG002 - all need the same
        """The install line when executorch is not there."""
        return "" if importlib.util.find_spec("executorch") else INSTALL

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Convert from torch.export; int8 by quantizing that program, calibrated on the images."""
        if self.missing():
            raise UnavailableError("executorch is not installed; it writes .pte files", code="E86", fix=INSTALL)
        with tempfile.TemporaryDirectory(prefix="edgewise-executorch-") as name:
            folder = Path(name)
            words = ["net.pt2", "net.pte"]
            if spec.precision == "int8":
                save_calibration(spec, folder / "calibration.npy")
                words.append("calibration.npy")
            save_exported(model, folder / "net.pt2")
            run_child([sys.executable, "-I", str(_CHILD), *words], folder, converter="executorch")
            content = (folder / "net.pte").read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(path, seal(content, {}, facts_of(model, "executorch", spec.precision)))
