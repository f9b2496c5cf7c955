"""Packed models on ONNX Runtime: unpacked in memory, then opened as the ONNX file they are."""

from __future__ import annotations

from pathlib import Path

from edgewise.device.base import Session
from edgewise.device.ort import OrtRuntime, OrtSession
from edgewise.device.packed import BadPacked, unpack
from edgewise.errors import UntrustedError


class PackedRuntime:
    """Runs `.packed` files; see `edgewise.device.base.Runtime` and `edgewise.device.packed`."""

    format = "packed"
    module = "onnxruntime"
    install = "pip install onnxruntime"
    example = """
import onnxruntime
from runner import unpacked

model = unpacked(open("model.packed", "rb").read(), "model.packed")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
logits = session.run(None, {session.get_inputs()[0].name: image})[0]
"""

    def load(self, path: Path, threads: int = 1) -> Session:
        """Unpack a model and open it.

        Raises:
            UntrustedError: U53 it cannot be unpacked, U04 what was packed is no model.
        """
        try:
            model = unpack(path.read_bytes())
        except BadPacked as problem:
            raise UntrustedError(
                "this packed model is damaged",
                code="U53",
                where={"file": path},
                why=str(problem),
                fix="copy or export it again; `edgewise verify BUNDLE` tells whether the file was changed",
            ) from problem
        return OrtSession(path, threads, model)

    def version(self) -> str | None:
        """The installed onnxruntime, found without importing it."""
        return OrtRuntime().version()
