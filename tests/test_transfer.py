"""Starting from a small net that was trained on other classes: system 4's way with few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from edgewise import pipeline
from edgewise.errors import ConfigError
from edgewise.models import open_model
from edgewise.progress import Silent
from edgewise.recipe import Recipe

pytestmark = pytest.mark.slow


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_digits(root: Path, labels: range, per_class: int) -> Path:
    digits = load_digits()
    for label in labels:
        (root / f"digit {label}").mkdir(parents=True)
        for index in np.flatnonzero(digits.target == label)[:per_class]:
            pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"digit {label}" / f"{index}.png")
    return root


def recipe(source: Path, **more: Any) -> Recipe:
    raw: dict[str, Any] = {"data": {"source": str(source), "size": 16, "channels": 1}, "model": "convnet(16, 32)"}
    train = {"epochs": 3, "batch_size": 8, "lr": 0.003, "threads": 1, "patience": 0}
    return Recipe.model_validate(raw | {"train": train} | more)


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("fruit")
    options = {"train": {"epochs": 8, "batch_size": 32, "lr": 0.01, "threads": 1}}
    pipeline.train_model(recipe(write_digits(folder / "data", range(5), 100), **options), folder / "run")
    return folder / "run"


def test_a_run_on_other_classes_gives_its_backbone_and_says_so(fruit: Path, tmp_path: Path) -> None:
    heard = Heard()
    still = {"train": {"epochs": 1, "batch_size": 8, "lr": 1e-9, "weight_decay": 0, "threads": 1}}
    data = write_digits(tmp_path / "data", range(5, 9), 12)
    pipeline.train_model(recipe(data, weights=str(fruit), **still), tmp_path / "run", progress=heard)
    old, new = (open_model(run / "model" / "base") for run in (fruit, tmp_path / "run"))
    assert (old.labels[0], new.labels[0]) == ("digit 0", "digit 5")
    torch.testing.assert_close(new.module.block2.conv.weight, old.module.block2.conv.weight)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["weights"]
    assert (record["source"], record["how"]) == (str(fruit), "name")
    assert record["fresh"] == ["classifier.weight", "classifier.bias"]
    (line,) = [line for line in heard.lines if line.startswith("weights: ")]
    assert "by name; 14 tensors copied" in line
    assert "its classes are others" in line


def test_weights_that_do_not_fit_stop_before_there_is_a_run(fruit: Path, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "data", range(5, 8), 12)
    with pytest.raises(ConfigError, match="do not fit the model"):
        pipeline.train_model(recipe(data, weights=str(fruit), model="convnet(17, 33)"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
