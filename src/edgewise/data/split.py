"""Seeded, stratified draws. Pure functions on arrays: the same input gives the same output on every platform."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

TRAIN = 0
"""Column of the training share; validation is 1 and test 2."""


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to `weights`, by the largest remainder (Hamilton's method).

    Each is less than one away from its exact share. Ties go to the earlier weight.

    >>> apportion(10, (0.7, 0.15, 0.15))
    [7, 2, 1]
    """
    scale = total / math.fsum(weights)
    # Rounded, so that 0.15 * 20 and the like do not depend on the last bit.
    exact = [round(weight * scale, 9) for weight in weights]
    whole = [math.floor(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda index: whole[index] - exact[index])
    for index in order[: total - sum(whole)]:
        whole[index] += 1
    return whole


def split_counts(images: int, shares: Sequence[float]) -> list[int]:
    """How many images of one class go to train, val and test: each within one image of its exact share.

    Training comes first: it always gets one. An empty validation or test set then gets one image from the set that
    is fullest for its share, where that keeps within one image. At 70:15:15 a class of 1 is all training, 2 and 3
    images reach validation, and from 4 on all three sets have some.
    """
    counts = apportion(images, shares)
    total = math.fsum(shares)

    def excess(part: int) -> float:
        return round(counts[part] - images * shares[part] / total, 9)

    for part, share in enumerate(shares):
        if share == 0 or counts[part]:
            continue
        donors = [other for other, count in enumerate(counts) if count > (0 if part == TRAIN else 1)]
        donor = max(donors, key=excess, default=None)
        if donor is not None and excess(donor) >= 0 - (part == TRAIN):
            counts[donor] -= 1
            counts[part] = 1
    return counts


def unite(*keys: Sequence[Hashable | None]) -> Indices:
    """Number the units that must stay together: two images are in one unit when they share a value of any key.

    None shares with nothing. Units are numbered in order of their first image.
    """
    count = len(keys[0])
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for key in keys:
        first: dict[Hashable, int] = {}
        for index, value in enumerate(key):
            if value is not None:
                one, other = root(first.setdefault(value, index)), root(index)
                parent[max(one, other)] = min(one, other)
    roots = np.array([root(index) for index in range(count)], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def draw_splits(
    labels: Indices, units: Indices, shares: Sequence[float], seed: int, held: Indices | None = None
) -> Indices:
    """Assign each image to train (0), val (1) or test (2).

    Args:
        labels: (N,), class of each image, 0..classes-1.
        units: (N,), images of one unit go to one side; see `unite`.
        shares: of train, val and test; a share of 0 gets nothing. They need not add up to 1.
        seed: of the draw.
        held: (N,), the side of images that have one already, -1 for the others. A unit goes where its held images are,
            to train where they are on several sides; the rest fills up what is lacking.

    Returns:
        (N,) int64. A class without units of several images is within one image of its shares. Units of several
        images are placed first, the largest first, each where its classes lack the largest part of their share.
        Every class has an image in train, as long as its images are not all held elsewhere.
    """
    classes = int(labels.max()) + 1
    wanted = np.array([split_counts(int(count), shares) for count in np.bincount(labels, minlength=classes)])
    left = wanted.copy()
    held = np.full(len(labels), -1, dtype=np.int64) if held is None else held
    result = _joined(units, held)
    np.subtract.at(left, (labels[result >= 0], result[result >= 0]), 1)
    for members in _large_units(units, seed):
        if (result[members] >= 0).all():
            continue
        counts = np.bincount(labels[members], minlength=classes)
        lacking = (counts[:, None] * left / np.maximum(wanted, 1)).sum(axis=0)
        lacking[np.array(shares) == 0] = -np.inf
        part = int(np.argmax(np.round(lacking, 9)))
        result[members] = part
        left[:, part] -= counts
    for label in range(classes):
        single = np.flatnonzero((labels == label) & (result < 0))
        if len(single):
            need = np.maximum(left[label], 0)
            sizes = apportion(len(single), need.tolist())
            mixed = np.random.default_rng([seed, 1, label]).permutation(single)
            result[mixed] = np.repeat(np.arange(len(shares)), sizes)
    _fill_train(labels, units, result, held)
    return result


def draw_some(labels: Indices, limit: int, seed: int, *, each_class: bool) -> Indices:
    """Draw at most `limit` images in proportion to their classes.

    Args:
        labels: (N,), class of each image.
        limit: how many; all are kept when there are no more.
        seed: of the draw.
        each_class: give every class that occurs at least one image (`limit` must be no less than their number).

    Returns:
        Sorted indices into `labels`.

    Raises:
        ValueError: `each_class` with fewer images than classes.
    """
    if len(labels) <= limit:
        return np.arange(len(labels))
    present, counts = np.unique(labels, return_counts=True)
    if each_class and limit < len(present):
        raise ValueError(f"{limit} images cannot hold {len(present)} classes")
    sizes = apportion(limit, counts.tolist())
    while each_class and 0 in sizes:
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    drawn = [
        np.random.default_rng([seed, 2, int(label)]).permutation(np.flatnonzero(labels == label))[:size]
        for label, size in zip(present, sizes, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _large_units(units: Indices, seed: int) -> Iterator[Indices]:
    """Members of the units of more than one image, the largest unit first, equal ones in seeded order."""
    sizes = np.bincount(units)
    numbers = np.random.default_rng([seed, 0]).permutation(np.flatnonzero(sizes > 1))
    order = np.argsort(units, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for unit in sorted(numbers.tolist(), key=lambda unit: -sizes[unit]):
        yield order[starts[unit] : starts[unit + 1]]


def _joined(units: Indices, held: Indices) -> Indices:
    """`held` with the other images of units that have held ones on their side."""
    lowest = np.full(int(units.max()) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1, dtype=np.int64)
    own = held >= 0
    np.minimum.at(lowest, units[own], held[own])
    np.maximum.at(highest, units[own], held[own])
    side = np.where(lowest == highest, highest, np.where(highest >= 0, TRAIN, -1))
    return np.where(own, held, side[units])


def _fill_train(labels: Indices, units: Indices, result: Indices, held: Indices) -> None:
    """Move the smallest unit of each class that large units left without a training image; nothing held is moved."""
    sizes = np.bincount(units)
    fixed = np.zeros(len(sizes), dtype=bool)
    fixed[units[held >= 0]] = True
    for label in np.setdiff1d(labels, labels[result == TRAIN]):
        own = np.unique(units[(labels == label) & ~fixed[units]])
        if len(own):
            result[units == own[np.argmin(sizes[own])]] = TRAIN
