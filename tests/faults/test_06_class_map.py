"""Case 6: one class map, from the training images, whatever the other splits hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.errors import DataError
from tests.data.loading import SIDE, load, paint, warnings_of

COLOURS = {"ant": 40, "bee": 120, "cat": 200}


def flat(root: Path, **classes: int) -> None:
    """Pictures whose brightness tells the class."""
    for label, count in classes.items():
        (root / label).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (SIDE, SIDE), (COLOURS[label], index, len(root.name))).save(root / label / f"{index}.png")


def test_a_class_that_val_lacks_shifts_no_label(tmp_path: Path) -> None:
    flat(tmp_path / "train", ant=5, bee=5, cat=5)
    flat(tmp_path / "val", ant=3, cat=3)
    flat(tmp_path / "test", bee=2, cat=4)
    data = load(tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    for split in (data.train, data.val, data.test):
        assert [COLOURS[data.classes[label]] for label in split.labels] == split.images[:, 0, 0, 0].tolist()
    assert np.bincount(data.val.labels, minlength=3).tolist() == [3, 0, 3]
    assert np.bincount(data.test.labels, minlength=3).tolist() == [0, 2, 4]
    told = warnings_of(data)
    assert "classes without validation images, which play no part in choosing a model: bee" in told
    assert "classes without test images, not evaluated: ant" in told
    assert data.summary["not_evaluated"] == ["ant"]


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_class_that_only_another_split_has_is_refused(tmp_path: Path, part: str) -> None:
    for name in ("train", "val", "test"):
        paint(tmp_path / name, bee=4, cat=4)
    paint(tmp_path / part, wasp=1)
    with pytest.raises(DataError, match="a class without training images") as caught:
        load(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("D06", 3)
    assert caught.value.where["class"] == f"wasp ({part})"


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    paint(tmp_path / "train", Cat=4, dog=4)
    paint(tmp_path / "val", cat=4, dog=4)
    with pytest.raises(DataError, match="differ only in upper and lower case") as caught:
        load(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("D08", 3)
    assert caught.value.where["classes"] == "Cat and cat"
    with pytest.raises(DataError, match="differ only in upper and lower case"):
        load(paint(tmp_path / "one", Cat=4, cat=4, dog=4))


def test_the_order_of_a_manifest_does_not_matter(tmp_path: Path) -> None:
    paint(tmp_path, zebra=8, ant=8)
    names = sorted((str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")), reverse=True)
    rows = [f"{name},{name.split('/')[0]}" for name in names]
    (tmp_path / "m.csv").write_text("file_name,label\n" + "\n".join(rows) + "\n")
    one, other = load(tmp_path / "m.csv"), load(tmp_path)
    assert one.classes == other.classes == ("ant", "zebra")
    assert one.train.names == other.train.names
