"""int8 arithmetic as a float net sees it while it is trained: layers on integer grids, activations in 256 steps.

Jacob et al. 2018 (arXiv:1712.05877) for the simulation, Esser et al. 2020 (LSQ, arXiv:1902.08153) for learnt steps.
Everything here computes in float32 also under autocast: bfloat16 has fewer levels than what is simulated.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edgewise.compress.held import OnGrid, Slower, round_through
from edgewise.compress.ranges import Range

MEMORY = 0.99
"""How much of a moving range stays at each batch."""


def whole_steps(low: float, high: float, *, signed: bool) -> tuple[float, int]:
    """The step of 8 bits over a range, and which level is zero.

    unsigned: 0..255 from `low` to `high`, zero a whole level. signed: -128..127, symmetric, zero is level 0.
    """
    if signed:
        return max(-low, high, 1e-8) / 127, 0
    step = max(high - low, 1e-8) / 255
    return step, min(255, max(0, round(-low / step)))


class OnSteps(nn.Module):
    """Activations -> the nearest of 256 levels of one step for the whole tensor; the gradient passes within the ends.

    learnt: the step is trained by the gradient of LSQ, as the logarithm of what it was multiplied with, and the level
    of zero stays. Otherwise the ends follow the smallest and largest values of the batches by a moving average, for the
    first `follow` images of training, and stay then. most: no range ends above it.
    """

    low: torch.Tensor
    high: torch.Tensor
    seen: torch.Tensor

    def __init__(self, ends: Range, *, signed: bool, learnt: bool, follow: int = 0, most: float | None = None) -> None:
        super().__init__()
        self.most = None if most is None else most / (127 if signed else 255)
        self.register_buffer("low", torch.tensor(min(0.0, ends[0])))
        self.register_buffer("high", torch.tensor(max(0.0, ends[1])))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.drift = nn.Parameter(torch.zeros(())) if learnt else None
        self.signed, self.follow = signed, follow

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """float32 in, float32 of the same shape out."""
        bottom, top = (-128, 127) if self.signed else (0, 255)
        if not self.training:
            step, zero = self.steps()
            return torch.fake_quantize_per_tensor_affine(values.float(), step, zero, bottom, top)
        with torch.autocast(values.device.type, enabled=False):
            values = values.float()
            if self.drift is None:
                self._watch(values.detach())
                step, zero = self.steps()
                return torch.fake_quantize_per_tensor_affine(values, step, zero, bottom, top)
            start, zero = whole_steps(float(self.low), float(self.high), signed=self.signed)
            slower = Slower.apply(self.drift, (values[0].numel() * top) ** -0.5)
            scale = start * torch.exp(slower)
            scale = scale if self.most is None else scale.clamp_max(self.most)
            steps = torch.clamp(values / scale + zero, bottom, top)
            return (round_through(steps) - zero) * scale

    @torch.no_grad()
    def _watch(self, values: torch.Tensor) -> None:
        if int(self.seen) >= self.follow:
            return
        self.seen += len(values)
        for end, now in ((self.low, values.min().clamp_max(0)), (self.high, values.max().clamp_min(0))):
            end.mul_(MEMORY).add_(now, alpha=1 - MEMORY)

    @torch.no_grad()
    def steps(self) -> tuple[float, int]:
        """The step, and the level of zero."""
        step, zero = whole_steps(float(self.low), float(self.high), signed=self.signed)
        factor = 1.0 if self.drift is None else float(torch.exp(self.drift))
        step = step * factor if self.most is None else min(step * factor, self.most)
        return float(torch.tensor(step)), zero


class OnInts(nn.Module):
    """A convolution or linear layer that computes with 8-bit weights, its batch norm folded in.

    The weights that are brought to the grid are those that an exporter writes, at every step: folded with the norm's
    running statistics. For the first `follow` images of training the norm still takes the statistics of each batch
    behind them, and the running ones follow; then they stay, and only scale and shift are trained on (Krishnamoorthi
    2018, arXiv:1806.08342, section 3.2.2).
    """

    seen: torch.Tensor

    def __init__(self, layer: nn.Module, norm: nn.Module | None, follow: int = 0) -> None:
        super().__init__()
        self.layer, self.norm, self.follow = layer, norm, follow
        self.grid: OnGrid | None = None
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias with the norm in them, float."""
        layer: Any = self.layer
        if self.norm is None:
            return layer.weight, layer.bias
        norm: Any = self.norm
        factor = torch.rsqrt(norm.running_var + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight
        shift = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
        shift = shift * factor if norm.bias is None else shift * factor + norm.bias
        return layer.weight * factor.view((-1,) + (1,) * (layer.weight.dim() - 1)), shift

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """What the layer and its norm give, float32."""
        with torch.autocast(values.device.type, enabled=False):
            weight, bias = self.folded()
            weight = weight if self.grid is None else self.grid(weight)
            if self.training and self.norm is not None and int(self.seen) < self.follow:
                return self._by_the_batch(values.float(), weight)
            return self._computed(values.float(), weight, bias)

    def _computed(self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(values, weight, bias)
        layer: Any = self.layer
        computed: torch.Tensor = layer._conv_forward(values, weight, bias)
        return computed

    def _by_the_batch(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Folded weights with their factor divided out again, then the norm as it is in training."""
        self.seen += len(values)
        norm, layer = self.norm, self.layer
        told: Any = norm
        factor = torch.rsqrt(told.running_var + told.eps)
        factor = factor if told.weight is None else factor * told.weight
        factor = torch.where(factor.abs() < 1e-6, 1.0, factor)
        out = self._computed(values, weight, None)
        wide = (1, -1) + (1,) * (out.dim() - 2)
        out = out / factor.view(wide)
        bias: Any = layer.bias
        out = out if bias is None else out + bias.view(wide)
        normed: torch.Tensor = told(out)
        return normed


@torch.no_grad()
def settle_layer(layer: nn.Module, norm: nn.Module | None, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Put folded values back into a layer and its norm, which gives on what it is given afterwards, plus the bias.

    The norm divides by exactly 1, so that whoever folds it again gets the weights to the bit.
    """
    like: Any = layer
    like.weight.copy_(weight + 0.0)  # -0 becomes 0
    if norm is None:
        if bias is not None:
            like.bias.copy_(bias)
        return
    told: Any = norm
    assert bias is not None
    if like.bias is not None:
        like.bias.zero_()
    one = torch.tensor(1.0)
    variance = one - told.eps
    while variance + told.eps != one:  # one unit in the last place, where float32 rounds the other way
        variance = torch.nextafter(variance, one)
    told.running_var.fill_(float(variance))
    if told.weight is not None:
        told.weight.fill_(1.0)
    if told.bias is None:
        told.running_mean.copy_(-bias)
    else:
        told.running_mean.zero_()
        told.bias.copy_(bias)
