"""An int8 file that collapsed is refused with its reason; calibration sees training images only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewise.data import Dataset
from edgewise.errors import ExportError
from edgewise.export import desk as desks_of
from edgewise.export.collapse import apart, what_was_lost
from edgewise.export.deliver import Outcome, deliver
from edgewise.export.desk import Order, calibration_images
from edgewise.models import Model, create_model
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions, TrainOptions
from edgewise.train import Setup, fit
from tests.train.conftest import CLASSES, SPEC, make_dataset


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(4, 8)", labels=CLASSES, input=SPEC, seed=0)
    return fit(
        model, dataset, Setup(TrainOptions(epochs=6, batch_size=16, lr=0.01), 0, tmp_path_factory.mktemp("m"))
    ).model


def delivered(model: Model, dataset: Dataset, folder: Path) -> Outcome:
    order = Order("m", model, ("fp32", "int8"), folder / "bundles", folder / "work", {})
    return deliver(order, "onnx", dataset, ExportOptions(int8="u8s8-rr"), seed=0, progress=Silent())


@pytest.mark.slow
def test_a_good_calibration_passes_and_saw_training_images_only(
    trained: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desks = []
    original = desks_of.Desk.__init__

    def watched(self: desks_of.Desk, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        desks.append(self)

    monkeypatch.setattr(desks_of.Desk, "__init__", watched)
    outcome = delivered(trained, dataset, tmp_path)
    assert [one.parity.passed for one in outcome.exported] == [True, True]
    seen = {image.tobytes() for image in desks[0].calibration}
    assert seen
    assert seen <= {image.tobytes() for image in dataset.train.images}
    assert not seen & {image.tobytes() for image in dataset.test.images}


@pytest.mark.slow
def test_foreign_calibration_images_collapse_int8_and_it_is_refused_with_its_classes(
    trained: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image of nothing sets ranges in which no real image fits."""
    nothing = np.full((1, *SPEC.shape), 128, np.uint8)
    monkeypatch.setattr(desks_of, "calibration_images", lambda *_: nothing)
    outcome = delivered(trained, dataset, tmp_path)
    floating, small = outcome.exported
    assert floating.parity.passed
    assert not small.parity.passed  # judge.choose never takes it
    (reason,) = (note for note in small.notes if note.startswith("int8 loses"))
    assert "calibrated on 1 images" in reason
    assert "recall fell most for" in reason
    assert any(name in reason for name in CLASSES)


def test_what_was_lost_names_one_answer_and_the_worst_classes() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    right = np.eye(3, dtype=np.float32)[labels]
    told = what_was_lost(right, np.tile(np.float32([1, 0, 0]), (6, 1)), labels, ["cat", "dog", "cow"])
    assert told == 'it answers "cat" to every image; recall fell most for dog 100% -> 0%, cow 100% -> 0%'
    assert what_was_lost(right, right, labels, ["cat", "dog", "cow"]) == ""


def test_copies_of_test_images_are_not_calibrated_on(dataset: Dataset) -> None:
    drawn = calibration_images(dataset.train, 20, seed=0)
    planted = np.concatenate([drawn, dataset.test.images[:3]])
    np.testing.assert_array_equal(apart(planted, dataset.test.images), apart(drawn, dataset.test.images))
    with pytest.raises(ExportError, match=r"error\[X61\]"):
        apart(dataset.test.images[:3], dataset.test.images)
