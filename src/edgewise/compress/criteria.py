"""By which measure a channel is weak: one pure function per criterion, from what is known of channels to their scores.

A set holds all channels that must stay or go together across the layers that share them. The smallest scores go first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

Name = Literal["l2", "l1", "bn", "taylor", "group", "activation", "apoz", "fpgm", "random"]
Needs = Literal["weights", "gradients", "activations"]


@dataclass(frozen=True)
class Channels:
    """What is known of one set of n channels; float64, on the CPU.

    filters: (n, values), the weights that compute each channel, in all layers that do; 0 where a layer lacks it.
    readers: (n, values), the weights by which it is read.
    scales: (n, norms), the factors of the batch norms it passes.
    changes: (batches, n), what each batch's loss would change by at first order if the filters became 0.
    activity: (n,), the mean magnitude of the values that its readers get.
    zeros: (n,), the share of these that are exactly 0.
    draw: (n,), uniform random numbers.
    """

    filters: torch.Tensor
    readers: torch.Tensor
    scales: torch.Tensor
    changes: torch.Tensor
    activity: torch.Tensor
    zeros: torch.Tensor
    draw: torch.Tensor


@dataclass(frozen=True)
class Criterion:
    """How channels are scored.

    score: from a set of channels to float64 (n,). needs: what has to be known besides the weights. paper: where from.
    """

    score: Callable[[Channels], torch.Tensor]
    needs: Needs
    paper: str


def _l1(channels: Channels) -> torch.Tensor:
    """Sum of the magnitudes of the filters."""
    return channels.filters.abs().sum(1)


def _l2(channels: Channels) -> torch.Tensor:
    """Root of the sum of their squares."""
    return channels.filters.square().sum(1).sqrt()


def _bn(channels: Channels) -> torch.Tensor:
    """Mean magnitude of the factors of the batch norms; where the channels pass none, the norm of the filters."""
    return channels.scales.abs().mean(1) if channels.scales.shape[1] else _l2(channels)


def _taylor(channels: Channels) -> torch.Tensor:
    """Mean over batches of the squared first-order change of the loss."""
    return channels.changes.square().mean(0)


def _group(channels: Channels) -> torch.Tensor:
    """Norm of all that goes with a channel: its filters, its norms' factors and the weights by which it is read."""
    everything = (channels.filters, channels.readers, channels.scales)
    return sum((part.square().sum(1) for part in everything), start=channels.filters.new_zeros(())).sqrt()


def _activation(channels: Channels) -> torch.Tensor:
    """Mean magnitude of what the next layers get."""
    return channels.activity


def _apoz(channels: Channels) -> torch.Tensor:
    """One minus the average percentage of zeros of what the next layers get."""
    return 1 - channels.zeros


def _fpgm(channels: Channels) -> torch.Tensor:
    """Sum of the distances to all other filters: the ones near the geometric median can be done without."""
    filters = channels.filters
    squares = filters.square().sum(1)
    return (squares[:, None] + squares[None] - 2 * filters @ filters.T).clamp_min(0).sqrt().sum(1)


def _random(channels: Channels) -> torch.Tensor:
    """The control: no measure at all."""
    return channels.draw


CRITERIA: dict[Name, Criterion] = {
    "l2": Criterion(_l2, "weights", "Li et al. 2017, arXiv:1608.08710"),
    "l1": Criterion(_l1, "weights", "Li et al. 2017, arXiv:1608.08710"),
    "bn": Criterion(_bn, "weights", "Liu et al. 2017, arXiv:1708.06519"),
    "taylor": Criterion(_taylor, "gradients", "Molchanov et al. 2019, arXiv:1906.10771"),
    "group": Criterion(_group, "weights", "Fang et al. 2023, arXiv:2301.12900"),
    "activation": Criterion(_activation, "activations", "Polyak, Wolf 2015"),
    "apoz": Criterion(_apoz, "activations", "Hu et al. 2016, arXiv:1607.03250"),
    "fpgm": Criterion(_fpgm, "weights", "He et al. 2019, arXiv:1811.00250"),
    "random": Criterion(_random, "weights", "the control"),
}
assert set(CRITERIA) == set(get_args(Name))
