"""Plans: their steps, the teacher in them, and wrong ones told before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.compress import Context, apply_plan, check_plan
from edgewise.data import Dataset
from edgewise.errors import ConfigError
from edgewise.models import Model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit, logits
from edgewise.train.feed import Pixels
from edgewise.train.losses import Batch
from tests.train.conftest import CLASSES, SPEC, make_dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def base(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    from edgewise.models import create_model

    model = create_model("convnet(8, 16)", labels=CLASSES, input=SPEC, seed=0)
    options = TrainOptions(epochs=4, batch_size=16, lr=0.01, threads=1)
    return fit(model, dataset, Setup(options, 0, tmp_path_factory.mktemp("base"))).model


@pytest.fixture
def context(dataset: Dataset, base: Model, tmp_path: Path) -> Context:
    options = TrainOptions(epochs=5, batch_size=16, lr=0.01, threads=1)

    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        more = {} if loss is None else {"loss": loss}
        return fit(model, dataset, Setup(options, 0, tmp_path / "work", epochs=epochs, **more)).model

    return Context(dataset, train, train, base, seed=0)


def test_steps_are_told_in_order(base: Model, context: Context) -> None:
    seen: list[str] = []
    apply_plan(base, "prune(ratio=0.5, epochs=0) > distill(epochs=1)", context, seen.append)
    assert seen == ["prune", "distill"]


def test_the_empty_plan_is_the_model_itself(base: Model, context: Context) -> None:
    assert apply_plan(base, "", context) is base


def test_a_teacher_pulls_its_student_towards_itself(base: Model, context: Context, dataset: Dataset) -> None:
    """Order relation: with all the weight on the teacher, the student's soft answers end nearer to the teacher's."""

    def distance(model: Model) -> float:
        a = torch.from_numpy(logits(base, dataset.test.images)).log_softmax(1)
        b = torch.from_numpy(logits(model, dataset.test.images)).log_softmax(1)
        return float(torch.nn.functional.kl_div(b, a, reduction="batchmean", log_target=True))

    follower = apply_plan(base, "distill(student=convnet(8, 8), alpha=1, tau=4, epochs=6)", context)
    loner = apply_plan(base, "distill(student=convnet(8, 8), alpha=0, tau=4, epochs=6)", context)
    assert distance(follower) < distance(loner)


def test_a_teacher_is_asked_anew_when_images_are_augmented(base: Model, context: Context) -> None:
    """The loss it hands to training follows the images of the batch; else it follows their rows."""
    losses: list[Any] = []

    def keep(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        losses.append(loss)
        return model

    plan = "distill(student=convnet(4, 8), alpha=1, tau=1)"
    for augmented in (False, True):
        apply_plan(base, plan, replace(context, fit=keep, augmented=augmented))
    stored = context.dataset.train.images[:8]
    answers = torch.from_numpy(logits(base, stored))
    mirrored = np.ascontiguousarray(stored[:, :, ::-1])
    other = torch.from_numpy(logits(base, mirrored))
    rows = torch.arange(8)
    batch = Batch(Pixels(SPEC, torch.device("cpu"))(mirrored), torch.zeros(8, dtype=torch.int64), rows)
    kept, asked = losses
    assert kept(answers, batch).item() == pytest.approx(0, abs=1e-6)
    assert kept(other, batch).item() > 0.01
    assert asked(other, batch).item() == pytest.approx(0, abs=1e-6)
    assert asked(answers, batch).item() > 0.01


def test_both_kinds_of_teacher_train_the_same_student(base: Model, context: Context, dataset: Dataset) -> None:
    """As long as the images are not changed. Other sizes of batch are rounded otherwise, and two epochs add that up."""
    plan = "distill(student=convnet(4, 8), epochs=2)"
    kept, asked = (apply_plan(base, plan, replace(context, augmented=augmented)) for augmented in (False, True))
    assert np.allclose(logits(kept, dataset.test.images), logits(asked, dataset.test.images), atol=1e-2)
    assert base.module.training is False


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("prun(0.5)", 'unknown technique "prun"[\\s\\S]*did you mean "prune"'),
        ("prune(ration=0.5)", 'unknown key "ration"; did you mean "ratio"'),
        ("prune(0.5, 0.6)", "one unnamed value at most"),
        ("prune(0.5, ratio=0.6)", '"ratio" is given twice'),
        ("distill(tau=0)", "tau = 0: Input should be greater than 0"),
        ("distill(alpha=1.5)", "alpha = 1.5"),
    ],
)
def test_a_wrong_plan_is_told_before_anything_runs(plan: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        check_plan(plan)
    assert caught.value.exit_code == 2
