"""Case 13: the same image in two classes is listed with both paths and left out, or ends with exit code 3."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.planted import COPIES, picture

from edgewise.errors import DataError
from tests.data.copying import plant
from tests.data.loading import all_names, load, paint, warnings_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = paint(tmp_path / "d", cat=20, dog=20)
    (root / "dog" / "twin.png").write_bytes((root / "cat" / "004.png").read_bytes())
    return root


def test_both_are_left_out_and_named(root: Path) -> None:
    data = load(root)
    assert data.summary["images"] == 39
    assert data.summary["conflicts"] == 2
    assert not all_names(data) & {"cat/004.png", "dog/twin.png"}
    reason = "the same image stands in several classes: cat/004.png (cat), dog/twin.png (dog)"
    assert [(file.name, file.reason) for file in data.bad] == [("cat/004.png", reason), ("dog/twin.png", reason)]
    assert "all 2 files of them are left out: cat/004.png = dog/twin.png" in warnings_of(data)


def test_they_are_listed_in_bad_files_csv_but_are_no_bad_files(root: Path, tmp_path: Path) -> None:
    data = load(root, max_bad=0)
    data.write_bad_files(tmp_path / "bad_files.csv")
    assert (tmp_path / "bad_files.csv").read_text().count("stands in several classes") == 2
    assert data.summary["bad_files"] == 0


def test_every_copy_of_such_an_image_is_left_out(root: Path) -> None:
    (root / "cat" / "again.png").write_bytes((root / "cat" / "004.png").read_bytes())
    assert load(root).summary["images"] == 39


def test_strict_stops_with_both_paths(root: Path) -> None:
    with pytest.raises(DataError, match=r"1 image\(s\) stand in several classes") as caught:
        load(root, strict=True)
    assert (caught.value.code, caught.value.exit_code) == ("D30", 3)
    assert caught.value.why == "cat/004.png (cat) = dog/twin.png (dog)"


def test_across_given_splits(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        paint(tmp_path / "d" / part, cat=5, dog=5)
    (tmp_path / "d/test/dog/000.png").write_bytes((tmp_path / "d/train/cat/002.png").read_bytes())
    data = load(tmp_path / "d")
    assert not all_names(data) & {"test/dog/000.png", "train/cat/002.png"}
    assert data.summary["test_leaked"] == 0


def test_one_file_under_two_labels_of_a_manifest(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=10, dog=10)
    lines = [f"{label}/{number:03}.png,{label}" for label in ("cat", "dog") for number in range(10)]
    (root / "all.csv").write_text("\n".join(["file_name,label", *lines, "cat/003.png,dog"]))
    data = load(root / "all.csv")
    assert data.summary["images"] == 19
    assert {file.name for file in data.bad} == {"cat/003.png"}


def test_a_class_that_loses_all_its_images_stops(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=10, dog=10, fox=0)
    for number in range(2):
        (root / "fox" / f"{number}.png").write_bytes((root / "cat" / f"{number:03}.png").read_bytes())
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert "classes without a usable image are left out: fox" in warnings_of(data)


def test_near_copies_in_two_classes_are_named_and_used(tmp_path: Path) -> None:
    """They may be what a task is about: the same seam with and without its flaw."""
    root = plant(tmp_path / "d", {"a": range(20), "b": range(20, 40)})
    COPIES["resized to half"](picture(3)).save(root / "b" / "small.png")
    data = load(root, strict=True)
    assert data.summary["images"] == 41
    assert "1 pair(s) of near copies stand in two classes; they are used: a/0003.png (a) ~ b/small.png (b)" in (
        warnings_of(data)
    )


def test_off_keeps_both(root: Path) -> None:
    assert load(root, duplicates="off").summary["images"] == 41
