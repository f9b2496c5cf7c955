"""A small learnable data set: no decoding, no files."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.bundle import CENTER, InputSpec
from edgewise.data import Dataset, Split
from edgewise.models import Model, create_model

SPEC = InputSpec(12, 12, 1, mean=(CENTER,), std=(0.5,))
CLASSES = ("bright-left", "bright-right", "bright-top")


def make_split(count: int, seed: int, noise: float = 60.0) -> Split:
    """Noisy 12 x 12 pictures, one half of each brighter; (N, 12, 12, 1)."""
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 3
    images = random.normal(90, noise, (count, 12, 12, 1))
    images[labels == 0, :, :6] += 70
    images[labels == 1, :, 6:] += 70
    images[labels == 2, :6] += 70
    return Split(images.clip(0, 255).astype(np.uint8), labels, tuple(f"{seed}/{i:04}" for i in range(count)))


def make_dataset(train: int = 120, noise: float = 60.0) -> Dataset:
    """`train` training images, 60 for validation and 60 for test."""
    splits = make_split(train, 1, noise), make_split(60, 2, noise), make_split(60, 3, noise)
    return Dataset(*splits, classes=CLASSES, summary={"warnings": []})


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture
def model() -> Model:
    return create_model("convnet(8, 16)", labels=CLASSES, input=SPEC, seed=0)
