"""Export: from a torch model to a file that a device runs, checked against the model after it is written."""

from __future__ import annotations

from edgewise.export.base import Exporter, ExportSpec
from edgewise.export.onnx import OnnxExporter
from edgewise.export.openvino import OpenVinoExporter
from edgewise.export.packed import PackedExporter

FORMATS: dict[str, Exporter] = {
    "onnx": OnnxExporter(),
    "packed": PackedExporter(),
    "openvino": OpenVinoExporter(),
}
"""Bundle format -> what writes it. A new format is its own file and one line here."""

__all__ = ["FORMATS", "ExportSpec", "Exporter"]
