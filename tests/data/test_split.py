"""Draws: exact sums, nothing lost, units whole, the same everywhere."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.data.split import TRAIN, apportion, draw_some, draw_splits, split_counts, unite

SHARES = (0.7, 0.15, 0.15)

labels_of_classes = st.lists(st.integers(1, 60), min_size=1, max_size=6).map(
    lambda sizes: np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
)
seeds = st.integers(0, 2**31 - 1)
some_shares = st.tuples(st.integers(1, 90), st.integers(0, 50), st.integers(1, 50)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any))
def test_apportion_is_hamiltons_method(total: int, weights: list[int]) -> None:
    result = apportion(total, weights)
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert sum(result) == total
    assert all(abs(count - share) < 1 for count, share in zip(result, exact, strict=True))
    raised = [share - math.floor(share) for count, share in zip(result, exact, strict=True) if count > share]
    kept = [share - math.floor(share) for count, share in zip(result, exact, strict=True) if count < share]
    assert not raised or not kept or min(raised) >= max(kept)


@pytest.mark.parametrize(
    ("images", "counts"),
    [
        (1, [1, 0, 0]),
        (2, [1, 1, 0]),
        (3, [2, 1, 0]),
        (4, [2, 1, 1]),
        (5, [3, 1, 1]),
        (20, [14, 3, 3]),
        (127, [89, 19, 19]),
    ],
)
def test_small_classes_reach_as_many_splits_as_their_shares_allow(images: int, counts: list[int]) -> None:
    assert split_counts(images, SHARES) == counts


@given(st.integers(1, 500), some_shares)
def test_counts_are_within_one_image_of_the_shares(images: int, shares: tuple[float, ...]) -> None:
    counts = split_counts(images, shares)
    assert sum(counts) == images
    assert counts[TRAIN] >= 1
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - images * share) <= 1 + 1e-6
        assert share or not count


@given(labels_of_classes, some_shares, seeds)
def test_single_images_keep_the_proportions_of_each_class(labels: np.ndarray, shares: tuple, seed: int) -> None:
    parts = draw_splits(labels, np.arange(len(labels)), shares, seed)
    assert set(parts) <= {0, 1, 2}
    for label in np.unique(labels):
        own = np.bincount(parts[labels == label], minlength=3)
        assert own.sum() == (labels == label).sum()
        assert np.all(np.abs(own - own.sum() * np.array(shares)) <= 1 + 1e-6)


@given(labels_of_classes, st.data(), seeds)
def test_units_are_never_broken_and_train_has_every_class(labels: np.ndarray, data: st.DataObject, seed: int) -> None:
    drawn = data.draw(st.lists(st.integers(0, 12), min_size=len(labels), max_size=len(labels)))
    units = np.unique(drawn, return_inverse=True)[1].astype(np.int64)
    parts = draw_splits(labels, units, SHARES, seed)
    assert len(parts) == len(labels)
    assert all(len(set(parts[units == unit])) == 1 for unit in np.unique(units))
    assert set(labels[parts == TRAIN]) == set(labels)


@given(labels_of_classes, seeds)
def test_the_seed_decides(labels: np.ndarray, seed: int) -> None:
    units = np.arange(len(labels)) // 2
    first = draw_splits(labels, units, SHARES, seed)
    assert np.array_equal(first, draw_splits(labels, units, SHARES, seed))


def test_another_seed_gives_another_split() -> None:
    labels = np.zeros(100, dtype=np.int64)
    assert not np.array_equal(
        draw_splits(labels, np.arange(100), SHARES, 0), draw_splits(labels, np.arange(100), SHARES, 1)
    )


def test_a_draw_is_the_same_on_every_platform() -> None:
    """Recorded once; a change here means that nobody can repeat an earlier run."""
    parts = draw_splits(np.repeat([0, 1], 8).astype(np.int64), np.arange(16), SHARES, 7)
    assert parts.tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 1, 0, 0, 2, 0, 0]


def test_many_small_groups_come_near_the_shares() -> None:
    labels = np.arange(600) % 3
    parts = draw_splits(labels, np.arange(600) // 6, SHARES, 3)
    assert np.all(np.abs(np.bincount(parts) - [420, 90, 90]) <= 6)


def test_three_groups_fill_three_splits() -> None:
    units = np.repeat([0, 1, 2], 10)
    assert sorted(set(draw_splits(np.zeros(30, dtype=np.int64), units, SHARES, 0))) == [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=40))
def test_unite_finds_connected_components(pairs: list[tuple[int, int | None]]) -> None:
    units = unite([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    # Oracle: flood fill.
    seen: dict[int, int] = {}
    for start in range(len(pairs)):
        if start in seen:
            continue
        queue, number = [start], len(set(seen.values()))
        while queue:
            here = queue.pop()
            if here not in seen:
                seen[here] = number
                queue += [
                    other
                    for other, pair in enumerate(pairs)
                    if pair[0] == pairs[here][0] or (pair[1] is not None and pair[1] == pairs[here][1])
                ]
    assert units.tolist() == [seen[index] for index in range(len(pairs))]


@given(labels_of_classes, st.integers(6, 80), seeds)
def test_draw_some_is_proportional_and_repeatable(labels: np.ndarray, limit: int, seed: int) -> None:
    rows = draw_some(labels, limit, seed, each_class=True)
    assert len(rows) == min(limit, len(labels)) == len(set(rows))
    assert np.array_equal(rows, np.sort(rows))
    assert set(labels[rows]) == set(labels)
    assert np.array_equal(rows, draw_some(labels, limit, seed, each_class=True))
    free = np.bincount(labels[draw_some(labels, limit, seed, each_class=False)], minlength=labels.max() + 1)
    exact = np.bincount(labels) * min(1, limit / len(labels))
    assert np.all(np.abs(free - exact) < 1 + 1e-6)


def test_draw_some_cannot_hold_more_classes_than_images() -> None:
    with pytest.raises(ValueError, match="2 images cannot hold 3 classes"):
        draw_some(np.arange(3), 2, 0, each_class=True)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(-1, 2)), min_size=1, max_size=60))
def test_held_images_never_move_and_their_units_follow(images: list[tuple[int, int, int]]) -> None:
    labels, numbers, held = (np.array(column, dtype=np.int64) for column in zip(*images, strict=True))
    units = unite(numbers.tolist())
    drawn = draw_splits(labels, units, (0.7, 0.15, 0.15), 3, held)
    assert np.array_equal(drawn[held >= 0], held[held >= 0])
    for unit in np.unique(units):
        members = units == unit
        sides = set(held[members & (held >= 0)].tolist())
        free = set(drawn[members & (held < 0)].tolist())
        if len(sides) == 1:
            assert free <= sides
        elif sides:
            assert free <= {0}
        else:
            assert len(free) == 1


def test_nothing_held_is_the_plain_draw() -> None:
    labels = np.arange(60) % 3
    units = np.arange(60) // 2
    plain = draw_splits(labels, units, (0.7, 0.15, 0.15), 1)
    assert np.array_equal(plain, draw_splits(labels, units, (0.7, 0.15, 0.15), 1, np.full(60, -1)))


def test_new_images_fill_up_what_is_lacking() -> None:
    labels = np.zeros(100, dtype=np.int64)
    held = np.full(100, -1, dtype=np.int64)
    held[:40] = 0
    drawn = draw_splits(labels, np.arange(100), (0.7, 0.15, 0.15), 1, held)
    assert np.bincount(drawn).tolist() == [70, 15, 15]
