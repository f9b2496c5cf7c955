"""A saved split comes back as it was written, and what changed since is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.data.saved import Changes, Row, changes, matches, read_cell, read_saved, write_cell
from edgewise.errors import DataError

HEADER = "path,sha256,label,split,group\n"


@dataclass(frozen=True)
class Now:
    name: str
    sha256: str = "aa"
    label: str = "cat"
    given: str | None = None


ROWS = [Row("cat/1", "aa", "cat", "train"), Row("cat/2", "bb", "cat", "test"), Row("cat/3", "cc", "cat", "unused")]


@given(st.text(alphabet="'=+-@ab", max_size=6) | st.text())
def test_a_cell_comes_back_and_is_no_formula(text: str) -> None:
    written = write_cell(text)
    assert read_cell(written) == text
    assert written[:1] not in {"=", "+", "-", "@"}


def test_nothing_changed() -> None:
    now = [Now("cat/1"), Now("cat/2", "bb"), Now("cat/3", "cc")]
    found = changes(ROWS, now)
    assert found == Changes()
    assert not found
    assert found.describe() == ""


def test_each_kind_of_change_is_named() -> None:
    now = [Now("cat/1", "zz", "dog"), Now("cat/2", "bb", given="train"), Now("dog/9", "dd", "dog")]
    found = changes(ROWS, now)
    assert found == Changes(
        deleted=("cat/3",),
        replaced=("cat/1",),
        relabelled=(("cat/1", "cat", "dog"),),
        moved=(("cat/2", "test", "train"),),
        added=("dog/9",),
    )
    assert found.describe().splitlines() == [
        "1 deleted", "  cat/3", "1 replaced (other sha256)", "  cat/1", "1 relabelled", "  cat/1: cat -> dog",
        "1 moved (stays where it was)", "  cat/2: test, now given as train", "1 added", "  dog/9",
    ]  # fmt: skip
    assert found.as_dict()["relabelled"] == [["cat/1", "cat", "dog"]]


def test_long_lists_are_cut() -> None:
    found = Changes(added=tuple(f"cat/{number}" for number in range(25)))
    lines = found.describe(most=10).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  ... and 15 more"


def test_what_is_there_but_left_out_was_not_deleted() -> None:
    now = [Now("cat/1"), Now("cat/2", "bb")]
    assert changes(ROWS, now, [*now, Now("cat/3", "cc")]).deleted == ()


def test_a_path_under_two_labels_is_met_by_its_label() -> None:
    rows = [Row("1", "aa", "cat", "train"), Row("1", "aa", "dog", "test")]
    assert matches(rows, [Now("1", label="dog"), Now("1", label="cat"), Now("1", label="fox")]) == [*rows[::-1], None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,label\n", "columns path,label; expected path,sha256,label,split,group"),
        (HEADER + "a,b,c,train\n", "line 2 does not have 5 cells"),
        (HEADER + "a,b,c,valid,\n", "line 2: no split is called 'valid'"),
        (HEADER + "a,b,c,val,\na,b,c,test,\n", "a path stands twice"),
        (HEADER + '"a,b,c', "unexpected end of data"),
    ],
)
def test_what_is_no_saved_split_is_refused(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(DataError, match="the saved split cannot be read") as caught:
        read_saved(tmp_path / "splits.csv")
    assert (caught.value.code, caught.value.exit_code) == ("D34", 3)
    assert why in caught.value.why


def test_a_saved_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_saved(tmp_path / "splits.csv")
    assert caught.value.why == "No such file or directory"
