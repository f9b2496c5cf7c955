"""The same family with fewer or more channels everywhere, trained from fresh weights.

A width multiplier (Howard et al. 2017, MobileNets, arXiv:1704.04861) is what pruning has to beat: no channel is chosen,
the net is just made narrower and trained. Our own families and those with a multiplier of their own are made by name;
any other net is shrunk along its dependency graph.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgewise.errors import ConfigError, NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.models import Model


class WidthOptions(Strict):
    """Options of `width`."""

    alpha: Annotated[float, Field(ge=0.1, le=2)] = 0.5
    """What the channels of every layer are multiplied with; 0.25 to 1.4 are usual. Above 1 only families that have a
    multiplier."""
    round_to: Annotated[int, Field(ge=1, le=256)] = 8
    """Channels are brought to the nearest multiple of this; library families with a multiplier round by their own rule
    (multiples of 8, of 4 in GhostNet)."""
    inherit: bool = False
    """Start from the largest filters of the trained model, as `prune` does, instead of fresh weights."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of training; default: the recipe's `epochs`; 0 for none, where a later step of the plan trains."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `lr`."""


def width(model: Model, options: WidthOptions, context: Context) -> Model:
    """Make the model narrower or wider and train it with the whole recipe; the given model is not changed.

    Raises:
        NoEffect: all widths stay what they are (N26).
        ConfigError: the net cannot be made wider (C84), or not be shrunk (C45).
    """
    made = scale_width(model, options, context.seed)
    return made if options.epochs == 0 else context.fit(made, epochs=options.epochs, lr=options.lr)


def scale_width(model: Model, options: WidthOptions, seed: int) -> Model:
    """`width` without the training."""
    from edgewise.models import create_model, with_width

    if model.structure or (options.inherit and options.alpha < 1):
        return _shrunk(model, options, seed)
    name = with_width(model.architecture, options.alpha, options.round_to)
    if name is None or options.inherit:
        return _shrunk(model, options, seed)
    made = create_model(name, labels=model.labels, input=model.input, seed=seed)
    if _shapes(made) == _shapes(model):
        raise _nothing(model, options)
    return made


def _shrunk(model: Model, options: WidthOptions, seed: int) -> Model:
    """Any net, along its dependency graph."""
    from edgewise.compress.prune import PruneOptions, remove_channels
    from edgewise.models import rebuild

    if options.alpha > 1:
        raise ConfigError(
            "this net cannot be made wider",
            code="C84",
            where={"model": model.architecture, "alpha": options.alpha},
            why="weights cannot be inherited by channels that were not there"
            if options.inherit
            else "its family has no width multiplier, or its structure was changed before",
            fix="take an alpha below 1, or name a larger net of the family",
        )
    ratio = round(1 - options.alpha, 6)
    try:
        narrow = remove_channels(model, PruneOptions(ratio=ratio, round_to=options.round_to))
    except NoEffect as problem:
        raise _nothing(model, options) from problem
    return narrow if options.inherit else rebuild(narrow, seed=seed)


def _shapes(model: Model) -> str:
    return json.dumps([[name, list(tensor.shape)] for name, tensor in model.module.state_dict().items()])


def _nothing(model: Model, options: WidthOptions) -> NoEffect:
    return NoEffect(
        "width changes nothing",
        code="N26",
        where={"model": model.architecture, "alpha": options.alpha, "round_to": options.round_to},
        why="rounded, every layer keeps its channels",
        fix="take an alpha further from 1, lower round_to, or leave the step out of the plan",
    )
