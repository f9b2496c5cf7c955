"""Ranges: each method against another way to the same answer, and what must hold of all of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.compress.ranges import BINS, METHODS, Seen, divergence, entropy, minmax, mse, observe, percentile


def seen_of(values: np.ndarray) -> Seen:
    """What is seen of values that come in two batches."""
    halves = np.array_split(values.astype(np.float32), 2)
    return observe(lambda: iter([{"t": half} for half in halves]))["t"]


def gaussian(seed: int = 0, count: int = 100_000, outlier: float = 30.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(size=count), [outlier, -outlier / 3]])


def relu(seed: int = 0) -> np.ndarray:
    return np.maximum(gaussian(seed), 0)


def error(values: np.ndarray, low: float, high: float, levels: int = 256) -> float:
    """The squared error of rounding to evenly spaced levels, one of which is 0, by doing it."""
    step = (high - low) / (levels - 1)
    zero = round(-low / step)
    return float(((np.clip(np.rint(values / step) + zero, 0, levels - 1) - zero) * step - values).__pow__(2).sum())


def test_what_is_seen_is_what_is_there() -> None:
    random = np.random.default_rng(0)
    values = np.maximum(random.normal(size=(40, 3, 5, 5)), 0).astype(np.float32)
    seen = seen_of(values)
    assert (seen.low, seen.high) == (0, values.max())
    assert seen.zeros == (values == 0).sum()
    assert seen.zeros + seen.counts.sum() == values.size
    np.testing.assert_allclose(seen.means, values.mean((0, 2, 3)), rtol=1e-6)
    expected, _ = np.histogram(values[values > 0], bins=BINS, range=(0, float(values.max())))
    assert np.abs(seen.counts - expected).sum() <= 4  # values on an edge


def test_minmax_is_all() -> None:
    values = gaussian()
    assert minmax(seen_of(values)) == pytest.approx((values.min(), values.max()))


@pytest.mark.parametrize("share", [0.9, 0.99, 0.999])
def test_percentile_is_that_of_numpy(share: float) -> None:
    values = gaussian()
    low, high = percentile(seen_of(values), share=share)
    bin_width = (values.max() - values.min()) / BINS
    expected = np.percentile(values, [50 * (1 - share), 100 - 50 * (1 - share)])
    np.testing.assert_allclose([low, high], expected, atol=1.01 * bin_width)
    low, high = percentile(seen_of(values), share=share, symmetric=True)
    expected = np.percentile(np.abs(values), 100 * share)
    assert high == pytest.approx(expected, abs=2.01 * bin_width)
    assert low == pytest.approx(max(-expected, values.min()), abs=2.01 * bin_width)


def test_percentile_keeps_the_zero_end_of_a_relu() -> None:
    low, high = percentile(seen_of(relu()), share=0.99)
    assert low == 0
    assert high == pytest.approx(np.percentile(relu(), 99.5), abs=0.02)


@pytest.mark.parametrize("make", [gaussian, relu])
def test_mse_leaves_the_least_error_that_any_range_leaves(make: object) -> None:
    values = make()  # type: ignore[operator]
    chosen = error(values, *mse(seen_of(values)))
    shares = np.linspace(0.1, 1.0, 40)
    lows = values.min() * shares if values.min() < 0 else [0.0]
    best = min(error(values, low, high) for low in lows for high in values.max() * shares)
    assert chosen <= 1.05 * best
    assert chosen < error(values, values.min(), values.max())


def test_symmetric_mse_too() -> None:
    values = gaussian()
    low, high = mse(seen_of(values), symmetric=True)
    end = max(-low, high)
    best = min(error(values, -top, top, 255) for top in 30 * np.linspace(0.1, 1.0, 60))
    assert error(values, -end, end, 255) <= 1.05 * best


def test_the_divergence_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    counts = random.poisson(3, 300).astype(float)
    kept, levels = 200, 64
    p = counts[:kept].copy()
    p[-1] += counts[kept:].sum()
    q = np.zeros(kept)
    for level in range(levels):  # as the slides have it, level by level
        start, end = level * kept // levels, (level + 1) * kept // levels
        part, there = counts[start:end], p[start:end] > 0
        if there.any():
            q[start:end] = np.where(there, part.sum() / there.sum(), 0)
    expected = scipy.stats.entropy(p / p.sum(), q / q.sum())
    assert np.isfinite(expected)
    assert divergence(counts, kept, levels) == pytest.approx(expected, rel=1e-6)


def test_entropy_cuts_outliers_and_keeps_the_rest() -> None:
    values = gaussian()
    low, high = entropy(seen_of(values))
    assert 3 < high < 15
    assert -high == pytest.approx(low, rel=1e-6)
    uniform = np.random.default_rng(0).uniform(-1, 1, 100_000)
    assert entropy(seen_of(uniform))[1] > 0.95


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60),
    st.sampled_from(sorted(METHODS)),
    st.booleans(),
)
def test_every_range_holds_zero_and_lies_within_what_was_seen(values: list[float], name: str, symmetric: bool) -> None:
    seen = seen_of(np.array(values))
    low, high = METHODS[name](seen, symmetric=symmetric)
    assert seen.low - 1e-6 <= low <= 0 <= high <= seen.high + 1e-6
    if seen.high > 0:
        assert high > 0 or name == "percentile"


def test_batches_are_gone_through_twice_and_tensors_without_channels_have_no_means() -> None:
    times = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        times.append(1)
        yield {"flat": np.ones(3, np.float32)}

    assert observe(batches)["flat"].means.size == 0
    assert len(times) == 2
