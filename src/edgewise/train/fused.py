"""Batch norm, ReLU and max pooling as one operation for training on a CPU.

Written one after the other, the three read and write the largest activations of a net a dozen times per step, and that
is where small nets spend their time. Two facts save most of it:

- An affine map with a positive factor, ReLU and the maximum can change places, so that the map and ReLU may be done
  after pooling, on a fraction of the values (a negative factor turns the maximum into a minimum).
- The gradient behind the pooling is zero but at the maxima, so that the two sums batch norm needs for its gradient run
  over the pooled values only, and the gradient of its input is an affine map of the input, plus the few at the maxima.

The function is that of the three modules, up to the rounding of float32; ties of the maximum may share out otherwise.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

_POOL = torch.ops.aten.max_pool2d_with_indices.default


def fuse_for_training(module: nn.Module) -> None:
    """Replace BatchNorm2d, ReLU, MaxPool2d that follow each other in a Sequential, in place; names stay the same."""
    for parent in [child for child in module.modules() if isinstance(child, nn.Sequential)]:
        names, children = list(parent._modules), list(parent)
        for at in range(len(children) - 2):
            norm, act, pool = children[at : at + 3]
            if type(norm) is nn.BatchNorm2d and type(act) is nn.ReLU and _plain(pool) and norm.track_running_stats:
                setattr(parent, names[at], NormActPool(norm, pool))
                setattr(parent, names[at + 1], nn.Identity())
                setattr(parent, names[at + 2], nn.Identity())


def keep_large_blocks() -> None:
    """Ask glibc to keep freed memory instead of handing each large activation back to the system, which would have to
    clear and map its pages again in every step. Does nothing with another C library."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)


class NormActPool(nn.BatchNorm2d):
    """A BatchNorm2d that is followed by ReLU and a MaxPool2d; takes the place of the norm, with its parameters."""

    def __init__(self, norm: nn.BatchNorm2d, pool: nn.MaxPool2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.train(norm.training)
        self.window = (_pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding), (1, 1), pool.ceil_mode)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """float32 (N, channels, height, width) -> pooled (N, channels, height', width')."""
        if not self.training or self.momentum is None or not self.affine:
            return F.max_pool2d(F.relu(super().forward(input)), *self.window)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        pooled: torch.Tensor = _Fused.apply(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            (self.momentum, self.eps),
            self.window,
        )
        return pooled


class _Fused(torch.autograd.Function):
    """See the top of this file. Formulas of batch norm: Ioffe, Szegedy 2015, arXiv:1502.03167."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        running_mean: torch.Tensor,
        running_var: torch.Tensor,
        norm: tuple[float, float],
        window: tuple[Any, ...],
    ) -> torch.Tensor:
        momentum, eps = norm
        mean, variance = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        shift = bias - mean * scale
        if (scale < 0).any():
            sign = _wide(torch.where(scale < 0, -1.0, 1.0).to(x.dtype))
            pooled, index = _POOL(x * sign, *window)
            pooled = pooled * sign
        else:
            pooled, index = _POOL(x, *window)
        y = torch.addcmul(_wide(shift), pooled, _wide(scale)).relu_()
        ctx.save_for_backward(x, pooled, index, y, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, pooled, index, y, weight, mean, inverse = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad.contiguous(memory_format=torch.channels_last), y, 0)
        grad_bias = grad.sum((0, 2, 3))
        grad_weight = (grad * ((pooled - _wide(mean)) * _wide(inverse))).sum((0, 2, 3))
        scale = weight * inverse
        count = x.numel() // x.shape[1]
        slope = -scale * inverse * grad_weight / count
        level = -scale * grad_bias / count - slope * mean
        grad_input = _spread(x, slope, level, index, grad * _wide(scale))
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _spread(
    x: torch.Tensor, slope: torch.Tensor, level: torch.Tensor, index: torch.Tensor, peaks: torch.Tensor
) -> torch.Tensor:
    """``slope * x + level`` of each channel, with `peaks` added where `index` says; image by image, so that what is
    worked on stays in the cache. `index` counts positions within a channel, as max pooling gives it."""
    images, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(images, height, width * channels)
    at = index.permute(0, 2, 3, 1).reshape(images, -1, channels)
    values = peaks.permute(0, 2, 3, 1).reshape(images, -1)
    channel = torch.arange(channels)
    slopes, levels = slope.repeat(width), level.repeat(width)  # long rows, so that the loops below are long
    spread = torch.empty_like(rows)
    for image in range(images):
        torch.addcmul(levels, rows[image], slopes, out=spread[image])
        where = (at[image] * channels).add_(channel).reshape(-1)
        spread[image].view(-1).index_add_(0, where, values[image])
    return spread.view(images, height, width, channels).permute(0, 3, 1, 2)


def _wide(vector: torch.Tensor) -> torch.Tensor:
    return vector.view(1, -1, 1, 1)


def _plain(pool: nn.Module) -> TypeGuard[nn.MaxPool2d]:
    return type(pool) is nn.MaxPool2d and pool.dilation in (1, (1, 1)) and not pool.return_indices


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
