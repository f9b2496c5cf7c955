"""Few values for many weights: grids of evenly spaced levels, and codebooks. Numpy only.

A grid gives a row (an output channel) the values ``scale * (2 i - centre)`` for i in 0 .. 2^bits - 1; the centre is a
whole number, so that zero lies on the grid (even centres) or half-way between two levels (odd ones). Scales have eight
significant bits (the upper half of a float32): every product is then exact in float32, and a scale takes two bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

CLIPS = np.linspace(0.2, 1.0, 33)
"""Shares of the largest magnitude at which a grid may end; the first guess is the best of them."""
ROUNDS = 12
PAYS = 0.95
"""An asymmetric grid, which costs its centres, is taken where it leaves at most so much of the squared error."""
LLOYD_ROUNDS = 100
BINS = 1024


@dataclass(frozen=True)
class Grid:
    """The levels of each row: float32 scales (rows,), int32 centres (rows,), and bits for all."""

    scales: Floats
    centres: NDArray[np.int32]
    bits: int

    def nearest(self, weight: Floats) -> Floats:
        """float32 (rows, columns) -> the nearest levels."""
        return self.values(_codes(weight, self.scales, self.centres, self.bits))

    def values(self, codes: NDArray[np.int64]) -> Floats:
        """int64 (rows, columns) of 0 .. 2^bits - 1 -> float32 values, exactly `scale * (2 code - centre)`."""
        return self.scales[:, None] * (2 * codes - self.centres[:, None]).astype(np.float32)


def fit_grid(weight: Floats, bits: int, kind: str = "auto", keep: Mask | None = None) -> Grid:
    """The grid with the least squared error for each row: the clipping is searched, then scale and centre are refined.

    Args:
        weight: float32 (rows, columns).
        bits: 1 to 8.
        kind: "symmetric", all centres 2^bits - 1 or all 2^bits; "integer", all 2^bits, so that levels are whole
            multiples of twice the scale, as int8 arithmetic has them; "asymmetric", each row its own; "auto" tries
            symmetric and asymmetric.
        keep: bool (rows, columns), the weights that count; None for all.
    """
    counts = np.ones(weight.shape) if keep is None else keep.astype(np.float64)
    exact = weight.astype(np.float64) * counts
    symmetric = min(
        (
            _refined(exact, counts, _first(exact, counts, centre, bits), bits, moving=False)
            for centre in (_centres(bits)[1:] if kind == "integer" else _centres(bits))
        ),
        key=lambda found: found[1].sum(),
    )
    if kind in {"symmetric", "integer"}:
        return symmetric[0]
    start = symmetric[0], symmetric[1]
    middle = np.where(keep, weight, np.nan) if keep is not None else weight
    own = _refined(exact, counts, _between(middle, bits), bits, moving=True)
    moved = _refined(exact, counts, start[0], bits, moving=True)
    better = own[1] < moved[1]
    asymmetric = Grid(
        np.where(better, own[0].scales, moved[0].scales), np.where(better, own[0].centres, moved[0].centres), bits
    )
    error = np.minimum(own[1], moved[1]).sum()
    if kind == "auto" and error > PAYS * symmetric[1].sum():
        return symmetric[0]
    return asymmetric


def _centres(bits: int) -> tuple[int, int]:
    """Half-way between two levels, and on a level."""
    return 2**bits - 1, 2**bits


def _codes(weight: NDArray[np.floating], scales: Floats, centres: NDArray[np.int32], bits: int) -> NDArray[np.int64]:
    steps = (weight.astype(np.float64) / scales[:, None] + centres[:, None]) / 2
    return np.clip(np.rint(steps), 0, 2**bits - 1).astype(np.int64)


def _first(exact: NDArray[np.float64], counts: NDArray[np.float64], centre: int, bits: int) -> Grid:
    """The best of `CLIPS` for each row."""
    largest = np.abs(exact).max(1)
    centres = np.full(len(exact), centre, np.int32)
    best, error = np.ones(len(exact), np.float32), np.full(len(exact), np.inf)
    for clip in CLIPS:
        grid = Grid(_short(clip * largest / (2**bits - 1)), centres, bits)
        now = _error(exact, counts, grid)
        best, error = np.where(now < error, grid.scales, best), np.minimum(now, error)
    return Grid(best.astype(np.float32), centres, bits)


def _between(weight: Floats, bits: int) -> Grid:
    """From the smallest weight of each row to the largest; NaN does not count."""
    filled = np.where(np.isnan(weight).all(1, keepdims=True), 0, weight)
    low, high = np.nanmin(filled, 1).astype(np.float64), np.nanmax(filled, 1).astype(np.float64)
    scales = _short((high - low) / (2 * (2**bits - 1)))
    return Grid(scales, _whole(-low / scales), bits)


def _refined(
    exact: NDArray[np.float64], counts: NDArray[np.float64], grid: Grid, bits: int, *, moving: bool
) -> tuple[Grid, NDArray[np.float64]]:
    """Codes for the grid, then the best scale (and centre, when `moving`) for the codes, and so on; the best seen.

    Returns:
        The grid, and the squared error of each row, float64 (rows,).
    """
    best, error = grid, _error(exact, counts, grid)
    n = np.maximum(counts.sum(1), 1)
    for _ in range(ROUNDS):
        codes = _codes(exact, grid.scales, grid.centres, bits) * counts
        if moving:  # a straight line through (code, weight): its slope is twice the scale
            mean_code, mean = codes.sum(1) / n, exact.sum(1) / n
            spread = (counts * (codes - mean_code[:, None]) ** 2).sum(1)
            slope = (counts * (codes - mean_code[:, None]) * (exact - mean[:, None])).sum(1)
            slope = np.divide(slope, spread, out=2.0 * grid.scales, where=spread > 0)
            scales = _short(slope / 2)
            centres = _whole((mean_code * slope - mean) / scales)
        else:
            q = (2 * codes - grid.centres[:, None]) * counts
            power = (q * q).sum(1)
            scales = _short(np.divide((exact * q).sum(1), power, out=1.0 * grid.scales, where=power > 0))
            centres = grid.centres
        grid = Grid(scales, centres, bits)
        now = _error(exact, counts, grid)
        if not (now < error).any():
            break
        better = now < error
        scales, centres = np.where(better, scales, best.scales), np.where(better, centres, best.centres)
        best, error = Grid(scales, centres, bits), np.minimum(now, error)
    return best, error


def _error(exact: NDArray[np.float64], counts: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    values = grid.values(_codes(exact, grid.scales, grid.centres, grid.bits))
    error: NDArray[np.float64] = (counts * (exact - values) ** 2).sum(1)
    return error


def _whole(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Centres; far beyond the levels there is nothing to gain, and they must fit into 16 bits."""
    return np.clip(np.rint(np.nan_to_num(values)), -4096, 4096).astype(np.int32)


def _short(values: NDArray[np.floating]) -> Floats:
    """The nearest positive numbers with eight significant bits; 1 for what is not a positive number."""
    single = np.ascontiguousarray(values, np.float32)
    single = np.where(np.isfinite(single) & (single > 1e-30), single, np.float32(1))
    bits = np.ascontiguousarray(single).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


# ---------------------------------------------------------------------------------------------------------------
# Codebooks.


def fit_book(values: Floats, entries: int) -> Floats:
    """k-means in one dimension: the float32 entries of a codebook, ascending; fewer where there are fewer values.

    Sorted values are first joined into at most `BINS` bins, narrow where many lie; of all ways to cut the row of bins
    into clusters the best is found by dynamic programming (Wang, Song 2011, "Ckmeans.1d.dp"), and Lloyd's iterations on
    the values themselves move the centres the rest of the way.
    """
    ordered = np.sort(values.astype(np.float64).reshape(-1))
    distinct = np.unique(ordered)
    if len(distinct) <= entries:
        return distinct.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    edges = _best_cuts(ordered, sums, _bin_edges(ordered), entries)
    centres = np.diff(sums[edges]) / np.diff(edges)
    for _ in range(LLOYD_ROUNDS):
        cuts = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], cuts, [len(ordered)]])
        counts = np.diff(edges)
        moved = np.divide(np.diff(sums[edges]), counts, out=centres.copy(), where=counts > 0)
        if (moved == centres).all():
            break
        centres = np.sort(moved)
    return centres.astype(np.float32)


def _bin_edges(ordered: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places in the sorted values between bins, ascending, the first 0 and the last their number.

    The cube root of the density decides, as for the entries of a large optimal codebook (Panter, Dite 1951): between
    neighbouring values a gap apart it sums up to gap^(2/3).
    """
    if len(ordered) <= BINS:
        return np.arange(len(ordered) + 1)
    steps = np.unique(np.linspace(0, len(ordered), min(len(ordered), 16 * BINS) + 1).astype(np.int64))
    ends = ordered[np.minimum(steps, len(ordered) - 1)]
    weight = np.concatenate([[0.0], np.cumsum(np.cbrt(np.diff(ends)) ** 2 + 1e-12)])
    return np.unique(steps[np.searchsorted(weight, np.linspace(0, weight[-1], BINS + 1))])


def _best_cuts(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], bins: NDArray[np.int64], entries: int
) -> NDArray[np.int64]:
    """Where the sorted values are cut into `entries` clusters of whole bins with the least squared error: places."""
    squares = np.concatenate([[0.0], np.cumsum((ordered - ordered.mean()) ** 2)])[bins]
    shifted = sums[bins] - ordered.mean() * bins
    count = (bins[None, :] - bins[:, None]).astype(np.float64)
    spread = squares[None, :] - squares[:, None]
    total = shifted[None, :] - shifted[:, None]
    cost = np.where(count > 0, spread - total**2 / np.maximum(count, 1), np.inf)  # of the bins from row to column
    best = cost[0]
    came = []
    for _ in range(min(entries, len(bins) - 1) - 1):
        both = best[:, None] + cost
        came.append(both.argmin(0))
        best = both.min(0)
    places = [len(bins) - 1]
    for back in reversed(came):
        places.append(int(back[places[-1]]))
    edges: NDArray[np.int64] = bins[np.array([0, *reversed(places)])]
    return edges


def nearest_entry(values: Floats, book: Floats) -> NDArray[np.int64]:
    """The number of the nearest entry of an ascending codebook for each value; ties go down."""
    middle = (book[1:].astype(np.float64) + book[:-1]) / 2
    number: NDArray[np.int64] = np.searchsorted(middle, values.astype(np.float64), side="left").astype(np.int64)
    return number
