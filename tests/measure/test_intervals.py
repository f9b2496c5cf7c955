"""Intervals of timings, against simulated sessions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgewise.measure.intervals import _expanded_tail, median_estimate, ratio_estimate

SESSIONS = 500


def session(random: np.random.Generator, kind: str, rounds: int = 32, runs: int = 4) -> np.ndarray:
    """Milliseconds (rounds, runs) with median 1: independent runs, skewed ones, or with something shared in a block."""
    if kind == "skewed":
        return 1 + 0.1 * (random.exponential(1, (rounds, runs)) - np.log(2))
    shared = random.normal(0, 0.05 if kind == "blocks" else 0, (rounds, 1))
    return np.exp(random.normal(0, 0.1, (rounds, runs)) + shared)


@pytest.mark.parametrize("kind", ["independent", "skewed", "blocks"])
def test_intervals_of_the_median_hold_the_truth(kind: str) -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(SESSIONS):
        found = median_estimate(session(random, kind), random, resamples=250)
        hits += found.low <= 1 <= found.high
    assert hits >= 0.93 * SESSIONS


@pytest.mark.parametrize("kind", ["independent", "skewed", "blocks"])
def test_intervals_of_the_ratio_hold_the_truth(kind: str) -> None:
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(SESSIONS):
        found = ratio_estimate(0.8 * session(random, kind), session(random, kind), random, resamples=400)
        hits += found.low <= 0.8 <= found.high
    assert hits >= 0.93 * SESSIONS


def test_the_median_is_that_of_all_runs() -> None:
    blocks = session(np.random.default_rng(3), "skewed", runs=7)
    found = median_estimate(blocks, np.random.default_rng(0))
    assert found.value == np.median(blocks)
    assert found.n == 32 * 7
    assert found.low < found.value < found.high


def test_more_resamples_than_fit_into_memory_at_once_are_drawn_in_parts() -> None:
    blocks = session(np.random.default_rng(4), "blocks", runs=125)
    found = median_estimate(blocks, np.random.default_rng(0), resamples=1200)  # 4,000 runs: parts of 500
    narrow = median_estimate(blocks[:, :60], np.random.default_rng(0), resamples=1200)
    assert found.low == pytest.approx(narrow.low, rel=0.02)


def test_equal_blocks_have_an_exact_ratio() -> None:
    found = ratio_estimate(np.full((8, 3), 3.0), np.full((8, 3), 4.0), np.random.default_rng(0))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.75, 0.75, 0.75, 8))


def test_a_ratio_and_its_inverse_agree() -> None:
    random = np.random.default_rng(5)
    one, two = session(random, "blocks"), 1.3 * session(random, "blocks")
    there = ratio_estimate(one, two, np.random.default_rng(0))
    back = ratio_estimate(two, one, np.random.default_rng(0))
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high, rel=1e-3)


def test_a_linear_drift_cancels_in_abba_pairs() -> None:
    time = 1 + 0.2 * np.arange(16)[:, None] / 16
    step = 0.2 / 32  # the one that runs second in a round is that much later
    second = np.array([0, 1] * 8)[:, None]
    found = ratio_estimate(time + step * (1 - second), time + step * second, np.random.default_rng(0))
    assert found.value == pytest.approx(1, abs=1e-4)
    late = ratio_estimate(time + step, time, np.random.default_rng(0))  # the same one second in every round
    assert late.low > 1.005


@pytest.mark.parametrize(("rounds", "other"), [(3, 3), (2, 2), (8, 6)])
def test_odd_or_unequal_rounds_are_refused(rounds: int, other: int) -> None:
    with pytest.raises(ValueError, match="even number of rounds"):
        ratio_estimate(np.ones((rounds, 2)), np.ones((other, 2)), np.random.default_rng(0))
    if rounds == other:
        with pytest.raises(ValueError, match="even number of rounds"):
            median_estimate(np.ones((rounds, 2)), np.random.default_rng(0))


@pytest.mark.parametrize("units", [8, 16, 32, 100])
def test_the_expanded_tail_comes_from_the_t_distribution(units: int) -> None:
    expected = stats.norm.cdf(-np.sqrt(units / (units - 1)) * stats.t.ppf(0.975, units - 1))
    assert _expanded_tail(units) == pytest.approx(expected, rel=0.03)


def test_the_interval_of_a_few_noisy_rounds_is_wide_and_finite() -> None:
    """Of three pairs two are nearly alike: resamples of these alone have almost no error to be measured by."""
    rounds = np.exp(np.array([0.0, 0.0, 1e-9, 1e-9, 0.5, 0.5]))[:, None]
    found = ratio_estimate(rounds, np.ones((6, 1)), np.random.default_rng(0))
    assert found.value == pytest.approx(np.exp(0.5 / 3))
    assert found.low == pytest.approx(1, rel=1e-6)
    assert 1e100 < found.high < np.inf
