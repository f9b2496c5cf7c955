"""What runs on a board: preprocessing, runtimes, the runner. No torch here, directly or indirectly."""

from __future__ import annotations

from edgewise.device.base import Pixels, Runtime, Scores, Session
from edgewise.device.openvino import OpenVinoRuntime
from edgewise.device.ort import OrtRuntime
from edgewise.device.packed_ort import PackedRuntime

RUNTIMES: dict[str, Runtime] = {
    "onnx": OrtRuntime(),
    "packed": PackedRuntime(),
    "openvino": OpenVinoRuntime(),
}
"""Bundle format -> what runs it. A new runtime is its own file and one line here."""

__all__ = ["RUNTIMES", "Pixels", "Runtime", "Scores", "Session"]
