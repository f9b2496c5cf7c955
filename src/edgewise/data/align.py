"""How well one thumbnail explains another when it may be moved and scaled a little, as a small crop is.

For each pair the shift and the scale of both axes are fitted by Gauss-Newton steps on the squared difference, with
brightness and contrast free (Lucas and Kanade, "An iterative image registration technique", 1981). Thumbnails are
smoothed first, so that the first-order steps hold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 3.0
"""Pixels of 32 by which a side may move: a crop of up to 9 % on each side."""

ROUGH = 8.0
"""Pairs that leave more gray levels than this after one step are given up; it saves most of the work."""

_STEPS = 3
_PAIRS = 2048

Floats = NDArray[np.float32]


def aligned(ones: NDArray[np.uint8], others: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """What remains of the difference of two thumbnails at the best alignment of either onto the other.

    Args:
        ones: uint8 (pairs, 32, 32).
        others: uint8 (pairs, 32, 32).

    Returns:
        float32 (pairs,): root mean square of what is left unexplained, in gray levels; and the correlation.
    """
    left, correlation = np.empty(len(ones), np.float32), np.empty(len(ones), np.float32)
    for start in range(0, len(ones), _PAIRS):
        rows = slice(start, start + _PAIRS)
        one, other = _smooth(ones[rows]), _smooth(others[rows])
        left[rows], correlation[rows] = _either_way(one, other, 1)
        close = start + np.flatnonzero(left[rows] <= ROUGH)
        left[close], correlation[close] = _either_way(one[close - start], other[close - start], _STEPS)
    return left, correlation


def _either_way(one: Floats, other: Floats, steps: int) -> tuple[Floats, Floats]:
    """The better way counts: the whole explains all of its crop, a crop cannot explain the border of the whole."""
    (left_a, correlation_a), (left_b, correlation_b) = _explain(one, other, steps), _explain(other, one, steps)
    better = left_a <= left_b
    return np.where(better, left_a, left_b), np.where(better, correlation_a, correlation_b)


def _smooth(looks: NDArray[np.uint8]) -> Floats:
    from scipy.ndimage import gaussian_filter

    smoothed: Floats = gaussian_filter(looks.astype(np.float32), (0, 1, 1))
    return smoothed


def _explain(source: Floats, target: Floats, steps: int) -> tuple[Floats, Floats]:
    """How well `source`, moved and scaled, gives `target`: (left over, correlation)."""
    side = np.arange(3, 29, 2, dtype=np.float32)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side))
    from_middle_x, from_middle_y = (x - 15.5) / 15.5, (y - 15.5) / 15.5
    wanted = target[:, y.astype(int), x.astype(int)]
    wanted_spread = np.sqrt((_centred(wanted) ** 2).mean(axis=1))
    moves = np.zeros((len(source), 4), np.float32)  # shift in x, shift in y, scale in x, scale in y
    best = np.full(len(source), np.inf, np.float32)
    best_correlation = np.zeros(len(source), np.float32)
    for step in range(steps + 1):
        at_x = x + moves[:, 0:1] + moves[:, 2:3] * from_middle_x
        at_y = y + moves[:, 1:2] + moves[:, 3:4] * from_middle_y
        seen = _sample(source, at_x, at_y)
        centred = _centred(seen)
        spread = np.sqrt((centred**2).mean(axis=1))
        correlation = (centred * _centred(wanted)).mean(axis=1) / np.maximum(spread * wanted_spread, 1e-6)
        # The larger contrast of the two counts, or a faint image would explain any other.
        left = np.maximum(spread, wanted_spread) * np.sqrt(np.maximum(1 - correlation**2, 0))
        closer = (left < best) & (correlation > 0)
        best, best_correlation = np.where(closer, left, best), np.where(closer, correlation, best_correlation)
        if step < steps:
            slope_x = _sample(source, at_x + 0.5, at_y) - _sample(source, at_x - 0.5, at_y)
            slope_y = _sample(source, at_x, at_y + 0.5) - _sample(source, at_x, at_y - 0.5)
            terms = (seen, slope_x, slope_y, slope_x * from_middle_x, slope_y * from_middle_y)
            moves = np.clip(moves + _step(np.stack([np.ones_like(seen), *terms], axis=2), wanted), -MOST, MOST)
    return best, best_correlation


def _step(terms: Floats, wanted: Floats) -> Floats:
    """The move of a least squares fit of first-order terms (pairs, points, 6) to the wanted pixels."""
    across = terms.transpose(0, 2, 1)
    normal = across @ terms + 1e-3 * np.eye(6, dtype=np.float32)
    solved = np.linalg.solve(normal, across @ wanted[:, :, None])[:, :, 0]
    gain = np.maximum(np.abs(solved[:, 1:2]), 0.2)
    step: Floats = np.clip(solved[:, 2:] / gain, -1.5, 1.5).astype(np.float32)
    return step


def _centred(values: Floats) -> Floats:
    centred: Floats = values - values.mean(axis=1, keepdims=True)
    return centred


def _sample(source: Floats, x: Floats, y: Floats) -> Floats:
    """Bilinear samples (pairs, points) of (pairs, 32, 32); places outside are those of the nearest edge."""
    x, y = np.clip(x, 0, 30.999), np.clip(y, 0, 30.999)
    left, top = x.astype(np.int32), y.astype(np.int32)
    part_x, part_y = x - left, y - top
    flat = source.ravel()
    corner = top * 32 + left + np.arange(0, flat.size, 32 * 32, dtype=np.int32)[:, None]
    upper = flat[corner] * (1 - part_x) + flat[corner + 1] * part_x
    lower = flat[corner + 32] * (1 - part_x) + flat[corner + 33] * part_x
    mixed: Floats = upper * (1 - part_y) + lower * part_y
    return mixed
