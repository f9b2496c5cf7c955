"""Low-rank factors and ranks: exactness, optimality, planted ranks, and the free energy of VBMF by another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.compress import lowrank


def planted(rows: int, columns: int, rank: int, noise: float, seed: int, strength: float = 3.0) -> np.ndarray:
    """A product of Gaussian factors plus Gaussian noise."""
    random = np.random.default_rng(seed)
    signal = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns)) * strength
    return signal / math.sqrt(max(rank, 1)) + noise * random.standard_normal((rows, columns))


def kernel(seed: int, out: int = 10, inner: int = 7, height: int = 3, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((out, inner, height, width))


def rebuilt(first: np.ndarray, core: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.einsum("os,srhw,ri->oihw", last, core, first)


# ---------------------------------------------------------------------------------------------------- factors


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_svd_is_the_best_approximation(seed: int, rank: int) -> None:
    """Eckart and Young: the squared error is the energy of the singular values that are cut off."""
    matrix = np.random.default_rng(seed).standard_normal((8, 6))
    left, right = lowrank.svd(matrix, rank)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert ((left @ right - matrix) ** 2).sum() == pytest.approx((values[rank:] ** 2).sum(), abs=1e-12)
    np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1))


def test_tucker_at_full_rank_is_the_weight() -> None:
    weight = kernel(0)
    np.testing.assert_allclose(rebuilt(*lowrank.tucker2(weight, 7, 10)), weight, atol=1e-12)


def test_tucker_finds_planted_ranks_and_then_errs_nowhere() -> None:
    random = np.random.default_rng(1)
    first, core, last = random.normal(size=(3, 7)), random.normal(size=(4, 3, 3, 3)), random.normal(size=(10, 4))
    weight = rebuilt(first, core, last)
    inner, outer = lowrank.energies(weight, "tucker")
    assert (lowrank.energy_rank(inner, 1.0), lowrank.energy_rank(outer, 1.0)) == (3, 4)
    np.testing.assert_allclose(rebuilt(*lowrank.tucker2(weight, 3, 4)), weight, atol=1e-9)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_tucker_is_a_projection_within_the_bound_and_cannot_be_bettered_in_one_mode(seed: int, r: int, s: int) -> None:
    weight = kernel(seed)
    first, core, last = lowrank.tucker2(weight, r, s, sweeps=200)
    np.testing.assert_allclose(first @ first.T, np.eye(r), atol=1e-9)
    np.testing.assert_allclose(last.T @ last, np.eye(s), atol=1e-9)
    error = ((rebuilt(first, core, last) - weight) ** 2).sum()
    assert error == pytest.approx((weight**2).sum() - (core**2).sum(), rel=1e-9)
    # Truncated HOSVD errs by at most the energies cut off in both modes; the iteration only lowers that.
    inner, outer = lowrank.energies(weight, "tucker")
    assert error <= (inner[r:].sum() + outer[s:].sum()) * (1 + 1e-9)
    # At a fixed point, each factor is the best one for the other.
    projected = lowrank.unfold(np.einsum("oihw,ri->orhw", weight, first), 0)
    best = (np.linalg.svd(projected, compute_uv=False)[:s] ** 2).sum()
    assert best == pytest.approx((core**2).sum(), rel=1e-4)


@given(st.integers(0, 1000), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_separable_is_the_best_of_each_channel(seed: int, rank: int) -> None:
    weight = kernel(seed, 5, 1, 3, 4)
    vertical, horizontal = lowrank.separable(weight, rank)
    columns, rows = vertical.reshape(5, rank, 3), horizontal.reshape(5, rank, 4)
    for channel in range(5):
        found = sum(np.outer(columns[channel, r], rows[channel, r]) for r in range(rank))
        values = np.linalg.svd(weight[channel, 0], compute_uv=False)
        assert ((found - weight[channel, 0]) ** 2).sum() == pytest.approx((values[rank:] ** 2).sum(), abs=1e-12)
    (energies,) = lowrank.energies(weight, "separable")
    assert energies.sum() == pytest.approx((weight**2).sum())


def test_cp_recovers_a_planted_tensor_and_improves_with_rank() -> None:
    random = np.random.default_rng(3)
    factors = [random.standard_normal((size, 3)) for size in (10, 7, 3, 3)]
    weight = np.einsum("or,ir,hr,wr->oihw", *factors)
    found = np.einsum("or,ir,hr,wr->oihw", *lowrank.cp(weight, 3, sweeps=2000))
    assert ((found - weight) ** 2).sum() < 1e-3 * (weight**2).sum()
    weight = kernel(4)
    errors = [((np.einsum("or,ir,hr,wr->oihw", *lowrank.cp(weight, r)) - weight) ** 2).sum() for r in (1, 4, 16, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * errors[0]


def test_cp_factors_are_equally_long_and_stationary() -> None:
    """Each factor solves its least-squares problem, given the others: the residual is at right angles to it."""
    weight = kernel(5)
    out, inner, high, wide = lowrank.cp(weight, 4, sweeps=3000)
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in (out, inner, high, wide)])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=1e-6)
    residual = np.einsum("or,ir,hr,wr->oihw", out, inner, high, wide) - weight
    slope = np.einsum("oihw,ir,hr,wr->or", residual, inner, high, wide)
    scale = np.einsum("oihw,ir,hr,wr->or", np.abs(weight), *map(np.abs, (inner, high, wide)))
    assert np.abs(slope / scale).max() < 1e-2


# ---------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.64, 1), (0.65, 2), (0.95, 2), (0.97, 3), (1.0, 3), (0.01, 1)])
def test_energy_rank_is_the_smallest_that_keeps_the_share(share: float, rank: int) -> None:
    assert lowrank.energy_rank(np.array([64.0, 32.0, 4.0, 0.0]), share) == rank


def test_energies_are_the_squared_singular_values_of_each_mode() -> None:
    weight = kernel(2)
    inner, outer = lowrank.energies(weight, "tucker")
    np.testing.assert_allclose(inner, np.linalg.svd(np.swapaxes(weight, 0, 1).reshape(7, -1), compute_uv=False) ** 2)
    np.testing.assert_allclose(outer, np.linalg.svd(weight.reshape(10, -1), compute_uv=False) ** 2)


@pytest.mark.parametrize(
    ("rank", "full", "unit", "rounded"),
    [(5, 64, 8, 8), (12, 64, 8, 8), (13, 64, 8, 16), (1, 64, 8, 8), (3, 6, 8, 6), (63, 64, 8, 64), (5, 64, 1, 5)],
)
def test_ranks_are_rounded_to_the_nearest_multiple(rank: int, full: int, unit: int, rounded: int) -> None:
    assert lowrank.round_rank(rank, full, unit) == rounded


@pytest.mark.parametrize(("full", "share", "rank"), [(10, 0.3, 3), (10, 0.7, 7), (3, 0.1, 1), (64, 0.5, 32)])
def test_a_share_counts_as_the_decimal_it_is_written_as(full: int, share: float, rank: int) -> None:
    assert lowrank.share_rank(full, share) == rank


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rows", "columns", "rank"), [(40, 60, 0), (40, 60, 5), (60, 40, 12), (30, 300, 1)])
def test_vbmf_finds_planted_ranks_and_the_noise(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = planted(rows, columns, rank, 0.5, seed)
    assert lowrank.vbmf_rank(matrix) == rank
    assert lowrank.vbmf_noise(matrix) == pytest.approx(0.25, rel=0.25)


def test_vbmf_drops_what_sinks_into_the_noise_and_does_not_depend_on_scale() -> None:
    ranks = [lowrank.vbmf_rank(planted(40, 80, 6, noise, 7, strength=1.0)) for noise in (0.01, 0.3, 1.0, 3.0)]
    assert ranks[0] == 6
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-1] < 6
    for scale in (1e-3, 1e3):
        assert lowrank.vbmf_rank(scale * planted(40, 80, 6, 0.3, 7)) == 6
    assert lowrank.vbmf_rank(np.zeros((4, 9))) == 0
    assert lowrank.vbmf_rank(planted(20, 30, 4, 0.0, 1)) == 4


def free_energy(gamma: float, rows: int, columns: int, variance: float, prior: float) -> float:
    """VB free energy of one component of strength `gamma` with prior product c_a c_b, at the fixed point that plain
    alternation finds, minus that of no component; noise part of the constant left out.

    The model is Y = b a' + noise with Gaussian priors of variances c_a^2 and c_b^2 on a (columns) and b (rows); means
    lie along the singular vectors. This is the ordinary variational update, not the closed form under test.
    """
    ca2 = cb2 = prior
    a, b = math.sqrt(gamma), math.sqrt(gamma)
    sa = sb = variance / gamma
    for _ in range(4000):
        sa = variance / (b * b + rows * sb + variance / ca2)
        a = sa / variance * gamma * b
        sb = variance / (a * a + columns * sa + variance / cb2)
        b = sb / variance * gamma * a
        ca2, cb2 = a * a / columns + sa, b * b / rows + sb  # empirical: the priors follow the posteriors
    energy = columns * math.log(ca2 / sa) + rows * math.log(cb2 / sb)
    energy += (a * a + columns * sa) / ca2 + (b * b + rows * sb) / cb2 - rows - columns
    return energy + (-2 * gamma * a * b + (a * a + columns * sa) * (b * b + rows * sb)) / variance


@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (20, 50), (10, 200)])
def test_a_component_is_kept_exactly_where_that_lowers_the_free_energy(rows: int, columns: int) -> None:
    """The oracle minimises the variational free energy of one component by alternation and compares it with that of
    leaving the component out, which is 0; the threshold of the closed form must be where the sign changes."""
    variance = 0.7
    edge = math.sqrt(columns * variance * lowrank._edge(rows / columns))
    above = free_energy(1.02 * edge, rows, columns, variance, prior=10.0)
    below = free_energy(0.98 * edge, rows, columns, variance, prior=10.0)
    assert above < 0 < below + 1e-9
    assert free_energy(1.5 * edge, rows, columns, variance, prior=10.0) < above


@pytest.mark.parametrize(("gamma", "rows", "columns"), [(30.0, 20, 50), (60.0, 20, 20), (45.0, 10, 200)])
def test_the_closed_form_energy_is_that_of_the_alternation(gamma: float, rows: int, columns: int) -> None:
    variance, alpha = 0.9, rows / columns
    edge = lowrank._edge(alpha)
    assert gamma > math.sqrt(columns * variance * edge)
    found = lowrank._free_energy(np.array([gamma**2]), variance, rows, columns, edge)
    x = gamma**2 / (columns * variance)
    gain = (found - (x - math.log(x))) * columns  # against no component
    assert gain == pytest.approx(free_energy(gamma, rows, columns, variance, prior=10.0), rel=1e-3)


def test_the_noise_is_where_the_energy_is_smallest() -> None:
    matrix = planted(30, 70, 4, 1.0, 11)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    edge = lowrank._edge(30 / 70)
    best = lowrank._free_energy(squares, lowrank.vbmf_noise(matrix), 30, 70, edge)
    others = [lowrank._free_energy(squares, variance, 30, 70, edge) for variance in np.geomspace(0.2, 10, 2001)]
    assert best <= min(others) + 1e-6
