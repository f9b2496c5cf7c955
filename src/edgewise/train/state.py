"""What a training has to remember to go on as if nothing had happened; see docs/decisions/0007."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from edgewise.data import Split
from edgewise.models import Model
from edgewise.recipe import TrainOptions

HARMLESS = frozenset(
    {"epochs", "patience", "device", "threads", "checkpoint_minutes", "trackers", "finetune_epochs", "finetune_lr"}
)
"""Training options that a checkpoint does not bind; the number of epochs only stretches the schedule."""


@dataclass
class State:
    """What a checkpoint knows besides tensors, as plain JSON data.

    `epoch` is the one in work, counted from 1, `step` the steps of it that are done.
    """

    threads: int
    amp: str
    chunk: int
    """Images computed at once; below the batch size after memory ran out."""
    fused: bool = False
    """Whether norm, activation and pooling run as one operation; stays what it was when `amp` is switched off."""
    epoch: int = 1
    step: int = 0
    seen: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    lr_scale: float = 1.0
    rolled_back: bool = False
    ema_updates: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, float] = field(default_factory=dict)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """The moments of an optimiser under names; its settings are made anew from the recipe."""
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                yield f"{number}/{key}", value


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    stored: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split("/")
        like = parameters[int(number)]
        if value.shape == like.shape:  # the fused kernels take it for granted that moments lie in memory as weights do
            value = torch.empty_like(like, requires_grad=False).copy_(value)
        stored.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": stored, "param_groups": optimizer.state_dict()["param_groups"]})


def images_hash(train: Split) -> str:
    """Of the training images and their labels: sha256, hexadecimal."""
    return hashlib.sha256(repr((train.names, train.sha256, train.labels.tolist())).encode()).hexdigest()


@torch.no_grad()
def fingerprint(model: Model, options: TrainOptions, facts: list[Any]) -> str:
    """Of all that the weights of a step depend on, besides the machine: sha256, hexadecimal.

    Args:
        model: where the training starts.
        options: those in `HARMLESS` do not count, lr and batch size are given among the facts as they are used.
        facts: whatever else counts, as plain JSON data.
    """
    digest = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings = options.model_dump(mode="json", exclude={*HARMLESS, "batch_size", "lr"})
    known = [model.architecture, model.structure, dataclasses.asdict(model.input), model.labels, settings, facts]
    digest.update(json.dumps(known).encode())
    return digest.hexdigest()
