"""Case 2: an empty folder, no images in it, or images at another depth."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.errors import DataError
from tests.data.loading import load, paint, picture


def refused(root: Path, **options: object) -> DataError:
    with pytest.raises(DataError, match=r"class folders:   DATA/cat/1\.jpg") as caught:
        load(root, **options)
    assert (caught.value.code, caught.value.exit_code) == ("D04", 3)
    return caught.value


def test_an_empty_folder(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert error.what == "no images found"
    assert "no files" in error.why


def test_text_files_only(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for index in range(3):
            (tmp_path / label / f"{index}.txt").write_text("hello")
    error = refused(tmp_path)
    assert error.what == "no images found"
    assert "cat/  3 .txt" in error.why


def test_images_one_level_too_deep_name_the_folder_to_use(tmp_path: Path) -> None:
    paint(tmp_path / "archive" / "images", cat=8, dog=8)
    error = refused(tmp_path)
    assert f"use this folder instead: data.source: {tmp_path}/archive/images" in error.fix
    assert load(tmp_path / "archive" / "images").summary["images"] == 16


def test_split_folders_one_level_too_deep(tmp_path: Path) -> None:
    paint(tmp_path / "set" / "train", cat=8, dog=8)
    error = refused(tmp_path)
    assert f"data.source: {tmp_path}/set" in error.fix
    assert load(tmp_path / "set").summary["layout"] == "splits"


def test_two_data_sets_side_by_side_are_both_named(tmp_path: Path) -> None:
    paint(tmp_path / "summer", cat=8, dog=8)
    paint(tmp_path / "winter", cat=8, dog=8)
    assert refused(tmp_path).fix.count("data.source: ") == 2


def test_images_without_class_folders(tmp_path: Path) -> None:
    for index in range(4):
        picture(str(index)).save(tmp_path / f"{index}.png")
    error = refused(tmp_path)
    assert error.what == "no labelled images found"
    assert "put each image into a folder named after its class" in error.fix


def test_the_tree_takes_at_most_ten_lines(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"folder{index:02}").mkdir()
    lines = refused(tmp_path).why.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 22 more folders"


def test_a_train_folder_without_class_folders(tmp_path: Path) -> None:
    paint(tmp_path, test=0)
    (tmp_path / "train").mkdir()
    picture("x").save(tmp_path / "train" / "x.png")
    assert "train/  1 images" in refused(tmp_path, layout="splits").why
