"""Grids and codebooks against oracles: torch's own fake quantisation, a brute search, scikit-learn's k-means."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from edgewise.compress.levels import Grid, fit_book, fit_grid, nearest_entry


def weights(seed: int, rows: int = 6, columns: int = 90, tail: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    drawn = random.standard_t(3, (rows, columns)) if tail else random.normal(size=(rows, columns))
    return (drawn * np.exp(random.normal(size=(rows, 1)))).astype(np.float32)


def error(weight: np.ndarray, grid: Grid) -> np.ndarray:
    return ((weight.astype(np.float64) - grid.nearest(weight)) ** 2).sum(1)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("odd", [0, 1])
def test_nearest_levels_are_those_of_torchs_fake_quantisation(bits: int, odd: int) -> None:
    """value = step x (code - zero point): with even centres the zero point is whole and torch computes the same."""
    weight = weights(bits)
    scales = np.float32(2.0) ** -np.arange(3, 9, dtype=np.float32)
    centres = np.full(6, 2**bits, np.int32) - 2 * odd
    grid = Grid(scales, centres, bits)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight),
        torch.from_numpy(2 * scales),
        torch.from_numpy(centres // 2),
        axis=0,
        quant_min=0,
        quant_max=2**bits - 1,
    )
    np.testing.assert_array_equal(grid.nearest(weight), expected.numpy())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_has_its_levels_and_no_others(bits: int) -> None:
    weight = weights(bits)
    grid = fit_grid(weight, bits)
    for row in range(len(weight)):
        levels = np.float64(grid.scales[row]) * (2.0 * np.arange(2**bits) - grid.centres[row])
        found = np.unique(grid.nearest(weight)[row].astype(np.float64))
        assert set(found) <= set(levels), "products of short scales and small numbers are exact"
    assert (grid.scales.view(np.uint32) & 0xFFFF == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("tail", [False, True])
def test_the_clipping_is_as_good_as_a_fine_search(bits: int, tail: bool) -> None:
    """Per row at most 3 % above the best of 2,000 scales for each of the two symmetric centres, taken for all rows."""
    weight = weights(bits, tail=tail)
    found = error(weight, fit_grid(weight, bits, "symmetric"))
    best = []
    for centre in (2**bits - 1, 2**bits):
        rows = np.full(len(weight), np.inf)
        for share in np.linspace(0.02, 1.1, 2000):
            scales = (share * np.abs(weight).max(1) / (2**bits - 1)).astype(np.float32)
            steps = np.clip(np.rint((weight / scales[:, None] + centre) / 2), 0, 2**bits - 1)
            rows = np.minimum(rows, ((weight - scales[:, None] * (2 * steps - centre)) ** 2).sum(1))
        best.append(rows)
    assert found.sum() <= 1.03 * min(rows.sum() for rows in best)


def test_an_asymmetric_grid_pays_for_one_sided_weights_only() -> None:
    one_sided = np.abs(weights(1)) + 1
    even = np.concatenate([weights(2), -weights(2)], axis=1)
    errors = [error(one_sided, fit_grid(one_sided, 4, kind)).sum() for kind in ("auto", "symmetric")]
    assert errors[0] < 0.5 * errors[1]
    assert len(set(fit_grid(even, 4).centres.tolist())) == 1
    for weight in (one_sided, even):
        errors = [error(weight, fit_grid(weight, 3, kind)).sum() for kind in ("asymmetric", "auto", "symmetric")]
        assert errors[0] <= errors[2] * 1.0001
        assert errors[0] <= errors[1] * 1.0001
        assert errors[1] <= errors[2] * 1.0001


def test_weights_that_do_not_count_do_not_move_the_grid() -> None:
    weight = weights(3)
    keep = np.random.default_rng(0).random(weight.shape) < 0.3
    spoiled = np.where(keep, weight, 1000).astype(np.float32)
    found, expected = fit_grid(spoiled, 4, keep=keep), fit_grid(np.where(keep, weight, 0), 4, keep=keep)
    np.testing.assert_array_equal(found.scales, expected.scales)
    np.testing.assert_array_equal(found.centres, expected.centres)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "auto"])
@pytest.mark.parametrize(
    "row", [[0.0] * 5, [2.5] * 5, [1e-38] * 5, [3e38, -3e38, 0, 0, 0], [1.0, 0, 0, 0, 0], [-7.0, -7.0, -7.5, -7, -7]]
)
def test_degenerate_rows_give_finite_grids(row: list[float], kind: str) -> None:
    weight = np.array([row, [1.0, 2, 3, 4, 5]], np.float32)
    grid = fit_grid(weight, 4, kind)
    assert np.isfinite(grid.scales).all()
    assert (grid.scales > 0).all()
    assert np.isfinite(grid.nearest(weight)).all()
    assert np.abs(grid.centres).max() < 2**15


def test_more_bits_leave_less_error() -> None:
    weight = weights(4, tail=True)
    errors = [error(weight, fit_grid(weight, bits)).sum() for bits in (2, 3, 4, 5, 6, 8)]
    assert all(more < 0.5 * less for less, more in itertools.pairwise(errors))


# --- Codebooks ---------------------------------------------------------------------------------------------------


def inertia(values: np.ndarray, book: np.ndarray) -> float:
    chosen = book.astype(np.float64)[nearest_entry(values, book)]
    return float(((values.astype(np.float64) - chosen) ** 2).sum())


@pytest.mark.parametrize("entries", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("tail", [False, True])
def test_inertia_is_at_most_a_hundredth_above_scikit_learns(entries: int, tail: bool) -> None:
    values = weights(entries, 4, 600, tail).reshape(-1)
    theirs = KMeans(entries, n_init=10, random_state=0).fit(values[:, None].astype(np.float64)).inertia_
    assert inertia(values, fit_book(values, entries)) <= 1.01 * theirs


def test_few_distinct_values_are_the_book() -> None:
    values = np.array([3, 1, 1, 2, 3, 3], np.float32)
    np.testing.assert_array_equal(fit_book(values, 4), [1, 2, 3])
    np.testing.assert_array_equal(nearest_entry(values, fit_book(values, 4)), [2, 0, 0, 1, 2, 2])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60).map(lambda values: np.array(values, np.float32)),
    st.integers(1, 16),
)
def test_a_book_is_ascending_and_each_value_gets_its_nearest_entry(values: np.ndarray, entries: int) -> None:
    book = fit_book(values, entries)
    assert 1 <= len(book) <= entries
    assert (np.diff(book) >= 0).all()
    distance = np.abs(values.astype(np.float64)[:, None] - book)
    chosen = distance[np.arange(len(values)), nearest_entry(values, book)]
    assert np.allclose(chosen, distance.min(1), atol=1e-5)
