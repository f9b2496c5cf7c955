"""Which part of the values that a tensor takes 8 bits shall cover: four methods, on histograms. Numpy only.

A range that is too wide makes every step coarse, one that is too narrow clips; how the two are weighed is the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 2048
VALUES = 2**18
"""Most values of a tensor in one batch that are counted; of more, every k-th is. Extremes are always of all values."""
SHARE = 0.9999
"""What the percentile method keeps of all values."""
STEPS = 64
"""Ends that the mse method tries on each side."""
FAINT = 1e-10
"""What an empty level counts as beside bins that are not empty, in the entropy method."""
LEAST = 0.1
"""The mse method moves no end nearer to zero than this share of it."""

Range = tuple[float, float]
Floats = NDArray[np.float64]
Batches = Iterable[Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Seen:
    """The values that a tensor took: extremes, how often it was exactly 0, and a histogram of the others.

    counts: float64 (bins,), over equal bins from `low` to `high`. means: float64 (channels,), the mean of each channel
    (second axis); empty for tensors without one.
    """

    low: float
    high: float
    zeros: float
    counts: Floats
    means: Floats = field(default_factory=lambda: np.zeros(0))

    @property
    def middles(self) -> Floats:
        """The middle of each bin."""
        return self.low + (np.arange(len(self.counts)) + 0.5) * (self.high - self.low) / len(self.counts)


def observe(batches: Callable[[], Batches]) -> dict[str, Seen]:
    """The values of all tensors in some batches, which are gone through twice: for the extremes, then the histograms.

    Args:
        batches: gives the same batches at each call: tensor name -> float32 (N, ...).
    """
    ends: dict[str, Range] = {}
    sums: dict[str, tuple[Floats, float]] = {}
    for batch in batches():
        for name, values in batch.items():
            low, high = ends.get(name, (0.0, 0.0))
            ends[name] = min(low, float(values.min())), max(high, float(values.max()))
            if values.ndim > 1:
                other = tuple(axis for axis in range(values.ndim) if axis != 1)
                total, count = sums.get(name, (np.zeros(values.shape[1]), 0.0))
                sums[name] = total + values.sum(other, dtype=np.float64), count + values.size / values.shape[1]
    counts = {name: np.zeros(BINS) for name in ends}
    zeros = dict.fromkeys(ends, 0.0)
    for batch in batches():
        for name, values in batch.items():
            low, high = ends[name]
            flat = np.ascontiguousarray(values).reshape(-1)
            flat = flat[:: -(-flat.size // VALUES)].astype(np.float64)
            inside = flat[flat != 0]
            zeros[name] += len(flat) - len(inside)
            if high > low:
                places = ((inside - low) * (BINS / (high - low))).astype(np.int64)
                counts[name] += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
    means = {name: total / count for name, (total, count) in sums.items()}
    return {
        name: Seen(low, high, zeros[name], counts[name], means.get(name, np.zeros(0)))
        for name, (low, high) in ends.items()
    }


# ---------------------------------------------------------------------------------------------------------------
# The methods: what was seen -> a range that holds 0.


def minmax(seen: Seen, *, symmetric: bool = False) -> Range:  # noqa: ARG001 - both ends are kept either way
    """All values that were seen: nothing is clipped."""
    return seen.low, seen.high


def percentile(seen: Seen, *, symmetric: bool = False, share: float = SHARE) -> Range:
    """What is left when the outermost values are cut off, half of them on each side; zeros count.

    symmetric: of the magnitudes, so that the larger side alone gives way.
    """
    total = seen.counts.sum() + seen.zeros
    if total == 0 or seen.high <= seen.low:
        return seen.low, seen.high
    if symmetric:
        counts, top = _magnitudes(seen)
        place = np.searchsorted(np.cumsum(counts) + seen.zeros, share * total)
        end = top * min(int(place) + 1, len(counts)) / len(counts)
        return max(seen.low, -end), min(seen.high, end)
    counts = seen.counts.copy()
    counts[min(int(-seen.low / (seen.high - seen.low) * BINS), BINS - 1)] += seen.zeros
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    cut = (1 - share) / 2 * total
    below = np.cumsum(counts)
    low = edges[np.searchsorted(below, cut, side="right")]
    high = edges[min(int(np.searchsorted(below, total - cut)) + 1, BINS)]
    return min(0.0, float(low)), max(0.0, float(high))


def mse(seen: Seen, *, symmetric: bool = False) -> Range:
    """The range with the least squared error of 255 steps: that of rounding, step^2 / 12, and that of clipping.

    Zeros are met exactly and do not count. Both ends are searched over `STEPS` shares of what was seen. The noise model
    of rounding is Bennett's (1948); clipping by squared error follows Banner et al. 2019, arXiv:1810.05723.
    """
    if seen.high <= seen.low or not seen.counts.any():
        return seen.low, seen.high
    shares = np.linspace(LEAST, 1.0, STEPS)
    if symmetric:
        counts, top = _magnitudes(seen)
        middles = (np.arange(len(counts)) + 0.5) * top / len(counts)
        ends = top * shares
        inside = np.interp(ends, middles, np.cumsum(counts))
        errors = np.array([_beyond(counts, middles, end) for end in ends]) + inside * (ends / 127) ** 2 / 12
        best = float(ends[int(errors.argmin())])
        return max(seen.low, -best), min(seen.high, best)
    lows = seen.low * shares if seen.low < 0 else np.zeros(1)
    highs = seen.high * shares if seen.high > 0 else np.zeros(1)
    below = np.array([_beyond(seen.counts, -seen.middles, -low) for low in lows])
    above = np.array([_beyond(seen.counts, seen.middles, high) for high in highs])
    passed = np.cumsum(seen.counts)
    width = highs[None, :] - lows[:, None]
    inside = np.interp(highs, seen.middles, passed)[None, :] - np.interp(lows, seen.middles, passed, left=0)[:, None]
    errors = below[:, None] + above[None, :] + inside * (width / 255) ** 2 / 12
    row, column = np.unravel_index(int(errors.argmin()), errors.shape)
    return float(lows[row]), float(highs[column])


def entropy(seen: Seen, *, symmetric: bool = False) -> Range:
    """The range whose 8-bit histogram tells least apart from the histogram of all values (Kullback-Leibler divergence).

    Magnitudes are cut at a threshold; what lies beyond is added to the last bin kept. The bins kept are joined into as
    many levels as there are on a side (128, or 256 where values have one sign and zero is the lowest level), and each
    level is spread evenly over its bins that are not empty. Migacz 2017, "8-bit inference with TensorRT". Zeros are met
    exactly and do not count.
    """
    counts, top = _magnitudes(seen)
    one_sided = not symmetric and (seen.low >= 0 or seen.high <= 0)
    levels = 256 if one_sided else 128
    if top <= 0 or not counts.any():
        return seen.low, seen.high
    kept = range(levels, len(counts) + 1, 16)
    scores = [divergence(counts, count, levels) for count in kept]
    end = top * kept[int(np.argmin(scores))] / len(counts)
    return max(seen.low, -end), min(seen.high, end)


def divergence(counts: Floats, kept: int, levels: int) -> float:
    """Kullback-Leibler divergence, in nats, of `levels` levels over the first `kept` bins from all bins.

    A level that is empty where the bins are not counts as `FAINT`.
    """
    inside = counts[:kept]
    p = inside.copy()
    p[-1] += counts[kept:].sum()
    edges = np.arange(levels) * kept // levels
    filled = p > 0
    totals = np.add.reduceat(inside, edges)
    bins = np.add.reduceat(filled.astype(np.float64), edges)
    level = np.searchsorted(edges, np.arange(kept), side="right") - 1
    q = np.where(filled, (totals / np.maximum(bins, 1))[level], 0.0)
    if not q.sum():
        return float("inf")
    p, q = p[filled] / p.sum(), np.maximum(q[filled] / q.sum(), FAINT)
    return float((p * np.log(p / q)).sum())


METHODS: dict[str, Callable[..., Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
"""Name of a method -> (what was seen, symmetric=...) -> (lowest, highest)."""


def _magnitudes(seen: Seen) -> tuple[Floats, float]:
    """The histogram folded at zero: counts over equal bins from 0 to the larger end, and that end."""
    top = max(-seen.low, seen.high)
    if top <= 0:
        return np.zeros(BINS), 0.0
    places = np.clip((np.abs(seen.middles) * (BINS / top)).astype(np.int64), 0, BINS - 1)
    return np.bincount(places, weights=seen.counts, minlength=BINS).astype(np.float64), top


def _beyond(counts: Floats, middles: Floats, end: float) -> float:
    """The squared error of clipping what lies above an end."""
    return float(counts @ np.maximum(middles - end, 0.0) ** 2)
