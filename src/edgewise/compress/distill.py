"""Knowledge distillation: a student learns from the labels and from the soft answers of one or more teachers."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import Field

from edgewise.errors import ConfigError
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.models import Model
    from edgewise.train.losses import DistillationLoss
    from edgewise.train.soft import Soft

BASE, SELF = "base", "self"


class DistillOptions(Strict):
    """Options of `distill`."""

    student: str | None = None
    """A fresh net to train, e.g. `convnet(8,16,32)`; default: the model as the plan has it so far is trained on."""
    tau: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Temperature: higher spreads the teacher's answers over more classes."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the teacher's part; the labels get the rest."""
    teacher: str | Annotated[tuple[str, ...], Field(min_length=1)] = BASE
    """Who teaches, one or a list whose logits are averaged: `base`, the run's base model; `self`, the model as the plan
    has it, whose student is then a fresh net of its own structure; a run or model folder in quotes, e.g. "runs/large";
    or any model name, which is first trained as the recipe says."""
    loss: Literal["kd", "dkd", "dist"] = "kd"
    """How answers are compared: by Hinton's divergence (kd), with the true class and the others apart (dkd), or by
    correlation over classes and over images (dist)."""
    beta: Annotated[float, Field(ge=0, le=100)] = 8.0
    """Weight of the other classes in dkd."""
    standardize: bool = False
    """Bring the logits of each image to mean 0 and deviation 1 before they are compared (kd and dkd)."""
    similarity: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """Weight of a further part: the features before the classifier shall find the same images of a batch alike as the
    first teacher's do; 0 for none, 3000 is the paper's."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Training epochs; default: the recipe's `epochs` for a fresh student, its `finetune_epochs` otherwise."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `lr` for a fresh student, else its `finetune_lr`."""

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> DistillOptions:
        if self.loss == "dist" and self.standardize:
            raise ValueError("dist compares by correlation and needs no standardize; leave it out")
        return self


def distill(model: Model, options: DistillOptions, context: Context) -> Model:
    """Train a student under its teachers; the given model is not changed.

    Where training images are not augmented, the teachers answer once for each and their answers are kept: an epoch
    costs what plain training costs. Where they are, the teachers are asked about each changed batch, so that they speak
    of what the student sees: an epoch costs a forward pass of each teacher more.

    Returns:
        The student with the weights of its best validation epoch.

    Raises:
        ConfigError: a teacher is not there (C89), knows other classes (C87) or takes other images (C88).
    """
    from edgewise.models import create_model, rebuild

    names = (options.teacher,) if isinstance(options.teacher, str) else options.teacher
    teachers = [_teacher(name, model, context) for name in names]
    train = context.fit
    if options.student is not None:
        student = create_model(options.student, labels=model.labels, input=model.input, seed=context.seed)
    elif SELF in names:
        student = rebuild(model, seed=context.seed)
    else:
        student, train = model, context.finetune
    return train(student, epochs=options.epochs, lr=options.lr, loss=_loss(teachers, student, options, context))


def _teacher(name: str, model: Model, context: Context) -> Model:
    from edgewise.models import create_model, open_model
    from edgewise.models.foreign import model_folder

    if name in (BASE, SELF):
        return context.teacher if name == BASE else model
    path = Path(name).expanduser()
    if path.is_dir():
        return open_model(model_folder(path))
    if "/" in name and not name.startswith(("timm/", "torchvision/")):
        raise ConfigError(
            "there is no such teacher",
            code="C89",
            where={"teacher": name},
            why="it is neither a folder nor a model name",
            fix='give base, self, a run or model folder such as "runs/large", or a name of `edgewise models`',
        )
    fresh = create_model(name, labels=model.labels, input=model.input, seed=context.seed)
    context.say(f"training the teacher {fresh.architecture} first")
    return context.fit(fresh)


def _loss(teachers: list[Model], student: Model, options: DistillOptions, context: Context) -> DistillationLoss:
    import torch

    from edgewise.train import logits
    from edgewise.train.losses import DistillationLoss
    from edgewise.train.teachers import Panel, asking

    panel = Panel(teachers, student, features=options.similarity > 0).eval()
    if context.augmented:
        ask = asking(panel, mixed=context.mixed)
        return DistillationLoss(ask, options.alpha, options.tau, _soft(options), options.similarity)
    answering = dataclasses.replace(student, module=panel)
    kept = torch.from_numpy(logits(answering, context.dataset.train.images))
    return DistillationLoss(kept, options.alpha, options.tau, _soft(options), options.similarity)


def _soft(options: DistillOptions) -> Soft:
    from edgewise.train import soft

    ways: dict[str, Soft] = {
        "kd": partial(soft.hinton, tau=options.tau),
        "dkd": partial(soft.decoupled, tau=options.tau, beta=options.beta),
        "dist": partial(soft.relations, tau=options.tau),
    }
    way = ways[options.loss]
    return soft.standardised(way) if options.standardize else way
