"""What moves the weights: parameter groups, optimisers, learning-rate schedules, and the moving average of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from edgewise.recipe import TrainOptions

Schedule = Callable[[int], float]
"""Step, counted from 0 -> the share of the peak learning rate, 0..1."""

ONECYCLE_RISE = 0.3
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 250_000


def make_schedule(options: TrainOptions, epochs: int, steps_per_epoch: int) -> Schedule:
    """The schedule a recipe asks for, over `epochs` of `steps_per_epoch` steps."""
    steps = epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), steps // 2)
    if options.schedule == "onecycle":
        return lambda step: one_cycle(step, steps)  # it brings a warm-up of its own
    if options.schedule == "restarts":
        first = options.restart_epochs * steps_per_epoch
        after: Schedule = lambda step: warm_restarts(step, first, options.restart_mult)  # noqa: E731
    elif options.schedule == "constant":
        after = lambda _step: 1.0  # noqa: E731
    else:
        after = lambda step: cosine(step, steps - warmup)  # noqa: E731
    return lambda step: (step + 1) / warmup if step < warmup else after(step - warmup)


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov, Hutter: SGDR, arXiv:1608.03983, without restarts)."""
    return _fall(step / max(1, steps))


def warm_restarts(step: int, first: int, mult: int) -> float:
    """Cosines that start anew (SGDR, arXiv:1608.03983): the first of `first` steps, each next `mult` times as long."""
    length = first
    while step >= length:
        step -= length
        length *= mult
    return cosine(step, length)


def one_cycle(step: int, steps: int) -> float:
    """Smith, Topin: Super-Convergence, arXiv:1708.07120, as torch's OneCycleLR anneals it: a cosine up over the first
    30 % from 1/25, then a cosine down to 1/250,000. Momentum is not cycled."""
    top = max(1.0, ONECYCLE_RISE * steps - 1)
    if step <= top:
        return ONECYCLE_START + (1 - ONECYCLE_START) * (1 - _fall(step / top))
    return ONECYCLE_END + (1 - ONECYCLE_END) * _fall((step - top) / max(1.0, steps - 1 - top))


def make_optimizer(
    module: torch.nn.Module, options: TrainOptions, peak: float, head: tuple[str, ...] = ()
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov, Hutter, arXiv:1711.05101) or SGD with Nesterov momentum over the parameters that train.

    Vectors (biases, norms) are not decayed. Each group carries its peak learning rate as ``peak``.

    Args:
        module: its parameters with `requires_grad` are taken.
        options: optimiser, weight decay, momentum, backbone_lr.
        peak: the learning rate of the head, and of the backbone unless `options.backbone_lr` gives another.
        head: names of the parameters of the classifier.
    """
    backbone_peak = peak if options.backbone_lr is None else options.backbone_lr
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            rate = peak if name in head else backbone_peak
            decay = options.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=peak, momentum=options.momentum, nesterov=options.momentum > 0, fused=True)
    return torch.optim.AdamW(settings, lr=peak, fused=True)


class MovingAverage:
    """An exponential moving average of all weights and buffers (Polyak averaging as in arXiv:1703.01780).

    The decay of update t is ``min(decay, (1 + t) / (10 + t))``, so that the first epochs are not dominated by the
    fresh weights.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Take one step towards the weights of `module`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = [], []
        for own, other in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if own.is_floating_point():
                mine.append(own)
                theirs.append(other)
            else:
                own.copy_(other)
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def _fall(share: float) -> float:
    """Half a cosine: 1 at 0, 0 at 1 and after."""
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
