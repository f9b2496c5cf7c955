"""Counting a model: parameters, multiply-adds, bytes. How long it takes is measured elsewhere, never counted.

A MAC is one multiply-add of a convolution or a linear layer, for one image. Left out: bias additions, normalisation,
activations, pooling, and the products of attention among its own activations. FLOPs are two per MAC.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgewise.bundle import InputSpec


@dataclass(frozen=True)
class ModelCost:
    """Counts of one model; `macs` for one image; `size_bytes` of the parameters as they are stored in memory.

    `params_zero` counts parameters that are exactly 0, `params_nonzero` the others.
    """

    params_total: int
    params_nonzero: int
    params_zero: int
    macs: int
    size_bytes: int

    @property
    def flops(self) -> int:
        """Two operations per multiply-add."""
        return 2 * self.macs


def cost(module: nn.Module, input: InputSpec) -> ModelCost:
    """Count a classifier in eval mode; neither its mode nor its weights change.

    Args:
        module: takes (N, channels, height, width).
        input: the size at which multiply-adds are counted.
    """
    parameters = list(module.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    nonzero = sum(int(torch.count_nonzero(parameter)) for parameter in parameters)
    with FlopCounterMode(display=False) as counter:
        dry_run(module, input)
    # The counter sees the operators below the layers, two operations per multiply-add. A linear layer is `addmm` with
    # bias and `mm` without; `bmm` and the fused kernels, which are attention's own products, are left out.
    aten = torch.ops.aten
    counted = counter.get_flop_counts().get("Global", {})
    operations = sum(counted.get(operator, 0) for operator in (aten.convolution, aten.addmm, aten.mm))
    return ModelCost(
        params_total=total,
        params_nonzero=nonzero,
        params_zero=total - nonzero,
        macs=operations // 2,
        size_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    )


def dry_run(module: nn.Module, input: InputSpec) -> tuple[int, ...]:
    """One black image through a net in eval mode; the shape of its output.

    Raises:
        RuntimeError: or whatever else the net raises when it cannot take such an image.
        TypeError: the net returns something else than a tensor.
    """
    like = next(module.parameters())
    image = torch.zeros(1, input.channels, input.height, input.width, device=like.device, dtype=like.dtype)
    with _evaluating(module), torch.no_grad():
        output = module(image)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the net returns a {type(output).__name__} instead of one tensor of logits")
    return tuple(output.shape)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every part is in the mode it had after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
