"""Fewer stages: the net is cut after a part, gets a new classifier there, and is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgewise.errors import NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.models import Model


class TruncateOptions(Strict):
    """Options of `truncate`."""

    after: str
    """The last part to keep, with dots for parts of parts, e.g. `stage3` or `"blocks.3"`."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning; default: the recipe's `finetune_epochs`; 0 for none."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""


def truncate(model: Model, options: TruncateOptions, context: Context) -> Model:
    """Cut a model after a part and train it on; the given model is not changed.

    The parts that stay keep their weights; global average pooling and a fresh linear classifier follow.

    Raises:
        ConfigError: there is no such part, or the net is not a chain up to it (C44).
        NoEffect: nothing that computes is cut off (N27).
    """
    from edgewise.models.cost import cost
    from edgewise.models.surgery import truncate_model

    made = truncate_model(model, options.after, seed=context.seed)
    if cost(made.module, made.input).macs >= cost(model.module, model.input).macs:
        raise NoEffect(
            "truncate cuts nothing off",
            code="N27",
            where={"model": model.architecture, "after": options.after},
            why="no convolution or linear layer but the classifier comes after that part",
            fix="cut after an earlier part, or leave the step out of the plan",
        )
    return made if options.epochs == 0 else context.finetune(made, epochs=options.epochs, lr=options.lr)
