"""Leakage stands above all figures, with the figure on the clean images; without leakage nothing is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgewise.report import comparison, write_html
from edgewise.report.leakage import leakage_lines
from edgewise.results import RunResult, read_result, to_json
from tests.report.builders import CLASSES, quality, run_result
from tests.report.shown import named, printed


def leaking(test: int = 48, val: int = 0, chosen: str | None = "prune70-int8") -> RunResult:
    """The run of the builders with so many copies among its 480 test and 360 validation images."""
    result = run_result(chosen=chosen)
    clean = quality(0.9, CLASSES, 72, seed=77) if test < 480 else None
    rows = [dataclasses.replace(one, test_clean=clean) for one in result.measurements]
    data = {"train": 2_240, "val": 360, "test": 480, "val_leaked": val, "test_leaked": test}
    return dataclasses.replace(result, measurements=rows, data=data)


def test_the_share_and_the_clean_figure() -> None:
    (line,) = leakage_lines(leaking())
    assert line.startswith(
        "Leakage: 48 of 480 test images (10.0 %) are copies of training images. On the other 432, prune70-int8 has "
    )
    clean = named(leaking(), "prune70-int8")["clean_macro_f1"]
    assert f"has {100 * clean:.1f} ±" in line
    assert "(with the copies 96.9 ±1.6 %)" in line


def test_without_a_choice_the_base_is_named() -> None:
    assert "the other 432, base-fp32 has" in leakage_lines(leaking(chosen=None))[0]


def test_when_nothing_is_clean_the_figures_prove_nothing() -> None:
    assert leakage_lines(leaking(test=480))[0].endswith("None is left: the test figures prove nothing.")


def test_validation_is_named_after_test() -> None:
    first, second = leakage_lines(leaking(val=36))
    assert "test images" in first
    assert second == "Leakage: 36 of 360 validation images (10.0 %) are copies of training images. 324 are left."


def test_no_leakage_no_words() -> None:
    assert leakage_lines(leaking(test=0)) == []
    assert leakage_lines(run_result()) == []
    assert "Leakage" not in printed([run_result()])


def test_it_stands_above_the_table_and_above_the_tiles(tmp_path: Path) -> None:
    text = printed([leaking()])
    assert text.startswith("Leakage: 48 of 480 test images")
    write_html(leaking(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("48 of 480 test images") < page.index('class="tiles"') < page.index("<table")


def test_the_rows_carry_it() -> None:
    row = named(leaking(), "prune70-int8")
    assert row["clean_images"] == 432
    assert row["clean_accuracy_low"] < row["clean_accuracy"] < row["clean_accuracy_high"]
    assert all(row["clean_images"] is None for row in comparison([run_result()]))


def test_results_go_round_and_older_files_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(to_json(leaking()), encoding="utf-8")
    assert read_result(path) == leaking()
    older = to_json(run_result()).replace(',\n   "validation_clean": null,\n   "test_clean": null', "")
    assert "test_clean" not in older
    path.write_text(older, encoding="utf-8")
    assert read_result(path) == run_result()
