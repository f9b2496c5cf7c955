"""A training that was stopped anywhere goes on and ends with the very weights of the one that was not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgewise.data import Dataset
from edgewise.errors import ConfigError, TrainingError, UntrustedError
from edgewise.models import Model, create_model
from edgewise.progress import Silent
from edgewise.recipe import TrainOptions
from edgewise.train import Fitted, Setup, fit
from edgewise.train.losses import Batch, DistillationLoss
from tests.train.conftest import CLASSES, SPEC, make_dataset
from tests.train.test_checkpoint import DAMAGES, damage

OPTIONS = TrainOptions(epochs=4, batch_size=16, lr=0.01, threads=1, ema=0.9, clip=1.0)


class Killed(BaseException):
    """Ends a training as kill -9 would: no handler of the loop sees it as anything it knows."""


class Counted:
    """The augmentation of these tests: noise drawn from the step's generator. Ends the process at a given call."""

    def __init__(self, stop_at: int = -1) -> None:
        self.calls = 0
        self.stop_at = stop_at

    def __call__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], None]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise Killed
        return (images + random.integers(0, 8, images.shape, dtype=np.uint8)).astype(np.uint8), None


def net() -> Model:
    return create_model("convnet(8, 16, dropout=0.3)", labels=CLASSES, input=SPEC, seed=0)


def train(folder: Path, dataset: Dataset, stop_at: int = -1, **more: Any) -> Fitted:
    setup = Setup(more.pop("options", OPTIONS), 3, folder, augment=Counted(stop_at), **more)
    return fit(net(), dataset, setup)


def weights(fitted: Fitted) -> bytes:
    return b"".join(value.numpy().tobytes() for value in fitted.model.module.state_dict().values())


def facts(fitted: Fitted) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in fitted.history]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return train(tmp_path_factory.mktemp("whole"), make_dataset())


@pytest.mark.parametrize("stop_at", [1, 5, 8, 9, 17, 25, 32])
def test_killed_at_any_step_it_ends_with_the_same_weights(
    whole: Fitted, dataset: Dataset, tmp_path: Path, stop_at: int
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, stop_at)
    resumed = train(tmp_path, dataset, resume=True)
    assert weights(resumed) == weights(whole)
    assert facts(resumed) == facts(whole)
    assert resumed.best_epoch == whole.best_epoch


def test_killed_within_an_epoch_it_loses_no_more_than_the_interval(
    whole: Fitted, dataset: Dataset, tmp_path: Path
) -> None:
    often = OPTIONS.model_copy(update={"checkpoint_minutes": 1e-9})
    with pytest.raises(Killed):
        train(tmp_path, dataset, 14, options=often)
    augment = Counted()
    resumed = fit(net(), dataset, Setup(often, 3, tmp_path, augment=augment, resume=True))
    assert augment.calls == 4 * 8 - 13  # a step that was done is not done again
    assert weights(resumed) == weights(whole)
    assert facts(resumed) == facts(whole)


def test_killed_after_the_last_step_of_an_epoch_its_record_is_the_same(
    whole: Fitted, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = OPTIONS.model_copy(update={"checkpoint_minutes": 1e-9})

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("edgewise.train.trainer.validate", die)
        with pytest.raises(Killed):
            train(tmp_path, dataset, options=often)
    resumed = train(tmp_path, dataset, options=often, resume=True)
    assert facts(resumed) == facts(whole)
    assert weights(resumed) == weights(whole)


def test_the_scale_of_mixed_precision_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    half = OPTIONS.model_copy(update={"amp": "fp16", "checkpoint_minutes": 1e-9})
    straight = train(tmp_path / "a", dataset, options=half)
    with pytest.raises(Killed):
        train(tmp_path / "b", dataset, 13, options=half)
    assert weights(train(tmp_path / "b", dataset, options=half, resume=True)) == weights(straight)


def test_a_finished_training_is_not_done_again(dataset: Dataset, tmp_path: Path) -> None:
    first = train(tmp_path, dataset)
    again = train(tmp_path, dataset, stop_at=1, resume=True)
    assert weights(again) == weights(first)
    assert again.history == first.history


def test_without_resume_it_starts_anew(whole: Fitted, dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, 20)
    assert weights(train(tmp_path, dataset)) == weights(whole)


def test_the_running_parts_of_a_loss_go_on(dataset: Dataset, tmp_path: Path) -> None:
    teacher = torch.randn(len(dataset.train), 3, generator=torch.Generator().manual_seed(0))
    often = OPTIONS.model_copy(update={"checkpoint_minutes": 1e-9})

    def distilled(folder: Path, stop_at: int, resume: bool) -> Fitted:
        loss = DistillationLoss(teacher, 0.5, 4.0)
        setup = Setup(often, 3, folder, augment=Counted(stop_at), resume=resume, loss=loss)
        return fit(net(), dataset, setup)

    straight = distilled(tmp_path / "a", -1, False)
    with pytest.raises(Killed):
        distilled(tmp_path / "b", 13, False)
    resumed = distilled(tmp_path / "b", -1, True)
    assert facts(resumed) == facts(straight)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "restarts", "onecycle", "constant"])
def test_every_optimiser_and_schedule_resumes(dataset: Dataset, tmp_path: Path, optimizer: str, schedule: str) -> None:
    options = OPTIONS.model_copy(update={"optimizer": optimizer, "schedule": schedule, "restart_epochs": 1})
    straight = train(tmp_path / "a", dataset, options=options)
    with pytest.raises(Killed):
        train(tmp_path / "b", dataset, 21, options=options)
    assert weights(train(tmp_path / "b", dataset, options=options, resume=True)) == weights(straight)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_costs_one_interval(whole: Fitted, dataset: Dataset, tmp_path: Path, how: str) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, 29)
    damage(tmp_path / "last.safetensors", how)
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    resumed = fit(net(), dataset, Setup(OPTIONS, 3, tmp_path, augment=Counted(), resume=True), progress=Said())
    assert weights(resumed) == weights(whole)
    assert any("damaged" in line and "the one before it" in line for line in said)


def test_no_usable_checkpoint_is_an_error_and_not_a_new_start(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, 20)
    for name in ("last", "last.previous"):
        damage(tmp_path / f"{name}.safetensors", "pickle")
    with pytest.raises(UntrustedError, match="cannot use this checkpoint"):
        train(tmp_path, dataset, resume=True)


@pytest.mark.parametrize(
    "change", [{"optimizer": "sgd"}, {"batch_size": 32}, {"lr": 0.02}, {"weight_decay": 0.1}, {"schedule": "constant"}]
)
def test_a_checkpoint_of_another_training_is_not_taken(
    dataset: Dataset, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, 20)
    with pytest.raises(ConfigError, match="belongs to another training"):
        train(tmp_path, dataset, options=OPTIONS.model_copy(update=change), resume=True)


@pytest.mark.parametrize("change", [{"epochs": 5}, {"patience": 2}, {"checkpoint_minutes": 1.0}])
def test_harmless_changes_are_taken(dataset: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(Killed):
        train(tmp_path, dataset, 20)
    resumed = train(tmp_path, dataset, options=OPTIONS.model_copy(update=change), resume=True)
    assert [record["epoch"] for record in resumed.history] == list(range(1, len(resumed.history) + 1))
    assert len(resumed.history) >= 4 or "patience" in change


class Explosive:
    """A loss that is NaN at some of its calls."""

    def __init__(self, at: Iterator[bool]) -> None:
        self.at = at

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        value = torch.nn.functional.cross_entropy(logits, batch.labels)
        return value * float("nan") if next(self.at) else value


def test_a_loss_that_is_not_finite_goes_back_once_with_half_the_rate(dataset: Dataset, tmp_path: Path) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    loss = Explosive(call == 19 for call in itertools.count())
    plain = OPTIONS.model_copy(update={"schedule": "constant", "warmup_epochs": 0.0})
    fitted = fit(net(), dataset, Setup(plain, 3, tmp_path, loss=loss), progress=Said())
    assert [record["lr"] for record in fitted.history] == [0.01, 0.01, 0.005, 0.005]
    assert all(np.isfinite(value.numpy()).all() for value in fitted.model.module.state_dict().values())
    (line,) = said
    assert "the loss became nan" in line
    assert "1/" in line  # a file of the batch
    assert "half the learning rate" in line


def test_the_second_time_it_ends_and_the_checkpoint_is_finite(dataset: Dataset, tmp_path: Path) -> None:
    loss = Explosive(call in (19, 22) for call in itertools.count())
    with pytest.raises(TrainingError, match="the loss became nan again") as caught:
        fit(net(), dataset, Setup(OPTIONS, 3, tmp_path, loss=loss))
    assert {"learning rate", "batch"} <= caught.value.where.keys()
    from edgewise.train.checkpoint import load_checkpoint

    for name in ("last", "best"):
        tensors, _ = load_checkpoint(tmp_path / f"{name}.safetensors")
        assert all(torch.isfinite(value).all() for value in tensors.values() if value.is_floating_point())


def test_weights_that_blow_up_are_never_saved(dataset: Dataset, tmp_path: Path) -> None:
    """An infinite gradient in the last step of an epoch: every loss so far was finite."""
    calls = itertools.count(1)

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        if next(calls) == 8:
            logits.register_hook(lambda gradient: gradient * float("inf"))
        return torch.nn.functional.cross_entropy(logits, batch.labels)

    fitted = fit(net(), dataset, Setup(OPTIONS.model_copy(update={"clip": 0.0}), 3, tmp_path, loss=loss))
    assert [record["epoch"] for record in fitted.history] == [1, 2, 3, 4]
    assert next(calls) == 4 * 8 + 8 + 1  # the first epoch was done twice
    assert all(np.isfinite(value.numpy()).all() for value in fitted.model.module.state_dict().values())
