"""Arithmetic of boxes."""

from __future__ import annotations

from collections.abc import Sequence

from edgewise.live.base import Box


def iou(one: Box, other: Box) -> float:
    """Intersection over union, 0..1."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return min(1.0, both / (one.width * one.height + other.width * other.height - both))


def pair(ones: Sequence[Box], others: Sequence[Box], least: float) -> list[tuple[int, int]]:
    """Pairs (index of one, index of other) of boxes that overlap by at least `least`, the best overlaps first."""
    overlaps = [(iou(one, other), i, j) for i, one in enumerate(ones) for j, other in enumerate(others)]
    pairs: list[tuple[int, int]] = []
    for overlap, i, j in sorted(overlaps, key=lambda row: (-row[0], row[1], row[2])):
        if overlap >= least and all(i != known and j != taken for known, taken in pairs):
            pairs.append((i, j))
    return pairs


def mix(one: Box, other: Box, share: float) -> Box:
    """The box between two: `share` 0 is `one`, 1 is `other`. The score is that of `other`."""
    left, top, width, height = (
        (1 - share) * a + share * b
        for a, b in (
            (one.left, other.left),
            (one.top, other.top),
            (one.width, other.width),
            (one.height, other.height),
        )
    )
    return Box(left, top, width, height, other.score)


def carry(box: Box, before: Box, now: Box) -> Box:
    """`box` as it is after what takes `before` to `now`: scaled by their widths and heights, and moved with them."""
    wide, high = now.width / before.width, now.height / before.height
    return Box(
        now.left + (box.left - before.left) * wide,
        now.top + (box.top - before.top) * high,
        box.width * wide,
        box.height * high,
        box.score,
    )
