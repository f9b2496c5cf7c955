"""Small folders of known pictures, and `load_data` with a spec that needs no resizing of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.data import Dataset, load_data
from edgewise.recipe import DataOptions

SIDE = 16
SPEC = InputSpec(height=SIDE, width=SIDE)
GRAY = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.5,), std=(0.5,))


def load(source: Path | str, seed: int = 0, spec: InputSpec = SPEC, **options: Any) -> Dataset:
    return load_data(DataOptions(source=str(source), **options), spec, seed=seed)


def picture(name: str) -> Image.Image:
    """A 16x16 RGB picture that only this name has."""
    seed = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def paint(root: Path, **classes: int) -> Path:
    """Make `root/<class>/<number>.png` for each class and number of images."""
    for label, count in classes.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            picture(f"{root.name}/{label}/{index}").save(root / label / f"{index:03}.png")
    return root


def warnings_of(data: Dataset) -> str:
    return "\n".join(data.summary["warnings"])


def all_names(data: Dataset) -> set[str]:
    return set(pixels_of(data))


def pixels_of(data: Dataset) -> dict[str, np.ndarray]:
    """Name -> pixels, over all splits."""
    splits = (data.train, data.val, data.test)
    return {name: image for split in splits for name, image in zip(split.names, split.images, strict=True)}
