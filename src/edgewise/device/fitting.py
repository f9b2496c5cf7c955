"""Scaling a picture to the size that a model sees.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

from typing import Any, Tuple

import numpy as np

from edgewise.device.decode import MAX_PIXELS
from edgewise.device.preprocess import RESAMPLE, size_of


def fit_image(image: Any, height: int, width: int, fit: str = "squash", interpolation: str = "bilinear") -> Any:
    """Scale an RGB or gray image to height x width as ``fit`` says; see the top of `preprocess`.

    Args:
        image: of another size: a ``PIL.Image``, RGB or L, or a uint8 array, (height, width) or (height, width, 3).

    Returns:
        uint8 (height, width) or (height, width, 3).
    """
    have_width, have_height = size_of(image)
    whole = (0.0, 0.0, float(have_width), float(have_height))
    if fit == "squash":
        return np.asarray(_scale(image, height, width, interpolation, whole))
    if fit == "crop":
        left = max(0.0, (have_width - have_height * width / height) / 2)
        top = max(0.0, (have_height - have_width * height / width) / 2)
        box = (left, top, have_width - left, have_height - top)
        return np.asarray(_scale(image, height, width, interpolation, box))
    scale = min(width / have_width, height / have_height)
    new_width = max(1, round(have_width * scale))
    new_height = max(1, round(have_height * scale))
    inner = np.asarray(_scale(image, new_height, new_width, interpolation, whole))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    padded = np.zeros((height, width, *inner.shape[2:]), np.uint8)
    padded[top : top + new_height, left : left + new_width] = inner
    return padded


def _scale(image: Any, height: int, width: int, interpolation: str, box: Tuple[float, float, float, float]) -> Any:
    """Scale the part of an image in `box` (left, top, right, bottom), the width first.

    Pillow from version 13 on takes the height first where that is faster, which rounds to other pixels; asking for one
    direction at a time gives every version the same ones. Only tall slivers are scaled in height first, because the
    other way round they would blow up.
    """
    if interpolation == "nearest":
        return _resize(image, height, width, interpolation, box)
    left, top, right, bottom = box
    columns, rows = size_of(image)
    if width * rows > MAX_PIXELS:
        image = _resize(image, height, columns, interpolation, (0, top, columns, bottom))
        return _resize(image, height, width, interpolation, (left, 0, right, height))
    if isinstance(image, np.ndarray):
        return _resize(image, height, width, interpolation, box)
    image = _resize(image, rows, width, interpolation, (left, 0, right, rows))
    return _resize(image, height, width, interpolation, (0, top, width, bottom))


def _resize(image: Any, height: int, width: int, interpolation: str, box: Tuple[float, float, float, float]) -> Any:
    if isinstance(image, np.ndarray):
        from edgewise.device.resample import resample

        return resample(image, height, width, interpolation, box)
    return image.resize((width, height), RESAMPLE[interpolation], box=box)
