"""Case 10: names that break shells, terminals, spreadsheets and encodings."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.data import Dataset
from tests.data.loading import load, paint, picture, pixels_of, warnings_of

NAMES = [
    "with space.png",
    "new\nline.png",
    "$(touch pwned);`id`.png",
    "-rf.png",
    "--help.png",
    "cat 😀.png",
    "שלום\u202e.png",
    "a" * 251 + ".png",
    "=HYPERLINK(1).png",
    "'quote\".png",
    "comma,semicolon;.png",
    "\x1b[31mred.png",
]


def rows(data: Dataset, path: Path) -> list[dict[str, str]]:
    data.write_splits(path)
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_any_file_name_is_read_and_stored(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=0, dog=10)
    for name in NAMES:
        picture(name).save(root / "cat" / name)
    with (root / "cat" / os.fsdecode(b"caf\xe9.png")).open("wb") as stream:
        picture("latin").save(stream, "PNG")
    data = load(root)
    pixels = pixels_of(data)
    assert len(pixels) == len(NAMES) + 11
    assert np.array_equal(pixels["cat/with space.png"], np.asarray(picture("with space.png")))
    assert np.array_equal(pixels[r"cat/caf\xe9.png"], np.asarray(picture("latin")))
    assert r"cat/new\nline.png" in pixels
    assert r"cat/שלום\u202e.png" in pixels
    assert r"cat/\x1b[31mred.png" in pixels
    assert {row["path"] for row in rows(data, tmp_path / "splits.csv")} == set(pixels)
    assert len((tmp_path / "splits.csv").read_text(encoding="utf-8").splitlines()) == len(pixels) + 1
    json.dumps(data.summary, ensure_ascii=False).encode()
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()


@pytest.mark.parametrize("label", ["=HYPERLINK(1)", "+1", "-1", "@cmd", "<script>alert(1)<", "a b;c"])
def test_any_class_name_trains_and_no_cell_is_a_formula(tmp_path: Path, label: str) -> None:
    root = paint(tmp_path / "d", **{label: 8, "dog": 8})
    data = load(root)
    assert data.classes == tuple(sorted([label, "dog"]))
    cells = {row["label"] for row in rows(data, tmp_path / "splits.csv")}
    assert cells == {"dog", f"'{label}" if label[0] in "=+-@" else label}
    assert all(row["path"][0] not in "=+-@" for row in rows(data, tmp_path / "splits.csv"))


def test_cells_of_bad_files_are_no_formulas_either(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", **{"=1+1": 8, "dog": 8})
    (root / "=1+1" / "x.png").write_bytes(b"")
    data = load(root, max_bad=0.2)
    data.write_bad_files(tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").read_text().splitlines()[1] == "'=1+1/x.png,0 bytes"


def test_a_class_name_of_several_lines_stays_one_label(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", **{"two\nlines": 8, "dog": 8})
    assert load(root).classes == ("dog", r"two\nlines")


def test_twins_in_two_unicode_forms_are_flagged(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=8, dog=8)
    for form in ("NFC", "NFD"):
        Image.new("RGB", (16, 16), (len(form), ord(form[2]), 0)).save(
            root / "cat" / unicodedata.normalize(form, "café.png")
        )
    data = load(root)
    assert data.summary["images"] == 18
    assert "2 names differ only in their Unicode form (NFC, NFD): cat/café.png" in warnings_of(data)


def test_one_accented_name_is_no_twin(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=8, dog=8)
    picture("é").save(root / "cat" / "café.png")
    assert warnings_of(load(root)) == ""


def test_a_terminal_is_not_steered_by_a_name(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=8, dog=8)
    (root / "cat" / "\x1b]0;owned\x07.jpg").write_bytes(b"")
    data = load(root, max_bad=0.2)
    assert data.bad[0].name == r"cat/\x1b]0;owned\x07.jpg"
    assert all(character.isprintable() or character == "\n" for character in warnings_of(data))
