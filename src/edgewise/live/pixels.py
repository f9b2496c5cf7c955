"""What a camera hands over, as uint8 (height, width, 3) RGB, or an error that says what came."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.errors import UnavailableError


def to_rgb(frame: NDArray[Any], name: str, order: Literal["RGB", "BGR"]) -> Pixels:
    """A picture of a driver as RGB.

    Args:
        frame: uint8 (height, width), (height, width, 1), (height, width, 3) or (height, width, 4) in `order`.
        name: of the source, for the error.
        order: of the first three channels.

    Raises:
        UnavailableError: L08, anything else: raw YUV, compressed bytes, 16 bits.
    """
    shape = frame.shape
    if frame.dtype == np.uint8 and frame.size and min(shape[:2], default=0) > 1:
        if len(shape) == 2 or shape[2:] == (1,):
            return np.repeat(frame.reshape(*shape[:2], 1), 3, axis=2)
        if shape[2:] in ((3,), (4,)):
            return np.ascontiguousarray(frame[..., :3] if order == "RGB" else _reversed(frame))
    raise UnavailableError(
        f"{name} gives another pixel format",
        code="L08",
        why=f"an array {shape} of {frame.dtype}; uint8 (height, width, 3) is needed",
        fix="`v4l2-ctl --list-formats-ext` shows its formats; take a size that has MJPG or YUYV: --camera 640x480",
    )


def _reversed(frame: NDArray[Any]) -> NDArray[Any]:
    try:
        import cv2  # ten times as fast as turning the axis round
    except ImportError:
        return frame[..., 2::-1]
    turned: NDArray[Any] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB if frame.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    return turned
