"""Case 5: a folder that can be read in two ways is never guessed at."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.errors import ConfigError, DataError
from tests.data.loading import all_names, load, paint, picture, warnings_of


def ambiguous(root: Path, **options: object) -> ConfigError:
    with pytest.raises(ConfigError, match="this folder can be read in two ways") as caught:
        load(root, **options)
    error = caught.value
    assert (error.code, error.exit_code) == ("C30", 2)
    assert error.where["key"] == "data.layout"
    first, second = error.why.splitlines()
    assert first.startswith("data.layout=classes: ")
    assert second.startswith("data.layout=splits: ")
    return error


def test_train_beside_class_folders(tmp_path: Path) -> None:
    paint(tmp_path, cat=5, dog=5)
    paint(tmp_path / "train", cat=8, dog=8)
    error = ambiguous(tmp_path)
    assert "2 class(es) with images: cat (5), dog (5)" in error.why
    assert "train/ is train with 2 classes, cat/ is left out, dog/ is left out" in error.why
    assert "--set data.layout=classes or --set data.layout=splits" in error.fix
    as_classes = load(tmp_path, layout="classes")
    assert all(name.startswith(("cat/", "dog/")) for name in all_names(as_classes))
    as_splits = load(tmp_path, layout="splits")
    assert all(name.startswith("train/") for name in all_names(as_splits))
    assert "folders beside train/, val/ and test/ are left out: cat, dog" in warnings_of(as_splits)


def test_a_class_that_is_really_named_test(tmp_path: Path) -> None:
    paint(tmp_path, cat=5, dog=5, test=5)
    error = ambiguous(tmp_path)
    assert "3 class(es) with images: cat (5), dog (5), test (5)" in error.why
    assert "not possible: there is no train/ folder" in error.why
    assert load(tmp_path, layout="classes").classes == ("cat", "dog", "test")
    with pytest.raises(DataError, match="there is no training folder") as caught:
        load(tmp_path, layout="splits")
    assert caught.value.code == "D15"


def test_classes_named_train_and_bus(tmp_path: Path) -> None:
    paint(tmp_path, train=6, bus=6)
    ambiguous(tmp_path)
    assert load(tmp_path, layout="classes").classes == ("bus", "train")


def test_unlabelled_test_images_beside_training_folders(tmp_path: Path) -> None:
    paint(tmp_path / "train", cat=8, dog=8)
    paint(tmp_path, test=5)
    assert "test/ is test with 0 classes (5 images in no class are left out)" in ambiguous(tmp_path).why
    data = load(tmp_path, layout="splits")
    assert data.classes == ("cat", "dog")
    assert data.summary["images"] == 16
    assert "5 image(s) in no class folder are left out" in warnings_of(data)


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    for part in ("train", "val", "valid"):
        paint(tmp_path / part, cat=4, dog=4)
    error = ambiguous(tmp_path)
    assert "val/ and valid/ are both val" in error.why
    assert "merge or rename" in error.fix
    assert ambiguous(tmp_path, layout="splits").why == error.why


def test_an_empty_test_folder_beside_class_folders_is_no_question(tmp_path: Path) -> None:
    data = load(paint(tmp_path, cat=5, dog=5, test=0))
    assert data.summary["layout"] == "classes"
    assert "class folders without images are left out: test/" in warnings_of(data)


def test_other_folders_and_loose_images_do_not_hide_the_splits(tmp_path: Path) -> None:
    paint(tmp_path / "Train", cat=4, dog=4)
    paint(tmp_path / "Validation", cat=4, dog=4)
    paint(tmp_path / "testing", cat=4, dog=4)
    (tmp_path / "docs").mkdir()
    picture("x").save(tmp_path / "Train" / "contact-sheet.png")
    data = load(tmp_path)
    assert (data.summary["layout"], data.summary["images"]) == ("splits", 24)
    assert "1 image(s) in no class folder are left out: Train/contact-sheet.png" in warnings_of(data)


def test_val_and_test_without_train(tmp_path: Path) -> None:
    paint(tmp_path / "val", cat=4, dog=4)
    paint(tmp_path / "test", cat=4, dog=4)
    with pytest.raises(DataError, match="there is no training folder") as caught:
        load(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("D15", 3)
