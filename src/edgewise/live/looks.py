"""Which pictures of a stream are new: those that look like none of the pictures kept so far.

The look of a picture is 16 x 16 gray levels. Two are alike when one explains the other, up to brightness and contrast,
but for a few gray levels, as the near copies of `edgewise data check` are. A stream that stands still, or that comes
back to what it showed before, gives one picture and not thousands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.device.preprocess import prepare

SIDE = 16
"""Side of a look in pixels."""

DIFFERENCE = 3.0
"""Gray levels, root mean square, that have to be left unexplained for a picture to be new; noise leaves less than 1."""

REMEMBERED = 4096
"""Looks that are kept, 4 MB; the oldest are forgotten."""

_FLAT = 1.0
"""Contrast in gray levels below which a look counts as blank."""


class Looks:
    """The looks of the pictures kept so far."""

    def __init__(self, difference: float = DIFFERENCE) -> None:
        """`difference` 0 takes every picture for new."""
        self._difference = difference
        self._units = np.zeros((0, SIDE * SIDE), np.float32)
        self._contrasts = np.zeros(0, np.float32)

    def is_new(self, pixels: Pixels) -> bool:
        """Whether a picture, uint8 (height, width, 3), is unlike all that are remembered; does not remember it."""
        if not len(self._units) or self._difference <= 0:
            return True
        unit, contrast = _look(pixels)
        if contrast < _FLAT:
            return bool((self._contrasts >= _FLAT).all())
        correlation = np.clip(self._units @ unit, -1, 1)
        most = np.maximum(self._contrasts, contrast)
        left = most * np.sqrt(1 - correlation**2)
        uneven = most > 2 * np.minimum(self._contrasts, contrast)  # a picture in fog is not the picture
        alike = (left <= self._difference) & (correlation > 0) & ~uneven
        return not alike.any()

    def remember(self, pixels: Pixels) -> None:
        """Take a picture into account from now on."""
        unit, contrast = _look(pixels)
        self._units = np.concatenate([self._units, unit[None]])[-REMEMBERED:]
        self._contrasts = np.append(self._contrasts, np.float32(contrast))[-REMEMBERED:]


def _look(pixels: Pixels) -> tuple[NDArray[np.float32], float]:
    """A look of mean 0 and length 1, float32 (256,), and its standard deviation in gray levels."""
    gray = prepare(pixels, SIDE, SIDE, 1).astype(np.float32).reshape(-1)
    gray -= gray.mean()
    length = float(np.linalg.norm(gray))
    return gray / max(length, 1e-6), length / SIDE
