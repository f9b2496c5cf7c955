"""95 % intervals: Wilson's for shares, block bootstraps for timings. numpy only.

Timings of one process are autocorrelated and drift with the temperature, so single runs are never resampled: the units
are pairs of rounds, each round a block of consecutive runs; within an ABBA pair a linear drift of a ratio cancels.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.results import Estimate

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""

RESAMPLES = 2000
"""Bootstrap resamples behind every interval."""

WIDEST = 700.0
"""Logarithm at which the ends of a ratio's interval are cut off: a few noisy rounds can leave it open to any side, and
beyond this the numbers end."""

P90_RUNS = 44
"""Least runs for a p90: the slowest run lies above the true p90 with 99 % confidence from ln 0.01 / ln 0.9 runs on."""

P99_RUNS = 459
"""Least runs for a p99, by the same rule."""


LAUNCHES = 5
"""Least launches behind an interval that counts what differs between launches."""

_GRID = 1024
"""Values on each side of a percentile among which its resamples are looked for."""


def wilson(successes: int, n: int) -> Estimate:
    """A share with Wilson's score interval (E. B. Wilson, 1927); right for small `n` and for shares near 0 and 1.

    Args:
        successes: 0..n.
        n: at least 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is not a share")
    low, high = wilson_bounds(successes / n, n)
    return Estimate(successes / n, low, high, n)


def wilson_bounds(share: float, n: float) -> tuple[float, float]:
    """Wilson's bounds for a share seen in `n` samples; `n` may be an effective sample size, so not a whole number."""
    square = Z95 * Z95
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return (0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half)


def percentile_bounds(resampled: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The middle 95 % of bootstrap values."""
    low, high = np.percentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def median_estimate(
    blocks: NDArray[np.float64], random: np.random.Generator, *, resamples: int = RESAMPLES
) -> Estimate:
    """The median of all runs, with the interval of a circular block bootstrap (Politis and Romano, 1992).

    What is drawn are stretches of two rounds, so that what neighbouring runs share stays together. The percentiles are
    taken a little outside 2.5 and 97.5 %, which corrects for the small number of stretches (Hesterberg, *What Teachers
    Should Know About the Bootstrap*, 2015, expanded percentile interval).

    Args:
        blocks: float64 (rounds, runs of a block), any unit; an even number of rounds, at least 4.
        random: source of the resamples.
        resamples: number of resamples.
    """
    rounds, runs = blocks.shape
    if rounds % 2 or rounds < 4:
        raise ValueError(f"a median needs an even number of rounds, at least 4; not {rounds}")
    medians = np.empty(resamples)
    step = max(1, 2_000_000 // blocks.size)
    for start in range(0, resamples, step):
        first = random.integers(rounds, size=(min(step, resamples - start), rounds // 2, 1))
        drawn = blocks[(first + np.arange(2)) % rounds]
        medians[start : start + step] = np.median(drawn.reshape(len(first), rounds * runs), axis=1)
    tail = _expanded_tail(rounds // 2)
    low, high = np.percentile(medians, [100 * tail, 100 * (1 - tail)])
    return Estimate(float(np.median(blocks)), float(low), float(high), n=blocks.size)


def ratio_estimate(
    blocks: NDArray[np.float64],
    reference: NDArray[np.float64],
    random: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The paired block ratio ``blocks / reference`` with its bootstrap-t interval over ABBA pairs.

    Row i of both arrays was timed in round i, and rounds 2k and 2k + 1 ran their series in opposite orders. The
    figure is the geometric mean over rounds of the ratio of block medians; the units that are resampled are the pairs
    of rounds. Studentised resampling keeps its 95 % with as few as 16 pairs, where the percentile interval is too
    narrow (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 12).

    Args:
        blocks: float64 (rounds, runs of a block), above 0; an even number of rounds, at least 4.
        reference: float64 (the same rounds, runs of a block).
        random: source of the resamples.
        level: of the interval.
        resamples: number of resamples.

    Returns:
        An estimate whose `n` is the number of rounds.
    """
    rounds = len(blocks)
    if rounds != len(reference) or rounds % 2 or rounds < 4:
        raise ValueError("a ratio needs the same even number of rounds, at least 4, on both sides")
    logs = np.log(np.median(blocks, axis=1) / np.median(reference, axis=1))
    pairs = logs.reshape(-1, 2).mean(axis=1)
    mean, error = float(pairs.mean()), _standard_error(pairs)
    if error <= 1e-12:
        return Estimate(math.exp(mean), math.exp(mean), math.exp(mean), rounds)
    drawn = pairs[random.integers(len(pairs), size=(resamples, len(pairs)))]
    errors = _standard_error(drawn)
    drawn, errors = drawn[errors > 0], errors[errors > 0]
    low, high = percentile_bounds((drawn.mean(axis=1) - mean) / errors, level)
    lower, upper = (float(np.exp(np.clip(mean - t * error, -WIDEST, WIDEST))) for t in (high, low))
    return Estimate(math.exp(mean), lower, upper, rounds)


def percentile_estimates(
    blocks: Sequence[NDArray[np.float64]],
    shares: Sequence[float],
    random: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
) -> list[Estimate]:
    """Percentiles of all runs by nearest rank, each with the interval of a circular bootstrap over pairs of blocks.

    As `median_estimate`, for blocks of any length: drawing blocks is drawing their counts of runs up to each of some
    thousand values, so that sessions of millions of runs are resampled in a moment.

    Args:
        blocks: each float64 (runs of the block,), in the order they ran; an even number, at least 4.
        shares: of the percentiles, 0..1.
        random: source of the resamples.
        resamples: number of resamples.
    """
    count = len(blocks)
    if count % 2 or count < 4:
        raise ValueError(f"percentiles need an even number of blocks, at least 4; not {count}")
    runs = np.sort(np.concatenate(blocks))
    ranks = np.ceil(np.asarray(shares) * len(runs)).astype(np.int64) - 1
    near = [np.arange(max(0, rank - _GRID), min(len(runs), rank + _GRID)) for rank in ranks]
    coarse = np.linspace(0, len(runs) - 1, min(len(runs), 4 * _GRID)).astype(np.int64)
    grid = np.unique(runs[np.concatenate([coarse, *near])])
    below = np.stack([np.searchsorted(np.sort(block), grid, side="right") for block in blocks])
    sizes = np.array([len(block) for block in blocks])
    first = random.integers(count, size=(resamples, count // 2, 1))
    drawn = ((first + np.arange(2)) % count).reshape(resamples, -1)
    places = drawn + count * np.arange(resamples)[:, None]
    weights = np.bincount(places.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
    upto, total = weights @ below.astype(np.float64), weights @ sizes
    tail = _expanded_tail(count // 2)
    found = []
    for share, rank in zip(shares, ranks, strict=True):
        at = np.minimum((upto < np.ceil(share * total)[:, None]).sum(axis=1), len(grid) - 1)
        low, high = np.percentile(grid[at], [100 * tail, 100 * (1 - tail)])
        value = float(np.median(runs)) if share == 0.5 else float(runs[rank])
        found.append(Estimate(value, min(value, float(low)), max(value, float(high)), n=len(runs)))
    return found


def median_of_launches(medians: Sequence[float], n: int) -> Estimate:
    """The median of the medians of several launches, with an interval of order statistics.

    It holds the median of the distribution that launches come from, whatever that is: two of its order statistics
    enclose it with a binomial probability. With six launches the smallest and the largest do in 97 of 100 sessions;
    with five, the least that is taken, in 94.

    Args:
        medians: of each launch, at least 5.
        n: runs behind them, for the record.
    """
    count = len(medians)
    if count < LAUNCHES:
        raise ValueError(f"an interval over launches needs at least {LAUNCHES}; not {count}")
    ordered = sorted(medians)
    skip, tail = 0, 2.0**-count
    while tail + math.comb(count, skip + 1) * 2.0**-count <= 0.025:
        skip += 1
        tail += math.comb(count, skip) * 2.0**-count
    return Estimate(float(np.median(ordered)), ordered[skip], ordered[-1 - skip], n)


def ratio_of_launches(
    blocks: Sequence[NDArray[np.float64]], reference: Sequence[NDArray[np.float64]], *, level: float = 0.95
) -> Estimate:
    """The paired ratio over several launches, with Student's interval of the launches' log ratios.

    Launches are the units, because where a process happened to be put in memory shifts all its rounds alike.

    Args:
        blocks: of each launch the medians of its rounds, float64 (rounds,), above 0; at least 5 launches.
        reference: of the same launches and rounds.
        level: of the interval.

    Returns:
        An estimate whose `n` is the number of launches.
    """
    logs = np.array([np.log(one / other).mean() for one, other in zip(blocks, reference, strict=True)])
    if len(logs) < LAUNCHES:
        raise ValueError(f"an interval over launches needs at least {LAUNCHES}; not {len(logs)}")
    half = student(len(logs) - 1, level) * float(_standard_error(logs))
    mean = float(logs.mean())
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def student(degrees: int, level: float = 0.95) -> float:
    """The two-sided point of Student's t distribution; right to 0.2 % from 4 degrees on (Fisher's expansion)."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(degrees**power) for power, term in enumerate(terms, 1))


def _standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation: NDArray[np.float64] = np.std(values, axis=-1, ddof=1)
    return deviation / math.sqrt(values.shape[-1])


def _expanded_tail(units: int) -> float:
    """The share to cut off each end of a bootstrap of so many units for 95 % to be left."""
    z, degrees = Z95, units - 1
    student = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)  # Fisher's expansion
    return math.erfc(student * math.sqrt(units / degrees) / math.sqrt(2)) / 2
