"""The contact sheet shows the stored pixels, what the augmenter makes of them, and the shares of mixed labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.data import Dataset, Split
from edgewise.data.augment import Augment
from edgewise.data.preview import CELL, COLUMNS, GAP, LINE, ROWS, write_preview
from edgewise.recipe import AugmentOptions


def dataset(classes: int = 3, side: int = 16, channels: int = 3, counts: tuple[int, ...] = ()) -> Dataset:
    """One image per class unless told otherwise, so that the sheet's choice is known."""
    labels = np.repeat(np.arange(classes), counts or 1).astype(np.int64)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(labels), side, side, channels), dtype=np.uint8)
    split = Split(images, labels, tuple(f"{index}" for index in range(len(labels))))
    return Dataset(split, split, split, tuple(f"class {index}" for index in range(classes)), {"warnings": []})


def augmenter(data: Dataset, **options: Any) -> Augment:
    _, height, width, channels = data.train.images.shape
    spec = InputSpec(height, width, channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    return Augment(AugmentOptions(**options), spec, data.train.labels, len(data.classes))


def sheet(data: Dataset, folder: Path, seed: int = 0, **options: Any) -> np.ndarray:
    write_preview(data, augmenter(data, **options), folder / "sheet.png", seed)
    with Image.open(folder / "sheet.png") as image:
        assert image.format == "PNG"
        return np.asarray(image)


def cell(page: np.ndarray, row: int, column: int, shown: int) -> tuple[np.ndarray, np.ndarray]:
    """The shown image and the line under it."""
    x = GAP + column * (max(shown, CELL) + GAP)
    y = GAP + row * (shown + 2 * LINE + GAP) + LINE
    return page[y : y + shown, x : x + shown], page[y + shown : y + shown + LINE, x : x + CELL]


def test_the_first_column_is_stored_and_the_others_are_what_the_augmenter_made(tmp_path: Path) -> None:
    data = dataset()
    page = sheet(data, tmp_path, version=2)
    random = np.random.default_rng(0)
    for label in range(3):
        random.choice(np.flatnonzero(data.train.labels == label))
    columns = [data.train.images]
    columns += [augmenter(data, version=2)(data.train.images, np.arange(3), random)[0] for _ in range(COLUMNS)]
    enlarged = CELL // 16
    for column, images in enumerate(columns):
        for row in range(3):
            shown, _ = cell(page, row, column, 16 * enlarged)
            assert np.array_equal(shown[::enlarged, ::enlarged], images[row])
            assert np.array_equal(shown, np.kron(images[row], np.ones((enlarged, enlarged, 1), dtype=np.uint8)))


def test_shares_stand_under_mixed_images_only(tmp_path: Path) -> None:
    shown = 16 * (CELL // 16)
    for options, inked in (({"version": 1}, False), ({"mixup": 1.0}, True)):
        page = sheet(dataset(), tmp_path, **options)
        assert all((cell(page, row, 2, shown)[1].min() < 200) == inked for row in range(3))
        assert all(cell(page, row, 0, shown)[1].min() < 200 for row in range(3))


def test_classes_that_are_not_augmented_say_so(tmp_path: Path) -> None:
    page = sheet(dataset(2, counts=(10, 3)), tmp_path, version=1, classes="minority")
    under = [cell(page, row, 1, 16 * (CELL // 16))[1].min() < 200 for row in range(2)]
    assert under == [True, False]


def test_gray_and_large_images_and_many_classes(tmp_path: Path) -> None:
    page = sheet(dataset(ROWS + 5, side=8, channels=1), tmp_path, version=1)
    assert page.shape[0] == GAP + ROWS * (CELL + 2 * LINE + GAP) + LINE + GAP
    assert page[-LINE - GAP :].min() < 200, "the last line tells that classes are left out"
    large = sheet(dataset(2, side=300), tmp_path, version=3)
    assert large.shape == (GAP + 2 * (CELL + 2 * LINE + GAP), GAP + (COLUMNS + 1) * (CELL + GAP), 3)


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    data = dataset(3, counts=(4, 4, 4))
    first, again = (sheet(data, tmp_path, seed=1, version=3) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, sheet(data, tmp_path, seed=2, version=3))
