"""The training loop of base models, students, fine-tuning and controls; it stops and goes on without a trace.

See docs/decisions/0007 for how it resumes and `edgewise.train.feed` for what makes that exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from edgewise.data import Dataset
from edgewise.errors import UnavailableError
from edgewise.interrupt import Interrupted, deferred
from edgewise.models import Model
from edgewise.progress import Progress, Silent
from edgewise.train.fused import keep_large_blocks
from edgewise.train.threads import threads_set
from edgewise.train.trainer import Fitted, Setup, Trainer
from edgewise.train.world import World


def fit(
    model: Model,
    dataset: Dataset,
    setup: Setup,
    *,
    title: str = "train",
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> Fitted:
    """Train a copy of `model` and return it with the weights of its best epoch.

    Best is the best `options.metric` on the validation split, the lower validation loss among equals. The same seed,
    threads and versions give the same weights on a CPU, interrupted or not.

    Args:
        model: where to start; not changed.
        dataset: `train` is learnt from, `val` chooses the epoch, `test` is not touched.
        setup: everything else that matters.
        title: shown with the progress.
        on_epoch: called with each epoch's record, on resume also with those of before.
        progress: where to show how far it is.
        world: the processes that train together.

    Raises:
        TrainingError: T01 the loss is not finite for the second time, T02 out of memory.
        ConfigError: C24, the checkpoints belong to another training.
        UnavailableError: E21 CUDA was asked for and does not work, E03 a checkpoint cannot be written.
        UntrustedError: U05, no checkpoint can be used.
        Interrupted: a signal asked to stop; the state is saved.
    """
    world = world or World()
    world.join(setup.options.device)
    device = world.device(pick_device(setup.options.device))
    if device.type == "cpu":
        keep_large_blocks()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        trainer = Trainer(model, dataset, setup, device, world, progress or Silent())
        told = on_epoch or _ignore
        trainer.begin()
        stack.enter_context(threads_set(trainer.state.threads))
        for record in trainer.state.history:
            told(record)
        advance = stack.enter_context(trainer.progress.task(title, trainer.epochs * trainer.feed.steps))
        advance(trainer.steps_done)
        stop = stack.enter_context(deferred())
        while not trainer.finished:
            trainer.train_epoch(advance, stop, told)
        stopped = world.largest(stop() or 0)  # while the last epoch was validated
        if stopped:
            raise Interrupted(int(stopped))
    return trainer.best()


def pick_device(wish: str) -> torch.device:
    """The device to train on: "cpu", "cuda" or "auto".

    Raises:
        UnavailableError: "cuda" was asked for by name and does not work.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UnavailableError(
            "CUDA was asked for and is not available",
            code="E21",
            where={"key": "train.device"},
            why=f"torch {torch.__version__} finds no working GPU",
            fix="leave --device at auto, or install a driver that fits this torch",
        )
    return torch.device("cuda")


def _ignore(record: dict[str, Any]) -> None:
    """Takes an epoch's record and does nothing with it."""
