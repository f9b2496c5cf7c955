"""Low-rank factors of weights and the choice of ranks; numpy, float64, no training.

A weight of a convolution is (O, I, kh, kw), of a linear layer (O, I). "Energy" is the sum of squares; all truncations
here are by singular values, so that the energy of what is cut off is the squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unfold(tensor: Array, mode: int) -> Array:
    """(size of that mode, all others)."""
    return np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def energies(weight: Array, form: str) -> tuple[Array, ...]:
    """The energy of each component, largest first, along each mode of a form that is cut (see `models.factor`).

    Of a Tucker decomposition the input channels, then the output channels; of a separable one the sums over channels.
    """
    if form == "separable":
        return ((np.linalg.svd(weight[:, 0], compute_uv=False) ** 2).sum(0),)
    return tuple(_gram_values(unfold(weight, mode)) for mode in ((1, 0) if form == "tucker" else (0,)))


def energy_rank(energies: Array, share: float) -> int:
    """The smallest number of components that keep this share of the energy, 0..1; at least 1."""
    kept = np.cumsum(energies)
    return min(len(kept), 1 + int(np.searchsorted(kept, share * kept[-1] * (1 - 1e-12))))


def share_rank(full: int, share: float) -> int:
    """floor(full x share), at least 1; the share counts as the decimal number it is written as."""
    return max(1, math.floor(full * Fraction(str(share))))


def round_rank(rank: int, full: int, unit: int) -> int:
    """The nearest multiple of `unit`, ties down, at least one multiple, at most the full rank."""
    return min(full, max(1, math.ceil(Fraction(rank, unit) - Fraction(1, 2))) * unit)


def svd(matrix: Array, rank: int) -> tuple[Array, Array]:
    """(rows, rank) and (rank, columns) whose product is the best approximation (Eckart, Young 1936).

    The singular values are shared out evenly, so that both factors are of one size and train alike.
    """
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def tucker2(weight: Array, inner: int, outer: int, sweeps: int = 10) -> tuple[Array, Array, Array]:
    """Tucker decomposition along the two channel modes: (inner, I), (outer, inner, kh, kw), (O, outer).

    Truncated higher-order SVD, then higher-order orthogonal iteration (De Lathauwer et al. 2000), which can only lower
    the squared error. The two channel factors have orthonormal rows and columns.
    """
    into = _leading(unfold(weight, 1), inner)
    kept = -1.0
    for _ in range(sweeps):
        out = _leading(unfold(np.einsum("oihw,ir->orhw", weight, into), 0), outer)
        into = _leading(unfold(np.einsum("oihw,os->sihw", weight, out), 1), inner)
        core = np.einsum("oihw,os,ir->srhw", weight, out, into)
        energy = float((core**2).sum())
        if energy <= kept * (1 + 1e-7):
            break
        kept = energy
    return into.T, core, out


def separable(weight: Array, rank: int) -> tuple[Array, Array]:
    """Depthwise (C, 1, kh, kw) -> (rank C, 1, kh, 1) and (C, rank, 1, kw): the best of each channel by itself."""
    channels, _, height, width = weight.shape
    left, values, right = np.linalg.svd(weight[:, 0], full_matrices=False)
    root = np.sqrt(values[:, :rank])
    vertical = np.swapaxes(left[:, :, :rank] * root[:, None], 1, 2).reshape(channels * rank, 1, height, 1)
    return vertical, (root[:, :, None] * right[:, :rank]).reshape(channels, rank, 1, width)


def cp(weight: Array, rank: int, *, seed: int = 0, sweeps: int = 200) -> tuple[Array, Array, Array, Array]:
    """Canonical polyadic decomposition by alternating least squares: (O, R), (I, R), (kh, R), (kw, R).

    ``weight[o, i, h, w] ~ sum_r O[o, r] I[i, r] H[h, r] W[w, r]``. A small ridge keeps terms from growing against each
    other; the columns come back equally long in all four factors. A local optimum: there is no best one in general.
    """
    random = np.random.default_rng(seed)
    factors = [random.standard_normal((size, rank)) for size in weight.shape]
    total, before = float((weight**2).sum()), np.inf
    ridge = 1e-9 * max(total, 1e-300) * np.eye(rank)
    for _ in range(sweeps):
        for mode in range(4):
            others = [factors[other] for other in range(4) if other != mode]
            gram = math.prod((factor.T @ factor for factor in others), start=np.ones((rank, rank)))
            product = others[0]
            for factor in others[1:]:
                product = (product[:, None] * factor[None]).reshape(-1, rank)
            onto = unfold(weight, mode) @ product
            factors[mode] = np.linalg.solve(gram + ridge, onto.T).T.astype(np.float64)
        # ||w - f||^2 = ||w||^2 - 2 <w, f> + ||f||^2, from what the last mode has at hand.
        last = factors[3]
        error = total - 2 * float((onto * last).sum()) + float((gram * (last.T @ last)).sum())
        lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
        even = np.prod(lengths, axis=0) ** 0.25
        factors = [
            factor * (even / np.maximum(length, 1e-300)) for factor, length in zip(factors, lengths, strict=True)
        ]
        if before - error <= 1e-6 * total:
            break
        before = error
    return factors[0], factors[1], factors[2], factors[3]


def _leading(matrix: Array, rank: int) -> Array:
    """(rows, rank): its leading left singular vectors, from the rows x rows products, which are few."""
    vectors: Array = np.linalg.eigh(matrix @ matrix.T)[1].astype(np.float64)
    return vectors[:, ::-1][:, :rank]


def _gram_values(matrix: Array) -> Array:
    """The squares of the singular values, largest first."""
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values: Array = np.linalg.eigvalsh(small @ small.T)[::-1].astype(np.float64)
    return np.maximum(values, 0)


# ---------------------------------------------------------------------------------------------------------------
# Ranks from the noise: empirical variational Bayesian matrix factorisation.


def vbmf_rank(matrix: Array) -> int:
    """How many components stand out of Gaussian noise of unknown size; 0 when none does.

    Nakajima, Sugiyama, Babacan, Tomioka: Global Analytic Solution of Fully-observed Variational Bayesian Matrix
    Factorization, JMLR 14 (2013). A component is kept when its singular value is above
    ``sqrt(M sigma2 (1 + t)(1 + alpha / t))``, sigma2 being the noise that makes the free energy smallest.
    """
    return int((np.linalg.svd(matrix, compute_uv=False) > vbmf_threshold(matrix)).sum())


def vbmf_threshold(matrix: Array) -> float:
    """The singular value from which on a component is kept, at the best noise variance."""
    rows, columns = sorted(matrix.shape)
    return math.sqrt(columns * vbmf_noise(matrix) * _edge(rows / columns))


def vbmf_noise(matrix: Array) -> float:
    """The noise variance at which the free energy of the factorisation is smallest; 0 for a matrix of zeros.

    The energy has several minima, so the whole interval in which the best one lies is searched: from a variance at
    which as many components as ever can be kept would be, up to that at which none is.
    """
    rows, columns = sorted(matrix.shape)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    if squares[0] == 0:
        return 0.0
    squares = np.maximum(squares, 1e-24 * squares[0])
    edge = _edge(rows / columns)
    most = min(rows, math.ceil(rows / (1 + rows / columns)) - 1)
    high = squares.sum() / (rows * columns)
    low = max(squares[most:].mean() / columns, squares[most] / (columns * edge)) if most < rows else 0.0
    low = min(max(low, 1e-12 * high), high)
    return _smallest(lambda variance: _free_energy(squares, variance, rows, columns, edge), float(low), float(high))


def _free_energy(squares: Array, variance: float, rows: int, columns: int, edge: float) -> float:
    """Of the best factorisation at a noise variance, 2 / columns of it, up to a constant; `squares` are those of the
    singular values."""
    alpha = rows / columns
    x = squares / (columns * variance)
    energy = float((x - np.log(x)).sum())
    kept = x[x > edge]
    t = (kept - (1 + alpha) + np.sqrt((kept - (1 + alpha)) ** 2 - 4 * alpha)) / 2
    return energy + float((np.log(t + 1) + alpha * np.log(t / alpha + 1) - t).sum())


def _edge(alpha: float) -> float:
    """``(1 + t)(1 + alpha / t)`` at the root t of ``f(t) + f(t / alpha)``, where ``f(z) = log(1 + z) / z - 1 / 2``."""

    def balance(t: float) -> float:
        return math.log1p(t) / t + math.log1p(t / alpha) * alpha / t - 1

    low, high = 1e-9, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if balance(middle) > 0 else (low, middle)
    return (1 + low) * (1 + alpha / low)


def _smallest(energy: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of a positive number is smallest: a fine grid of its logarithm, refined four times."""
    start, end = math.log(low), math.log(high)
    for _ in range(5):
        grid = np.linspace(start, end, 300)
        at = int(np.argmin([energy(math.exp(point)) for point in grid]))
        start, end = float(grid[max(0, at - 1)]), float(grid[min(len(grid) - 1, at + 1)])
    return math.exp((start + end) / 2)
