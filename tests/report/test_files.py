"""The comparison as CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from edgewise.errors import UnavailableError
from edgewise.report import comparison, write_csv, write_json
from tests.report.builders import run_result
from tests.report.shown import check_gold


def test_csv_as_in_the_gold_file(tmp_path: Path) -> None:
    write_csv([run_result()], tmp_path / "rows.csv")
    check_gold("comparison.csv", (tmp_path / "rows.csv").read_text(encoding="utf-8"))


def test_csv_reads_back_to_the_rows(tmp_path: Path) -> None:
    write_csv([run_result()], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    for cells, row in zip(read, comparison([run_result()]), strict=True):
        for key, value in row.items():
            if isinstance(value, bool):
                assert cells[key] == str(value).lower()
            elif isinstance(value, float):
                assert float(cells[key]) == value
            else:
                assert cells[key] == ("" if value is None else str(value))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_csv_texts_are_no_formulas_and_numbers_stay_numbers(start: str, tmp_path: Path) -> None:
    plan = start + 'HYPERLINK("http://evil.example","x")'
    result = run_result()
    bad = [dataclasses.replace(one, plan=plan) for one in result.measurements]
    write_csv([dataclasses.replace(result, measurements=bad)], tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        read = list(csv.DictReader(stream))
    assert {cells["plan"] for cells in read} == {"'" + plan}
    assert float(read[2]["difference_macro_f1"]) < 0


def test_json_holds_the_rows(tmp_path: Path) -> None:
    write_json([run_result()], tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text(encoding="utf-8")) == comparison([run_result()])


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UnavailableError, match="cannot write this file") as caught:
        write_csv([run_result()], tmp_path / "taken")
    assert caught.value.code == "E41"
