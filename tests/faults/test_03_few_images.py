"""Case 3: one class, classes of a single image, empty class folders, fewer images than the splits need."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.errors import DataError
from tests.data.loading import load, paint, warnings_of


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only one class has images") as caught:
        load(paint(tmp_path, cat=10))
    assert (caught.value.code, caught.value.exit_code) == ("D05", 3)
    assert caught.value.where["class"] == "cat"


def test_one_class_because_the_data_lies_deeper(tmp_path: Path) -> None:
    paint(tmp_path, preview=3)
    paint(tmp_path / "images", cat=5, dog=5)
    with pytest.raises(DataError, match=f"use data.source: {tmp_path}/images"):
        load(tmp_path)


def test_a_single_image_stays_in_training_and_is_not_evaluated(tmp_path: Path) -> None:
    for seed in range(3):
        data = load(paint(tmp_path / str(seed), cat=10, dog=10, rare=1), seed=seed)
        assert "rare/000.png" in data.train.names
        assert data.summary["not_evaluated"] == ["rare"]
        assert data.summary["test_per_class"]["rare"] == data.summary["val_per_class"]["rare"] == 0
        assert "classes with a single image, which stays in training; not evaluated: rare" in warnings_of(data)


def test_two_images_go_to_train_and_val(tmp_path: Path) -> None:
    data = load(paint(tmp_path, cat=10, dog=10, rare=2))
    assert [data.summary[f"{part}_per_class"]["rare"] for part in ("train", "val", "test")] == [1, 1, 0]
    assert "classes without test images, not evaluated: rare" in warnings_of(data)


def test_min_per_class_makes_it_an_error(tmp_path: Path) -> None:
    root = paint(tmp_path, cat=10, dog=10, rare=4)
    assert load(root, min_per_class=4).summary["not_evaluated"] == []
    with pytest.raises(DataError, match=r"rare \(4\)") as caught:
        load(root, min_per_class=5)
    assert (caught.value.code, caught.value.exit_code) == ("D10", 3)


def test_an_empty_class_folder_is_no_class(tmp_path: Path) -> None:
    data = load(paint(tmp_path, ant=0, cat=10, dog=10))
    assert data.classes == ("cat", "dog")
    assert set(data.train.labels) == {0, 1}
    assert "class folders without images are left out: ant/" in warnings_of(data)


def test_fewer_images_than_the_splits_need(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few images: none are left for val and test") as caught:
        load(paint(tmp_path / "a", cat=1, dog=1))
    assert (caught.value.code, caught.value.exit_code) == ("D09", 3)
    with pytest.raises(DataError, match="none are left for test"):
        load(paint(tmp_path / "b", cat=2, dog=2))
    assert load(paint(tmp_path / "c", cat=4, dog=4)).summary["test"] == 2
