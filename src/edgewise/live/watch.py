"""Frames that come and say nothing: black ones, and the same one again and again."""

from __future__ import annotations

from edgewise.device import Pixels
from edgewise.live.base import Frame

BLACK = 16
"""No pixel of a black frame is brighter. A covered sensor has noise of a few levels."""
STRIDE = 8


class Watch:
    """Looks at the frames of a camera. A working sensor has noise: two frames of it are never alike in every pixel.

    Args:
        seconds: for which frames must be black or alike before that is said.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._last: Pixels | None = None
        self._alike_since: float | None = None
        self._black_since: float | None = None

    def see(self, frame: Frame) -> str:
        """What is wrong with the frames, "" while nothing is."""
        pixels, now = frame.pixels, frame.taken
        alike = self._last is not None and _alike(pixels, self._last)
        black = int(pixels[::STRIDE, ::STRIDE].max()) <= BLACK and int(pixels.max()) <= BLACK
        self._last = pixels
        self._alike_since = _since(self._alike_since, alike, now)
        self._black_since = _since(self._black_since, black, now)
        for since, words in (
            (self._black_since, "black frames for {:.0f} s: is the lens covered?"),
            (self._alike_since, "the same frame for {:.0f} s: the camera has frozen"),
        ):
            if since is not None and now - since >= self._seconds:
                return words.format(now - since)
        return ""


def _alike(one: Pixels, other: Pixels) -> bool:
    """Whether all pixels are alike; most frames differ in the first few that are looked at."""
    few = (slice(None, None, STRIDE), slice(None, None, STRIDE))
    return one.shape == other.shape and bool((one[few] == other[few]).all()) and bool((one == other).all())


def _since(start: float | None, holds: bool, now: float) -> float | None:
    if not holds:
        return None
    return now if start is None else start
