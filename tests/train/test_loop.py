"""The loop learns, keeps its best epoch, is reproducible, and stops where it should."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import f1_score

from edgewise.data import Dataset
from edgewise.errors import TrainingError, UnavailableError
from edgewise.models import Model
from edgewise.progress import Progress
from edgewise.recipe import TrainOptions
from edgewise.train import Fitted, Setup, fit, logits
from edgewise.train.feed import Pixels
from edgewise.train.loop import pick_device
from edgewise.train.losses import DistillationLoss
from tests.train.conftest import SPEC, make_dataset

FAST = TrainOptions(epochs=6, batch_size=16, lr=0.01, threads=1)


def run(model: Model, dataset: Dataset, folder: Path, progress: Progress | None = None, **more: Any) -> Fitted:
    setup = Setup(more.pop("options", FAST), more.pop("seed", 0), folder, **more)
    return fit(model, dataset, setup, progress=progress)


def test_it_learns_and_leaves_the_given_model_alone(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    fitted = run(model, dataset, tmp_path)
    assert fitted.best_macro_f1 > 0.9
    assert fitted.history[0]["train_loss"] > fitted.history[-1]["train_loss"]
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_returned_is_the_best_epoch(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    fitted = run(model, dataset, tmp_path)
    scores = [record["val_macro_f1"] for record in fitted.history]
    assert fitted.best_macro_f1 == max(scores) == scores[fitted.best_epoch - 1]
    predicted = logits(fitted.model, dataset.val.images).argmax(1)
    assert f1_score(dataset.val.labels, predicted, average="macro") == pytest.approx(fitted.best_macro_f1)
    with safe_open(tmp_path / "last.safetensors", framework="np") as last:
        assert f'"epoch": {len(scores)}' in last.metadata()["facts"]
    with safe_open(tmp_path / "best.safetensors", framework="np") as best:
        assert f'"epoch": {fitted.best_epoch}' in best.metadata()["facts"]
        for name in best.keys():  # noqa: SIM118
            assert np.array_equal(best.get_tensor(name), fitted.model.module.state_dict()[name].numpy())


def test_same_seed_same_weights_other_seed_other_weights(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    def weights(seed: int, folder: str) -> torch.Tensor:
        torch.manual_seed(len(folder))  # whatever the caller's generator does must not matter
        fitted = run(model, dataset, tmp_path / folder, seed=seed, epochs=2)
        return torch.cat([value.flatten().float() for value in fitted.model.module.state_dict().values()])

    assert torch.equal(weights(5, "a"), weights(5, "bb"))
    assert not torch.equal(weights(5, "ccc"), weights(6, "dddd"))


def test_it_stops_early(model: Model, tmp_path: Path) -> None:
    noise = make_dataset(noise=4000.0)
    fitted = run(
        model, noise, tmp_path, options=TrainOptions(epochs=60, batch_size=64, lr=0.003, patience=3, threads=1)
    )
    assert len(fitted.history) == fitted.best_epoch + 3 < 60


def test_a_last_batch_of_one_image_does_not_break_batch_norm(model: Model, tmp_path: Path) -> None:
    fitted = run(model, make_dataset(train=33), tmp_path, epochs=1)
    assert math.isfinite(fitted.history[0]["train_loss"])


def test_a_loss_that_is_not_finite_is_named_in_its_step(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    def broken(scores: torch.Tensor, batch: Any) -> torch.Tensor:
        return scores.sum() * float("nan")

    with pytest.raises(TrainingError, match=r"the loss became nan[\s\S]*batch: 1/") as caught:
        run(model, dataset, tmp_path, loss=broken)
    assert "learning rate" in caught.value.where
    assert not (tmp_path / "best.safetensors").exists()


def test_the_parts_of_a_loss_are_logged_per_epoch(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    loss = DistillationLoss(torch.randn(len(dataset.train), 3), 0.5, 4.0)
    fitted = run(model, dataset, tmp_path, loss=loss, epochs=2)
    for record in fitted.history:
        total = 0.5 * record["loss_hard"] + 0.5 * record["loss_soft"]
        assert record["train_loss"] == pytest.approx(total, rel=1e-4)


def test_pixels_are_normalised_channels_last() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 1), dtype=np.uint8)
    got = Pixels(SPEC, torch.device("cpu"))(images)
    expected = (images.astype(np.float64) / 255 - SPEC.mean[0]) / SPEC.std[0]
    assert got.shape == (3, 1, 12, 12)
    assert np.allclose(got.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_explicit_cuda_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(UnavailableError, match="CUDA was asked for"):
        pick_device("cuda")


def test_logits_do_not_depend_on_the_batch(model: Model, dataset: Dataset) -> None:
    whole = logits(model, dataset.val.images)
    alone = np.concatenate([logits(model, dataset.val.images[i : i + 1]) for i in range(5)])
    assert whole.shape == (60, 3)
    assert np.allclose(whole[:5], alone, atol=1e-5)
