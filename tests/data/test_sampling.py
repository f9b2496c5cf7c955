"""Balanced epochs count right, whatever the classes; weights are scikit-learn's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from edgewise.data.sampling import class_weights, epoch_rows

some_labels = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda values: np.array(values, dtype=np.int64))
seeds = st.integers(0, 2**31)


@given(some_labels, seeds)
def test_a_natural_epoch_is_each_image_once(labels: np.ndarray, seed: int) -> None:
    rows = epoch_rows(labels, "natural", np.random.default_rng(seed))
    assert rows.dtype == np.int64
    assert sorted(rows.tolist()) == list(range(len(labels)))


@given(some_labels, seeds)
def test_a_balanced_epoch_has_every_class_equally_often(labels: np.ndarray, seed: int) -> None:
    rows = epoch_rows(labels, "balanced", np.random.default_rng(seed))
    assert rows.dtype == np.int64
    assert len(rows) == len(labels)
    per_class = Counter(labels[rows].tolist())
    present = np.unique(labels)
    counts = [per_class[label] for label in present.tolist()]
    assert max(counts) - min(counts) <= 1
    used = Counter(rows.tolist())
    for label in present.tolist():
        times = [used[row] for row in np.flatnonzero(labels == label).tolist()]
        assert max(times) - min(times) <= 1, "an image came again before all of its class had come"


def test_epochs_differ_and_repeat_with_their_generator() -> None:
    labels = np.repeat([0, 1, 2], [50, 10, 3])
    for how in ("natural", "balanced"):
        random = np.random.default_rng(0)
        first, second = epoch_rows(labels, how, random), epoch_rows(labels, how, random)
        assert not np.array_equal(first, second)
        assert np.array_equal(first, epoch_rows(labels, how, np.random.default_rng(0)))
    large = [set(epoch_rows(labels, "balanced", np.random.default_rng(seed)).tolist()) for seed in range(20)]
    assert set.union(*large) == set(range(63)), "in time every image of the large class comes"


def test_a_balanced_epoch_is_shuffled_over_the_classes() -> None:
    rows = epoch_rows(np.repeat([0, 1], 500), "balanced", np.random.default_rng(0))
    assert 200 < (rows[:500] < 500).sum() < 300


@given(st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_class_weights_are_scikit_learns(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = class_weights(labels, len(counts))
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    assert weights.dtype == np.float32
    assert np.allclose(weights, expected, rtol=1e-6)


def test_a_class_without_images_has_no_weight() -> None:
    with pytest.raises(ValueError, match="class 1 has no image"):
        class_weights(np.array([0, 2, 2]), 3)
