"""Where the pixels of an augmented image come from: flips, whole-pixel shifts, rotation and random resized crops.

Flips and shifts copy bytes. Rotation and scaling are one bilinear lookup for everything together, so that an image is
never resampled twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.recipe import AugmentOptions

ASPECT = 4 / 3
"""Largest change of aspect of a random resized crop (Szegedy et al. 2014, arXiv:1409.4842)."""


@dataclass(frozen=True)
class Placement:
    """How each of N images is placed. Coordinates are (x, y) in pixels, counted from the middle of the image.

    An output pixel at `o` shows the source at ``turn @ (window * flip * (o - shift) + corner)``.

    flip: float64 (N, 2), -1 where the axis is mirrored, else 1.
    shift: int64 (N, 2), whole pixels by which the image is moved.
    window: float64 (N, 2), sides of the cut-out rectangle as shares of the image.
    corner: float64 (N, 2), middle of the cut-out rectangle.
    angle: float64 (N,), radians, counter-clockwise as seen.
    """

    flip: NDArray[np.float64]
    shift: NDArray[np.int64]
    window: NDArray[np.float64]
    corner: NDArray[np.float64]
    angle: NDArray[np.float64]


def draw_placement(
    options: AugmentOptions, height: int, width: int, count: int, random: np.random.Generator
) -> Placement:
    """Draw where `count` images go."""
    sides = np.array([width, height])
    chance = 0.5 * np.array([options.strength("horizontal_flip"), options.strength("vertical_flip")])
    flip = np.where(random.random((count, 2)) < chance, -1.0, 1.0)
    shift = random.integers(-options.crop, options.crop, (count, 2), endpoint=True)
    reach = np.floor(options.translate * sides).astype(np.int64)
    shift += random.integers(-reach, reach, (count, 2), endpoint=True)
    # The shares multiply to the area; one that exceeds the image is cut to it.
    area = random.uniform(*options.crop_scale, count)
    bend = np.exp(random.uniform(-math.log(ASPECT), math.log(ASPECT), count) * (options.crop_scale[0] < 1) / 2)
    window = np.minimum(np.sqrt(area)[:, None] * np.stack([bend, 1 / bend], axis=1), 1.0)
    corner = random.uniform(-0.5, 0.5, (count, 2)) * (1 - window) * (sides - 1)  # from first to last pixel at most
    most = math.radians(options.strength("rotation"))
    return Placement(flip, shift, window, corner, random.uniform(-most, most, count))


def resamples(options: AugmentOptions) -> bool:
    """Whether pixels come to lie between pixels, so that `warp` is needed and not only `move`."""
    return options.strength("rotation") > 0 or options.crop_scale != (1.0, 1.0)


def move(images: NDArray[np.uint8], placement: Placement) -> NDArray[np.uint8]:
    """Flip and shift images of shape (N, height, width, channels) without touching a value; zeros come in."""
    _, height, width, _ = images.shape
    moved = _flip(_flip(images, placement.flip[:, 0] < 0, axis=2), placement.flip[:, 1] < 0, axis=1)
    if not placement.shift.any():
        return moved
    result = np.zeros_like(moved)
    for target, source, (x, y) in zip(result, moved, placement.shift.tolist(), strict=True):
        rows, columns = _overlap(y, height), _overlap(x, width)
        target[rows[0], columns[0]] = source[rows[1], columns[1]]
    return result


@dataclass(frozen=True)
class Lookup:
    """A placement as torch's lookup wants it: a position is one complex number, x + iy, -1..1 from edge to edge.

    The output pixel in column c and row r of an image shows ``across[:, c] + down[:, r]``.

    across: complex64 (N, 1, width). down: complex64 (N, height, 1).
    """

    across: torch.Tensor
    down: torch.Tensor


def lookup(placement: Placement, height: int, width: int) -> Lookup:
    """The positions of `placement` for images of height x width."""
    scale = placement.window * placement.flip
    start = placement.corner - scale * placement.shift
    sine, cosine = np.sin(placement.angle), np.cos(placement.angle)
    turn = np.array([[cosine, -sine], [sine, cosine]]).transpose(2, 0, 1) * np.array([2 / width, 2 / height])[:, None]
    along_x, along_y = (turn * scale[:, None, :]).transpose(2, 0, 1) @ np.array([1, 1j])
    middle = (turn @ start[:, :, None])[:, :, 0] @ np.array([1, 1j])
    across = along_x[:, None] * _positions(width)
    down = along_y[:, None] * _positions(height) + middle[:, None]
    return Lookup(
        torch.from_numpy(across.astype(np.complex64)[:, None, :]),
        torch.from_numpy(down.astype(np.complex64)[:, :, None]),
    )


def warp(planes: torch.Tensor, positions: Lookup, rows: slice) -> torch.Tensor:
    """Place images with one bilinear lookup; outside is zero.

    Args:
        planes: float32 (n, channels, height, width), in any memory order.
        positions: of N images.
        rows: which of the N these are.
    """
    grid = torch.view_as_real(positions.across[rows] + positions.down[rows])
    return torch.nn.functional.grid_sample(planes, grid, align_corners=False)


def _positions(side: int) -> NDArray[np.float64]:
    return np.arange(side, dtype=np.float64) - (side - 1) / 2


def _flip(images: NDArray[np.uint8], which: NDArray[np.bool_], axis: int) -> NDArray[np.uint8]:
    if not which.any():
        return images
    result = images.copy()
    # torch mirrors channels_last bytes with vector instructions, numpy one by one.
    chosen = torch.from_numpy(images[which]).permute(0, 3, 1, 2)
    result[which] = chosen.flip(axis + 1).permute(0, 2, 3, 1).numpy()
    return result


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Where a line of `side` pixels moved by `shift` lands, and which part of it that is."""
    size = max(0, side - abs(shift))
    return slice(max(shift, 0), max(shift, 0) + size), slice(max(-shift, 0), max(-shift, 0) + size)
