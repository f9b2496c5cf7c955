"""Intervals of sessions of several launches, against simulated sessions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from edgewise.measure.intervals import (
    median_estimate,
    median_of_launches,
    percentile_estimates,
    ratio_of_launches,
    student,
)

SESSIONS = 500


def launches(random: np.random.Generator, count: int, kind: str, rounds: int = 4) -> list[list[np.ndarray]]:
    """Milliseconds with median 1: what a launch does to all its blocks, blocks of unequal length, skewed runs."""
    found = []
    for _ in range(count):
        shift = random.normal(0, 0.05)
        blocks = []
        for _ in range(rounds):
            runs = int(random.integers(20, 40))
            if kind == "skewed":
                one = 1 + 0.1 * (random.exponential(1, runs) - np.log(2))
            else:
                one = np.exp(random.normal(0, 0.05, runs))
            blocks.append(one * np.exp(shift))
        found.append(blocks)
    return found


@pytest.mark.parametrize("count", [5, 6, 9])
@pytest.mark.parametrize("kind", ["plain", "skewed"])
def test_intervals_over_launches_hold_the_truth(kind: str, count: int) -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(SESSIONS):
        medians = [float(np.median(np.concatenate(one))) for one in launches(random, count, kind)]
        found = median_of_launches(medians, 100)
        hits += found.low <= 1 <= found.high
    assert hits >= (0.93 if count > 5 else 0.91) * SESSIONS  # with five it is 93.75 % by construction


def test_the_block_bootstrap_misses_what_differs_between_launches() -> None:
    """Why there are launches at all: the interval inside one launch is sure of what is true for that launch only."""
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        (blocks,) = launches(random, 1, "plain", rounds=24)
        (found,) = percentile_estimates(blocks, [0.5], random, resamples=250)
        hits += found.low <= 1 <= found.high
    assert hits < 60


@pytest.mark.parametrize("count", [5, 6])
def test_intervals_of_the_ratio_over_launches_hold_the_truth(count: int) -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(SESSIONS):
        pair = [launches(random, count, "plain") for _ in range(2)]
        one, two = ([np.array([np.median(block) for block in blocks]) for blocks in side] for side in pair)
        found = ratio_of_launches([0.8 * medians for medians in one], two)
        hits += found.low <= 0.8 <= found.high
        assert found.n == count
    assert hits >= 0.93 * SESSIONS


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_intervals_of_percentiles_hold_the_truth(share: float) -> None:
    random = np.random.default_rng(4)
    truth = float(np.exp(stats.norm.ppf(share) * 0.1))
    hits = 0
    for _ in range(SESSIONS):
        blocks = [np.exp(random.normal(0, 0.1, int(random.integers(30, 45)))) for _ in range(16)]
        (found,) = percentile_estimates(blocks, [share], random, resamples=250)
        hits += found.low <= truth <= found.high
    assert hits >= (0.93 if share < 0.99 else 0.91) * SESSIONS  # 6 of 600 runs lie above p99: its interval is coarse


def test_percentiles_are_nearest_ranks_and_the_median_is_that_of_the_other_estimate() -> None:
    random = np.random.default_rng(5)
    blocks = [random.exponential(1, 50) for _ in range(32)]
    p50, p90, p99 = percentile_estimates(blocks, [0.5, 0.9, 0.99], np.random.default_rng(0))
    runs = np.concatenate(blocks)
    assert p50.value == np.median(runs)
    assert p90.value == np.percentile(runs, 90, method="inverted_cdf")
    assert p99.value == np.percentile(runs, 99, method="inverted_cdf")
    assert p50.low <= p50.value <= p50.high < p90.low <= p90.value <= p90.high <= p99.high
    other = median_estimate(np.stack(blocks), np.random.default_rng(0))
    assert (p50.low, p50.high) == pytest.approx((other.low, other.high), rel=0.03)


def test_millions_of_runs_are_resampled_on_a_grid() -> None:
    random = np.random.default_rng(6)
    blocks = [np.exp(random.normal(0, 0.1, 20_000)) for _ in range(24)]
    p50, p99 = percentile_estimates(blocks, [0.5, 0.99], random)
    assert p50.low < 1 < p50.high
    assert p50.high - p50.low < 0.002
    assert p99.low < np.exp(2.3263 * 0.1) < p99.high


@pytest.mark.parametrize("degrees", [4, 5, 8, 30])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_students_points_are_those_of_scipy(degrees: int, level: float) -> None:
    assert student(degrees, level) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=5e-3)


def test_an_interval_over_few_launches_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        median_of_launches([1.0] * 4, 10)
    with pytest.raises(ValueError, match="at least 5"):
        ratio_of_launches([np.ones(4)] * 4, [np.ones(4)] * 4)
    for count in (3, 2):
        with pytest.raises(ValueError, match="even number"):
            percentile_estimates([np.ones(4)] * count, [0.5], np.random.default_rng(0))
