"""Knowledge distillation: a student learns from the labels and from a teacher's soft answers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgewise.recipe import Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.models import Model
    from edgewise.train.losses import Teacher


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

    Where training images are not augmented, the teacher answers once for each and its answers are kept: an epoch costs
    what plain training costs. Where they are, the teacher is asked about each changed batch, so that it speaks of what
    the student sees: an epoch costs a forward pass of the teacher more.

    Returns:
        The student with the weights of its best validation epoch.
    """
    import torch

    from edgewise.models import create_model
    from edgewise.train import logits
    from edgewise.train.losses import DistillationLoss

    if context.augmented:
        loss = DistillationLoss(_answering(context.teacher), options.alpha, options.tau)
    else:
        kept = torch.from_numpy(logits(context.teacher, context.dataset.train.images))
        loss = DistillationLoss(kept, options.alpha, options.tau)
    if options.student is None:
        return context.finetune(model, epochs=options.epochs, loss=loss)
    student = create_model(options.student, labels=model.labels, input=model.input, seed=context.seed)
    return context.fit(student, epochs=options.epochs, loss=loss)


def _answering(teacher: Model) -> Teacher:
    """The teacher as a function of normalised images, on whatever device they are; the given model is not changed."""
    module = copy.deepcopy(teacher.module).eval()
    return lambda images: module.to(images.device)(images)
