"""A test video: one real photograph of a face, moved, scaled and lit differently from frame to frame.

The same frames come out wherever it is made; see `benchmarks.live` and `benchmarks.live_video`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.device import Pixels
from edgewise.live.base import Box

FRAMES = 300
SIZE = (640, 480)
FACE = (0.34, 0.13, 0.2)
"""Left, top and side of the face in scikit-image's astronaut.png, as shares of its side."""
NOISE = 2.0
"""Standard deviation of the sensor noise, in levels."""
FULL, DIM = 1.0, 0.45
"""The two levels of light; the light is switched each `SWITCH` frames, and takes `FADE` frames to change."""
SWITCH, FADE = 60, 2


@dataclass(frozen=True)
class Pose:
    """Where the photograph lies in a frame: its left upper corner and its side in pixels; `light` is a factor."""

    left: float
    top: float
    side: float
    light: float


def pose(number: int, size: tuple[int, int] = SIZE) -> Pose:
    """Of frame `number`: two slow circles at once, a change of size by a third, light and dark in turns."""
    turn = 2 * math.pi * number / FRAMES
    side = size[1] * (1.0 + 0.17 * math.sin(3 * turn))
    left = (size[0] - side) / 2 + 0.16 * size[0] * math.sin(2 * turn)
    top = (size[1] - side) / 2 + 0.12 * size[1] * math.sin(5 * turn) + 0.05 * size[1]
    phase, dark = number % SWITCH, (number // SWITCH) % 2
    share = min(1.0, (phase + 1) / FADE)
    before, now = (FULL, DIM) if dark else (DIM, FULL)
    light = now if number < SWITCH or share == 1 else before + share * (now - before)
    return Pose(left, top, side, light)


def frame(photograph: Image.Image, number: int, size: tuple[int, int] = SIZE) -> Pixels:
    """Frame `number` of the video, uint8 (height, width, 3) RGB."""
    at = pose(number, size)
    scale = photograph.width / at.side
    placed = photograph.transform(
        size,
        Image.Transform.AFFINE,
        (scale, 0.0, -at.left * scale, 0.0, scale, -at.top * scale),
        Image.Resampling.BILINEAR,
        fillcolor=(96, 104, 112),
    )
    noise: NDArray[np.float32] = np.random.default_rng(number).standard_normal((size[1], size[0], 1), np.float32)
    lit = np.asarray(placed, np.float32) * np.float32(at.light) + noise * np.float32(NOISE)
    return np.clip(lit, 0, 255).astype(np.uint8)


def face(number: int, size: tuple[int, int] = SIZE) -> Box:
    """Where the face is in frame `number`: what a cascade frames of it, by eye in the photograph."""
    at = pose(number, size)
    left, top, side = (value * at.side for value in FACE)
    return Box(at.left + left, at.top + top, side, side)


def frames(photograph: Image.Image, count: int = FRAMES, start: int = 0) -> Iterator[Pixels]:
    """`count` frames from `start` on."""
    picture = photograph.convert("RGB")
    return (frame(picture, number) for number in range(start, start + count))
