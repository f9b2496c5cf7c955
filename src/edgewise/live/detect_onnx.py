"""Detectors that come as an ONNX file, run by onnxruntime. The file must have this layout; nothing is guessed.

Input, one of

- uint8 (1, height, width, 3): RGB, 0..255;
- float32 (1, 3, height, width): RGB, (pixel - 127) / 128.

Height and width are fixed numbers; the frame is squashed to them (area-aware bilinear).

Outputs, in this order or named `scores` and `boxes`:

- scores float32 (1, N, 2): background and thing, 0..1; or (1, N): thing;
- boxes float32 (1, N, 4): left, top, right, bottom as shares of width and height, 0..1, decoded in the graph.

That is the layout of the *Ultra-Light-Fast-Generic-Face-Detector-1MB* (version-RFB-320.onnx). Boxes below `SURE` are
left out, and of boxes that overlap by more than `OVERLAP` (IoU) the surest stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.device.onnxfile import FLOAT, UINT8, check_any_model
from edgewise.device.preprocess import prepare
from edgewise.errors import UnavailableError, UntrustedError
from edgewise.live.base import Box
from edgewise.live.boxes import iou

SURE = 0.7
OVERLAP = 0.3


class OnnxDetector:
    """An ONNX file as `edgewise.live.base.Detector`.

    Raises:
        UntrustedError: L13, the layout is another one.
        UnavailableError: E10, onnxruntime is missing.
    """

    def __init__(self, name: str, model: bytes, file: str) -> None:
        self.name = name
        facts = check_any_model(model)
        self._input, self._kind, self._size = _input(facts["inputs"], file)
        self._order = _outputs(facts["outputs"], file)
        try:
            import onnxruntime as ort
        except ImportError as problem:
            raise UnavailableError(
                "onnxruntime cannot be imported", code="E10", why=str(problem), fix="pip install onnxruntime"
            ) from problem
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # noqa: BLE001 - the runtime's errors share no other base class
            raise refused(file, str(problem).splitlines()[0]) from None

    def find(self, pixels: Pixels) -> list[Box]:
        """Boxes, the surest first."""
        height, width = self._size
        picture = prepare(pixels, height, width, 3)[np.newaxis]
        if self._kind == FLOAT:
            picture = ((picture.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
        scores, boxes = self._session.run(list(self._order), {self._input: np.ascontiguousarray(picture)})
        return decode(scores, boxes, pixels.shape[1], pixels.shape[0])


def decode(scores: NDArray[np.float32], boxes: NDArray[np.float32], width: int, height: int) -> list[Box]:
    """Boxes in pixels of a frame from the two outputs, the surest first, each thing once."""
    sure = scores[0, :, -1] if scores.ndim == 3 else scores[0]
    found: list[Box] = []
    for at in np.argsort(-sure, kind="stable"):
        if not sure[at] >= SURE:  # also where it is not a number
            break
        left, top, right, bottom = (float(value) for value in np.clip(boxes[0, at], 0, 1))
        box = Box(left * width, top * height, (right - left) * width, (bottom - top) * height, float(sure[at]))
        if box.width > 0 and box.height > 0 and all(iou(box, other) <= OVERLAP for other in found):
            found.append(box)
    return found


def refused(file: str, why: str) -> UntrustedError:
    """The error of a file with another layout."""
    return UntrustedError(
        "not a detector of the documented layout",
        code="L13",
        where={"file": file},
        why=why,
        fix="see docs/live.md#detectors for the inputs and outputs; YuNet is --detector yunet:FILE",
    )


def _input(inputs: list[Any], file: str) -> tuple[str, int, tuple[int, int]]:
    if len(inputs) != 1:
        raise refused(file, f"{len(inputs)} inputs instead of one")
    name, kind, shape = inputs[0]
    sides = shape[1:3] if kind == UINT8 else shape[2:]
    channels = shape[3:] if kind == UINT8 else shape[1:2]
    if kind not in (UINT8, FLOAT) or len(shape) != 4 or channels != [3] or None in sides or min(sides) < 8:
        raise refused(file, f"the input has type {kind} and shape {shape}")
    return name, kind, (sides[0], sides[1])


def _outputs(outputs: list[Any], file: str) -> tuple[str, str]:
    by_name = {name: shape for name, _, shape in outputs}
    names = [name for name, _, _ in outputs]
    order = ("scores", "boxes") if {"scores", "boxes"} <= set(names) else tuple(names[:2])
    if len(order) != 2 or any(kind != FLOAT for name, kind, _ in outputs if name in order):
        raise refused(file, f"the outputs are {', '.join(names) or 'none'}")
    scores, boxes = (by_name[name] for name in order)
    if len(boxes) != 3 or boxes[2] != 4 or len(scores) not in (2, 3) or (len(scores) == 3 and scores[2] != 2):
        raise refused(file, f"scores have shape {scores}, boxes have shape {boxes}")
    return order[0], order[1]
