"""Weights that stay what they were made while a net is trained: on a grid, out of a codebook, or zero.

Each is a parametrisation of a layer's weight (`torch.nn.utils.parametrize`): training moves what stands behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from edgewise.compress.levels import Floats, Grid, Mask


class OnGrid(nn.Module):
    """float weights -> the nearest level of their row's grid; the gradient passes straight through within its ends.

    The scales are trained too, by the gradient of Esser et al. 2020 (LSQ, arXiv:1902.08153), but as logarithms of what
    they were multiplied with, so that one learning rate suits them and the weights. The centres stay.
    """

    start: torch.Tensor
    centres: torch.Tensor
    keep: torch.Tensor | None

    def __init__(self, grid: Grid, keep: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("start", torch.from_numpy(grid.scales.copy()))
        self.register_buffer("centres", torch.from_numpy(grid.centres.astype(np.float32)))
        self.register_buffer("keep", keep)
        self.drift = nn.Parameter(torch.zeros(len(grid.scales)))
        self.bits = grid.bits

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 (rows, ...) -> the same shape, on the grid."""
        wide = (-1,) + (1,) * (weight.dim() - 1)
        centres = self.centres.view(wide)
        drift = Slower.apply(self.drift, (weight[0].numel() * 2 ** (self.bits - 1)) ** -0.5)
        scale = _short(self.start * torch.exp(drift)).view(wide)
        steps = torch.clamp(weight / scale, -centres, 2 * (2**self.bits - 1) - centres)
        levels = scale * (2 * round_through((steps + centres) / 2) - centres)
        return levels if self.keep is None else torch.where(self.keep, levels, 0.0)

    def record(self) -> dict[str, Any]:
        """The layer's part of a `palettize` edit."""
        with torch.no_grad():
            scales = _short(self.start * torch.exp(self.drift)).tolist()
        return {"bits": self.bits, "scales": scales, "centres": [int(one) for one in self.centres.tolist()]}


class FromBooks(nn.Module):
    """Weights that are entries of codebooks; each weight keeps its entry, and training moves the entries.

    The gradient of an entry is the sum of those of its weights (Han et al. 2016, arXiv:1510.00149). An entry moves in
    units of its layer's root mean square, so that the learning rate of weights suits it.
    """

    start: torch.Tensor
    index: torch.Tensor
    unit: torch.Tensor
    keep: torch.Tensor | None

    def __init__(self, books: Floats, index: torch.Tensor, bits: int, keep: torch.Tensor | None) -> None:
        super().__init__()
        self.groups, self.bits = len(books), bits
        self.register_buffer("start", torch.from_numpy(books.reshape(-1).copy()))
        self.register_buffer("index", index)
        self.register_buffer("keep", keep)
        self.register_buffer("unit", torch.tensor(float(np.sqrt((books.astype(np.float64) ** 2).mean())) or 1.0))
        self.drift = nn.Parameter(torch.zeros(books.size))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the weight is what its entry says
        """The entries of all weights, float32 in the weight's shape."""
        values = self._entries()[self.index]
        return values if self.keep is None else torch.where(self.keep, values, 0.0)

    def _entries(self) -> torch.Tensor:
        return self.start + self.unit * self.drift

    def record(self) -> dict[str, Any]:
        """The layer's part of a `palettize` edit."""
        with torch.no_grad():
            books = self._entries().view(self.groups, -1).tolist()
        return {"bits": self.bits, "books": books}


class Halves(nn.Module):
    """float32 weights -> the nearest float16 values, as float32; the gradient passes straight through."""

    keep: torch.Tensor | None

    def __init__(self, keep: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 in, float32 of the same shape out."""
        values: torch.Tensor = _Straight.apply(weight, weight.detach().to(torch.float16).to(torch.float32))
        return values if self.keep is None else torch.where(self.keep, values, 0.0)

    def record(self) -> dict[str, Any]:
        """The layer's part of a `palettize` edit."""
        return {"bits": 16}


class Kept(nn.Module):
    """Weights where `keep` is True, zeros elsewhere."""

    keep: torch.Tensor

    def __init__(self, keep: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """float32 in, float32 of the same shape out."""
        return torch.where(self.keep, weight, 0.0)


def hold(layer: nn.Module, how: nn.Module) -> None:
    """Put a parametrisation before a layer's weight."""
    parametrize.register_parametrization(layer, "weight", how)


def held_by(layer: nn.Module) -> Any:
    """The parametrisation of a layer's weight."""
    return layer.parametrizations.weight[0]  # type: ignore[union-attr, index]


def settle(layer: nn.Module) -> None:
    """Make the weight what its parametrisation says, and take that away; -0 becomes 0."""
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    weight: Any = layer.weight
    with torch.no_grad():
        settled = nn.Parameter(weight.detach().contiguous() + 0.0)
    layer.weight = settled


def weighted(module: nn.Module) -> dict[str, Any]:
    """The layers whose weights are changed: convolutions and linear layers by name, in registration order."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Linear)
    return {name: part for name, part in module.named_modules() if isinstance(part, kinds)}


def rows_of(layer: Any) -> Floats:
    """A copy of a layer's weights, float32 (output channels, weights of each)."""
    weight: Floats = layer.weight.detach().cpu().reshape(len(layer.weight), -1).numpy().copy()
    return weight


def as_mask(keep: Mask | None, layer: Any) -> torch.Tensor | None:
    """bool (rows, columns) in the shape of a layer's weight."""
    return None if keep is None else torch.from_numpy(keep.copy()).view(layer.weight.shape)


class _Straight(torch.autograd.Function):
    """Other values in the place of some; the gradient passes straight through (Bengio et al., arXiv:1308.3432)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, instead: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return instead.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ARG004
        return grad, None


def round_through(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers (halves go to even ones), through which the gradient passes straight."""
    rounded: torch.Tensor = _Straight.apply(values, values.detach().round())
    return rounded


def _short(values: torch.Tensor) -> torch.Tensor:
    """Rounded to eight significant bits."""
    rounded: torch.Tensor = _Straight.apply(values, values.detach().to(torch.bfloat16).to(torch.float32))
    return rounded


class Slower(torch.autograd.Function):
    """The same values with a smaller gradient: LSQ's, against steps of scales that are large for their size."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        """The values."""
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient times the factor."""
        return grad * ctx.factor, None
