"""The training options that change what is trained, seen, or kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgewise.data import Dataset
from edgewise.models import Model
from edgewise.recipe import LossOptions, TrainOptions
from edgewise.train import Fitted, Setup, fit
from edgewise.train.losses import Batch

FAST = TrainOptions(epochs=3, batch_size=16, lr=0.01, threads=1)


def run(model: Model, dataset: Dataset, folder: Path, augment: Any = None, loss: Any = None, **keys: Any) -> Fitted:
    return fit(model, dataset, Setup(FAST.model_copy(update=keys), 0, folder, augment=augment, loss=loss))


def moved(before: Model, after: Fitted) -> set[str]:
    old, new = before.module.state_dict(), after.model.module.state_dict()
    return {name for name, value in old.items() if not torch.equal(value, new[name])}


def test_frozen_stages_stay_with_their_statistics(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    everything = set(model.module.state_dict())
    assert moved(model, run(model, dataset, tmp_path / "a")) == everything
    first = {name for name in everything if name.startswith("block1.")}
    assert moved(model, run(model, dataset, tmp_path / "b", freeze=1)) == everything - first
    head = {name for name in everything if name.startswith("classifier.")}
    assert moved(model, run(model, dataset, tmp_path / "c", freeze="backbone")) == head


def test_the_backbone_has_a_rate_of_its_own(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    def distance(name: str, after: Fitted) -> float:
        return float((after.model.module.state_dict()[name] - model.module.state_dict()[name]).norm())

    same = run(model, dataset, tmp_path / "a", weight_decay=0.0)
    slow = run(model, dataset, tmp_path / "b", weight_decay=0.0, backbone_lr=1e-5)
    assert distance("block1.conv.weight", slow) < 0.01 * distance("block1.conv.weight", same)
    assert distance("classifier.weight", slow) > 0.3 * distance("classifier.weight", same)
    assert [record["lr"] for record in slow.history] == [record["lr"] for record in same.history]


def test_clipping_bounds_a_step(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    keys = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "epochs": 1, "schedule": "constant"}
    keys["warmup_epochs"] = 0.0

    def steep(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return 1e4 * torch.nn.functional.cross_entropy(logits, batch.labels)

    def length(after: Fitted) -> float:
        pairs = zip(model.module.parameters(), after.model.module.parameters(), strict=True)
        return float(torch.cat([(new - old).detach().flatten() for old, new in pairs]).norm())

    rates = 8 * 0.01
    clipped = run(model, dataset, tmp_path / "a", loss=steep, clip=1.0, **keys)
    assert 0 < length(clipped) <= rates * 1.001


def test_the_best_epoch_is_that_of_the_metric(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    for metric, pick in (("loss", min), ("accuracy", max), ("worst_recall", max), ("balanced_accuracy", max)):
        fitted = run(model, dataset, tmp_path / metric, metric=metric)
        values = [record[f"val_{metric}"] for record in fitted.history]
        assert values[fitted.best_epoch - 1] == pick(values)


def test_balanced_sampling_shows_each_class_equally_often(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    labels = dataset.train.labels.copy()
    labels[labels == 2] = np.where(np.arange((labels == 2).sum()) < 5, 2, 0)
    object.__setattr__(dataset.train, "labels", labels)
    seen: list[int] = []

    def look(
        images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], None]:
        seen.extend(labels.tolist())
        return images, None

    run(model, dataset, tmp_path / "a", augment=look, epochs=1, sampling="balanced")
    assert np.bincount(seen)[2] == pytest.approx(len(seen) / 3, abs=2)
    seen.clear()
    run(model, dataset, tmp_path / "b", augment=look, epochs=1)
    assert np.bincount(seen)[2] == 5


def test_the_loss_of_the_recipe_is_used_and_logged(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    fitted = run(model, dataset, tmp_path, loss=None, **{})
    assert "loss_f1" not in fitted.history[0]
    options = FAST.model_copy(update={"loss": LossOptions(name="ce+f1", f1_weight=0.25)})
    mixed = fit(model, dataset, Setup(options, 0, tmp_path / "mixed"))
    for record in mixed.history:
        assert record["train_loss"] == pytest.approx(0.75 * record["loss_ce"] + 0.25 * record["loss_f1"], rel=1e-4)


def test_soft_targets_of_mixed_images_reach_the_loss(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    def mixed(
        images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        return images, np.full((len(labels), 3), 1 / 3, dtype=np.float32)

    fitted = run(model, dataset, tmp_path, augment=mixed)
    assert all(record["train_loss"] >= np.log(3) - 1e-3 for record in fitted.history)  # nothing can be learnt


def test_bf16_on_a_cpu_when_it_is_asked_for(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    exact = run(model, dataset, tmp_path / "a")
    rough = run(model, dataset, tmp_path / "b", amp="bf16")
    assert rough.history[0]["train_loss"] != exact.history[0]["train_loss"]
    assert rough.history[0]["train_loss"] == pytest.approx(exact.history[0]["train_loss"], rel=0.05)
