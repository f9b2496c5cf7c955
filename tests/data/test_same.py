"""The images of a run are recognised, and every kind of change is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.data.same import check_same
from edgewise.errors import DataError, UntrustedError
from tests.data.loading import load, paint, picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "images", cat=12, dog=12)


@pytest.fixture
def splits(root: Path, tmp_path: Path) -> Path:
    load(root).write_splits(tmp_path / "splits.csv")
    return tmp_path / "splits.csv"


def test_the_same_images_pass_whatever_their_names(tmp_path: Path) -> None:
    root = paint(tmp_path / "images", **{"=1+1": 8, "dög, \n": 8})
    load(root).write_splits(tmp_path / "splits.csv")
    before = (tmp_path / "splits.csv").read_bytes()
    check_same(load(root), tmp_path / "splits.csv")
    assert (tmp_path / "splits.csv").read_bytes() == before


def test_gone_new_and_changed_images_are_named(root: Path, splits: Path) -> None:
    (root / "cat/000.png").unlink()
    (root / "dog/011.png").rename(root / "dog/zzz.png")
    picture("another").save(root / "dog/005.png")
    with pytest.raises(DataError, match="not those that the run was made with") as caught:
        check_same(load(root), splits)
    gone, new, changed = caught.value.why.splitlines()
    assert gone == "2 gone: cat/000.png, dog/011.png"
    assert new == "1 new: dog/zzz.png"
    assert "changed: " in changed
    assert (caught.value.code, caught.value.exit_code) == ("D60", 3)


def test_another_split_of_the_same_images_is_a_change(root: Path, splits: Path) -> None:
    with pytest.raises(DataError, match=r"\d+ changed: .+, \.\.\."):
        check_same(load(root, seed=1), splits)


@pytest.mark.parametrize("text", [None, "path,label\na,b\n", "\xff"])
def test_no_such_table_is_refused(root: Path, splits: Path, text: str | None) -> None:
    if text is None:
        splits.unlink()
    else:
        splits.write_bytes(text.encode("latin-1"))
    with pytest.raises(UntrustedError, match="cannot read the splits") as caught:
        check_same(load(root), splits)
    assert caught.value.code == "U41"
