"""A run of `edgewise train` on pictures of shapes, for tests that export from one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise import pipeline
from edgewise.recipe import Recipe
from tests.conftest import draw_shape


def train_run(factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: two convolutions at 16 px, three classes of 40 pictures."""
    images = factory.mktemp("shapes")
    for label in ("cross", "disc", "square"):
        (images / label).mkdir()
        for index in range(40):
            draw_shape(label, index).save(images / label / f"{index:03}.png")
    raw = {
        "data": {"source": str(images), "size": 16},
        "model": "convnet(8, 16)",
        "train": {"epochs": 6, "batch_size": 16, "lr": 0.01, "threads": 1},
        "measure": {"seconds": 0.1},
        "export": {"calibration_images": 32, "int8_max_drop": 0.5},
        "explain": False,
    }
    out = factory.mktemp("runs") / "run"
    pipeline.train_model(Recipe.model_validate(raw), out)
    return out
