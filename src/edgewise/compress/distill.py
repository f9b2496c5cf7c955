"""Knowledge distillation: a student learns from the labels and from a teacher's soft answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgewise.recipe import Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.models import Model


class DistillOptions(Strict):
    """Options of `distill`."""

    student: str | None = None
    """A fresh net to train, e.g. `convnet(8,16,32)`; default: the model as the plan has it so far is trained on."""
    tau: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Temperature: higher spreads the teacher's answers over more classes."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the teacher's part; the labels get the rest."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Training epochs; default: the recipe's `epochs` for a fresh student, its `finetune_epochs` otherwise."""


def distill(model: Model, options: DistillOptions, context: Context) -> Model:
    """Train a student under the context's teacher (Hinton et al. 2015, arXiv:1503.02531).

    The teacher answers once for each training image and its answers are kept, since images are not augmented: an epoch
    costs what plain training costs.

    Returns:
        The student with the weights of its best validation epoch.
    """
    import torch

    from edgewise.models import create_model
    from edgewise.train import logits
    from edgewise.train.losses import DistillationLoss

    soft = torch.from_numpy(logits(context.teacher, context.dataset.train.images))
    loss = DistillationLoss(soft, options.alpha, options.tau)
    if options.student is None:
        return context.finetune(model, epochs=options.epochs, loss=loss)
    student = create_model(options.student, labels=model.labels, input=model.input, seed=context.seed)
    return context.fit(student, epochs=options.epochs, loss=loss)
