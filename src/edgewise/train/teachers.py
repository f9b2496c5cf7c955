"""Teachers as one net: their mean answer to images as the student sees them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError
from edgewise.models import Model
from edgewise.models.parts import head_modules
from edgewise.train.losses import Teacher
from edgewise.train.threads import has_fast_bf16


class Panel(nn.Module):
    """The mean of the logits of one or more teachers, and where asked for the first one's features behind them.

    Averaging logits is the geometric mean of the probabilities. Each teacher gets the images in its own normalisation
    and answers in the order of the student's classes.

    Args:
        teachers: copied.
        student: whose images and classes count.
        features: append the inputs of the first teacher's classifier, flattened, as further columns.

    Raises:
        ConfigError: a teacher takes other images (C88) or knows other classes (C87).
    """

    def __init__(self, teachers: Sequence[Model], student: Model, *, features: bool) -> None:
        super().__init__()
        for teacher in teachers:
            _check(teacher, student)
        self.nets = nn.ModuleList(copy.deepcopy(teacher.module).eval().requires_grad_(False) for teacher in teachers)
        self.orders = [[teacher.labels.index(label) for label in student.labels] for teacher in teachers]
        self.scales = [_change(student.input, teacher.input) for teacher in teachers]
        self.seen = watch_features(self.nets[0]) if features else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float32 (N, channels, height, width) -> (N, classes), or (N, classes + features)."""
        answers = []
        for net, order, (scale, shift) in zip(self.nets, self.orders, self.scales, strict=True):
            same = bool((scale == 1).all() and (shift == 0).all())
            own = images if same else images * scale.to(images) + shift.to(images)
            answers.append(net(own)[:, order])
        mean = torch.stack(answers).mean(0)
        return mean if self.seen is None else torch.cat([mean, self.seen[0].flatten(1)], dim=1)


def asking(panel: Panel, *, mixed: bool = False) -> Teacher:
    """What `DistillationLoss` asks about each batch.

    With `mixed`, nets of full convolutions answer in bfloat16 on a CPU that multiplies it in hardware (AMX):
    `convnet(32,64,128)` at 28 x 28 then takes 0.41 of the time. Depthwise ones are slower so and stay in float32.
    """
    panel = panel.eval().to(memory_format=torch.channels_last)
    dense = not any(getattr(part, "groups", 1) > 1 for part in panel.modules())
    fast = mixed and dense and has_fast_bf16()

    def ask(images: torch.Tensor) -> torch.Tensor:
        kind = images.device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=fast and kind == "cpu"):
            answers: torch.Tensor = panel.to(images.device)(images)
        return answers.float()

    return ask


def watch_features(module: nn.Module) -> list[torch.Tensor]:
    """A list whose only element is, after each forward pass, what the classifier of a net was given."""
    seen: list[torch.Tensor] = []
    head = module.get_submodule(head_modules(module)[-1])

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [inputs[0]]

    head.register_forward_pre_hook(note)
    return seen


def _check(teacher: Model, student: Model) -> None:
    sizes = [(one.input.height, one.input.width, one.input.channels) for one in (teacher, student)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            "the teacher takes other images than the student",
            code="C88",
            where={"teacher": teacher.architecture},
            why="height, width and channels {} against {}".format(*sizes),
            fix="train the teacher with the data.size and data.channels of this run",
        )
    if set(teacher.labels) != set(student.labels):
        raise ConfigError(
            "the teacher knows other classes than the student",
            code="C87",
            where={"teacher": teacher.architecture},
            why=f"{', '.join(teacher.labels[:10])} against {', '.join(student.labels[:10])}",
            fix="train the teacher on the same classes",
        )


def _change(student: InputSpec, teacher: InputSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift per channel, from the student's normalisation to the teacher's."""
    mean, std, own_mean, own_std = (
        torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
        for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    return std / own_std, (mean - own_mean) / own_std
