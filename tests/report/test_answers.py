"""When files say unknown, on the terminal, on the page and as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgewise.report import write_html
from edgewise.report.answers import answer_lines, answers_of, show_threshold
from edgewise.report.rows import answers_verdict, rows_of
from edgewise.results import Answered, Decision, Estimate, RunResult, read_result, to_json
from tests.report.builders import run_result
from tests.report.shown import printed


def with_decision(decision: Decision | None, *, index: int = 0) -> RunResult:
    result = run_result()
    rows = list(result.measurements)
    rows[index] = dataclasses.replace(rows[index], decision=decision)
    return dataclasses.replace(result, measurements=rows)


def answered(precision: float, low: float, high: float) -> Decision:
    found = Answered(Estimate(0.7, 0.66, 0.74, 480), Estimate(precision, low, high, 336))
    return Decision(0.95, 0.9, "", found, found)


def test_rows_hold_threshold_coverage_and_precision_of_the_test_images() -> None:
    row = next(row for row in rows_of([run_result()]) if row["name"] == "base-int8")
    assert (row["unknown_below"], row["precision_asked"], row["answers"]) == (0.8605, 0.95, 408)
    assert row["answered"] == pytest.approx(0.85)
    assert row["answered_low"] < row["answered"] < row["answered_high"]
    assert row["answered_rightly"] == pytest.approx(402 / 408)


def test_results_from_before_there_were_decisions_are_shown_without(tmp_path: Path) -> None:
    result = run_result()
    rows = [dataclasses.replace(row, decision=None) for row in result.measurements]
    old = dataclasses.replace(result, measurements=rows)
    assert answer_lines(rows_of([old])) == []
    assert "unknown below" not in printed([old], 100)
    write_html(old, tmp_path / "report.html")
    assert 'id="answers"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_they_come_back_from_json(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(to_json(run_result()), encoding="utf-8")
    assert read_result(tmp_path / "results.json").measurements[1].decision == run_result().measurements[1].decision


@pytest.mark.parametrize(
    ("decision", "verdict"),
    [
        (answered(0.97, 0.95, 0.99), "holds"),
        (answered(0.94, 0.91, 0.96), "holds"),
        (answered(0.9, 0.87, 0.93), "below"),
        (Decision(0.95, None, "no threshold: too few", None, None), "none"),
        (Decision(0.95, 0.99, "", None, Answered(Estimate(0, 0, 0.01, 400), None)), "holds"),
    ],
)
def test_the_verdict_is_that_of_the_interval(decision: Decision, verdict: str) -> None:
    assert answers_verdict(decision) == verdict


def test_the_lines_say_what_does_not_hold_and_why_there_is_no_threshold() -> None:
    lines = answer_lines(rows_of([with_decision(answered(0.9, 0.87, 0.93))]))
    assert lines[0].startswith(
        "answers, on test images; the threshold was chosen on validation images for 95.0 % right"
    )
    assert any("distilled-fp32" in line and "0.9000" in line and "70.0" in line for line in lines)
    assert lines[-1] == "  distilled-fp32: fewer are right than was asked for, by more than chance"
    none = Decision(0.95, None, "no threshold: 40 validation images are too few", None, None)
    lines = answer_lines(rows_of([with_decision(none)]))
    assert lines[-1] == "  distilled-fp32: no threshold: 40 validation images are too few"
    assert not any("scratch" in line for line in lines)


def test_the_page_has_the_table_and_escapes_its_notes(tmp_path: Path) -> None:
    none = Decision(0.95, None, "no threshold: <b>few</b>", None, None)
    write_html(with_decision(none), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="answers"' in text
    assert "no threshold: &lt;b&gt;few&lt;/b&gt;" in text
    assert "<b>few</b>" not in text
    assert len(answers_of(rows_of([run_result()]))) == 8


def test_thresholds_near_1_do_not_look_like_1() -> None:
    assert [show_threshold(value) for value in (None, 0.0, 0.81274, 0.999976)] == ["–", "0", "0.8127", "0.99997600"]
