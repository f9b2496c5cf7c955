"""The comparison as rows, terminal table, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgewise.errors import UnavailableError, UntrustedError
from edgewise.report import comparison, print_table, write_csv, write_json
from edgewise.report.table import (
    clean,
    method_line,
    pace,
    pareto_front,
    show_ms,
    show_ratio,
    show_scaled,
    show_share,
)
from edgewise.results import Estimate, Failure, RunResult
from tests.report.builders import latency, measurement, run_result

GOLD = Path(__file__).parent / "gold"


def check_gold(name: str, text: str) -> None:
    """Compare with a gold file; ``EDGEWISE_ACCEPT=1 pytest`` writes it anew."""
    path = GOLD / name
    if os.environ.get("EDGEWISE_ACCEPT") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def printed(results: list[RunResult], width: int = 100, **options: Any) -> str:
    """What the table prints; trailing blanks are cut."""
    stream = io.StringIO()
    print_table(results, Console(file=stream, width=width, legacy_windows=False, **options))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def named(result: RunResult, name: str) -> dict[str, Any]:
    return next(row for row in comparison([result]) if row["name"] == name)


# ---- Rows ------------------------------------------------------------------------------------------------------


def test_rows_hold_what_was_measured() -> None:
    result = run_result()
    one = next(one for one in result.measurements if one.name == "prune70-int8")
    assert one.latency is not None
    assert one.latency.ratio is not None
    assert one.memory is not None
    assert one.difference is not None
    row = named(result, "prune70-int8")
    expected = {
        "name": "prune70-int8",
        "run": "recycling",
        "variant": "prune70",
        "role": "variant",
        "is_base": False,
        "control_of": None,
        "plan": "prune(ratio=0.7)",
        "format": "onnx",
        "precision": "int8",
        "scheme": "u8s8-rr",
        "chosen": True,
        "pareto": True,
        "meets_goal": True,
        "test_images": 480,
        "accuracy": one.test.accuracy.value,
        "accuracy_low": one.test.accuracy.low,
        "accuracy_high": one.test.accuracy.high,
        "macro_f1": one.test.macro_f1.value,
        "macro_f1_low": one.test.macro_f1.low,
        "macro_f1_high": one.test.macro_f1.high,
        "difference_reference": "base-fp32",
        "difference_accuracy": one.difference.accuracy.value,
        "difference_accuracy_low": one.difference.accuracy.low,
        "difference_accuracy_high": one.difference.accuracy.high,
        "difference_macro_f1": one.difference.macro_f1.value,
        "difference_macro_f1_low": one.difference.macro_f1.low,
        "difference_macro_f1_high": one.difference.macro_f1.high,
        "validation_images": 360,
        "validation_accuracy": one.validation.accuracy.value,
        "validation_macro_f1": one.validation.macro_f1.value,
        "params_total": 8_556,
        "params_nonzero": 8_544,
        "params_zero": 12,
        "macs": 15_300_000,
        "flops": 30_600_000,
        "file_bytes": 11_556,
        "peak_rss_bytes": 71_034_224,
        "baseline_rss_bytes": 59_000_000,
        "latency_p50_ms": 1.72,
        "latency_p50_ms_low": 1.72 * 0.99,
        "latency_p50_ms_high": 1.72 * 1.015,
        "latency_p90_ms": 1.72 * 1.12,
        "latency_p99_ms": 1.72 * 1.6,
        "latency_mean_ms": 1.72 * 1.03,
        "latency_sd_ms": 1.72 * 0.08,
        "latency_min_ms": 1.72 * 0.94,
        "latency_runs": 600,
        "latency_ratio": 0.141,
        "latency_ratio_low": 0.141 * 0.98,
        "latency_ratio_high": 0.141 * 1.03,
        "latency_reference": "base-fp32",
        "latency_aa_spread": 0.012,
        "pace": "faster",
        "e2e_p50_ms": one.latency.e2e.p50_ms.value,
        "e2e_p50_ms_low": one.latency.e2e.p50_ms.low,
        "e2e_p50_ms_high": one.latency.e2e.p50_ms.high,
        "e2e_p90_ms": one.latency.e2e.p90_ms,
        "load_ms": 411.72,
        "first_ms": 1.72 * 2.4,
        "protocol": "quick",
        "threads": 1,
        "valid": True,
        "invalid_reasons": "",
        "parity_n": 480,
        "parity_max_abs_logit_delta": 0.41,
        "parity_top1_agreement": 1.0,
        "parity_tolerance": None,
        "parity_passed": True,
        "bundle": "bundles/prune70-int8",
        "sha256": f"{8:064x}",
        "fingerprint": "b3f1c2d4",
        "created": "2025-03-14T09:26:53+00:00",
        "notes": "",
    }
    assert row == expected
    assert list(row) == list(comparison([result])[0])


def test_base_first_then_variants_each_with_its_control_beneath() -> None:
    assert [(row["name"], row["control_of"]) for row in comparison([run_result()])] == [
        ("base-fp32", None),
        ("base-int8", None),
        ("distilled-fp32", None),
        ("distilled-scratch-fp32", "distilled-fp32"),
        ("distilled-int8", None),
        ("prune50-fp32", None),
        ("prune50-int8", None),
        ("prune70-fp32", None),
        ("prune70-scratch-fp32", "prune70-fp32"),
        ("prune70-int8", None),
    ]


def test_the_base_is_the_uncompressed_model_in_fp32() -> None:
    result = run_result()
    turned = dataclasses.replace(result, measurements=result.measurements[::-1])
    rows = comparison([turned])
    assert [row["name"] for row in rows][:2] == ["base-fp32", "base-int8"]
    assert [row["name"] for row in rows if row["is_base"]] == ["base-fp32"]
    assert named(turned, "prune50-fp32")["meets_goal"] is named(result, "prune50-fp32")["meets_goal"]


def test_a_control_of_the_same_variant_name_is_placed_by_its_role() -> None:
    control = dataclasses.replace(measurement("prune50", "int8", role="control"), name="scratch")
    result = run_result()
    rows = comparison([dataclasses.replace(result, measurements=[control, *result.measurements])])
    assert [row["name"] for row in rows][6:8] == ["prune50-int8", "scratch"]


def test_a_control_without_its_variant_is_still_shown() -> None:
    alone = measurement("prune99-scratch", "fp32", role="control")
    rows = comparison([run_result(measurements=[alone], chosen=None)])
    assert [(row["name"], row["control_of"], row["meets_goal"]) for row in rows] == [
        ("prune99-scratch-fp32", None, None)
    ]


def test_what_was_not_measured_is_none() -> None:
    one = dataclasses.replace(measurement("base", "fp32", role="base"), latency=None, memory=None)
    (row,) = comparison([run_result(measurements=[one], chosen=None, machine={}, goal={})])
    unknown = {key for key, value in row.items() if value is None}
    assert {"latency_p50_ms", "latency_ratio", "e2e_p50_ms", "load_ms", "valid", "pace", "protocol"} <= unknown
    assert {"peak_rss_bytes", "difference_accuracy", "fingerprint", "meets_goal", "control_of"} <= unknown
    assert row["pareto"] is False
    assert json.loads(json.dumps(row, allow_nan=False)) == row


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ({"metric": "accuracy", "max_drop": None, "min": 0.9, "prefer": "latency"}, True),
        ({"metric": "accuracy", "max_drop": None, "min": 0.99, "prefer": "latency"}, False),
        ({"metric": "macro_f1", "max_drop": 0.0, "min": 0.9, "prefer": "latency"}, False),
        ({"metric": "macro_f1", "max_drop": 0.02, "min": None, "prefer": "latency"}, True),
        ({"metric": "macro_f1", "max_drop": None, "min": None, "prefer": "latency"}, None),
    ],
)
def test_goal_is_judged_on_validation_images(goal: dict[str, Any], expected: bool | None) -> None:
    assert named(run_result(goal=goal), "prune70-int8")["meets_goal"] is expected


def test_names_carry_their_run_only_where_they_clash() -> None:
    own = dataclasses.replace(measurement("tiny", "fp32"), name="tiny-fp32")
    first = run_result()
    second = run_result(name="other", measurements=[*first.measurements[:2], own], chosen="tiny-fp32")
    names = [row["name"] for row in comparison([first, second])]
    assert {"recycling/base-fp32", "other/base-fp32", "tiny-fp32", "prune70-int8"} <= set(names)
    assert len(names) == len(set(names)) == 13


def test_runs_of_the_same_name_are_numbered() -> None:
    rows = comparison([run_result(), run_result()])
    assert {row["run"] for row in rows} == {"recycling#1", "recycling#2"}
    assert rows[3]["name"] == "recycling#1/distilled-scratch-fp32"
    assert rows[3]["control_of"] == "recycling#1/distilled-fp32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"machine": {"fingerprint": "other"}}, "different machines"),
        ({"machine": {}}, "does not say which machine"),
        ({"created": "2025-03-15T00:00:00+00:00"}, "different days"),
    ],
)
def test_latencies_are_never_ranked_across_machines_or_days(change: dict[str, Any], words: str) -> None:
    first = run_result()
    slow = [dataclasses.replace(one, latency=latency(99.0, 1.0)) for one in first.measurements]
    second = run_result(name="slow", measurements=slow, **change)
    with pytest.warns(UserWarning, match=words):
        rows = comparison([first, second])
    assert [row["pareto"] for row in rows[:10]] == [row["pareto"] for row in comparison([first])]
    assert any(row["pareto"] for row in rows[10:])
    assert f"warning: {'A run' if 'say' in words else 'The runs'}" in printed([first, second], 200)


def test_the_same_machine_and_day_are_one_ranking() -> None:
    first = run_result()
    slow = [dataclasses.replace(one, latency=latency(99.0, 1.0)) for one in first.measurements]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = comparison([first, run_result(name="slow", measurements=slow)])
    ranked = {row["name"] for row in rows if row["pareto"]}
    # Slower at equal quality and size is dominated; only what was not rankable in the first run remains in the second.
    assert ranked & {row["name"] for row in rows[10:]} == {"slow/prune50-int8"}


def test_chosen_must_be_there() -> None:
    with pytest.raises(UntrustedError, match="choose a model that they do not hold"):
        comparison([run_result(chosen="gone")])


# ---- Pareto ----------------------------------------------------------------------------------------------------

points = st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=30)


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


@given(points)
def test_no_member_of_the_front_is_dominated_and_every_other_is_by_a_member(drawn: list[tuple[int, ...]]) -> None:
    front = pareto_front(drawn)
    members = [point for point, optimal in zip(drawn, front, strict=True) if optimal]
    for point, optimal in zip(drawn, front, strict=True):
        assert optimal is not any(beats(member, point) for member in members)


def test_equal_points_are_both_on_the_front() -> None:
    assert pareto_front([(1.0, 2.0), (1.0, 2.0), (1.0, 3.0)]) == [True, True, False]


def test_an_invalid_latency_is_not_ranked() -> None:
    result = run_result()
    best = dataclasses.replace(
        measurement("wonder", "int8", accuracy=0.999, p50=0.001, ratio=0.001, params=1),
        latency=dataclasses.replace(latency(0.001, 0.001), valid=False),
    )
    rows = comparison([dataclasses.replace(result, measurements=[*result.measurements, best])])
    assert [row["pareto"] for row in rows[:10]] == [row["pareto"] for row in comparison([result])]
    assert rows[10]["pareto"] is False


@pytest.mark.parametrize(
    ("ratio", "spread", "valid", "expected"),
    [
        (Estimate(0.5, 0.45, 0.55, 40), 0.01, True, "faster"),
        (Estimate(1.2, 1.15, 1.25, 40), 0.01, True, "slower"),
        (Estimate(0.97, 0.93, 1.01, 40), 0.01, True, "same"),  # the interval holds 1
        (Estimate(0.97, 0.96, 0.98, 40), 0.02, True, "same"),  # within twice the A/A spread
        (Estimate(0.5, 0.45, 0.55, 40), None, True, None),
        (Estimate(0.5, 0.45, 0.55, 40), 0.01, False, None),
        (None, 0.01, True, None),
    ],
)
def test_pace_needs_interval_and_effect(
    ratio: Estimate | None, spread: float | None, valid: bool, expected: str | None
) -> None:
    timed = dataclasses.replace(latency(1.0, 0.5), ratio=ratio, aa_spread=spread, valid=valid)
    assert pace(timed) == expected
    assert pace(None) is None


# ---- Figures ---------------------------------------------------------------------------------------------------


def test_figures_are_written_with_their_intervals() -> None:
    assert show_share(0.978, 0.966, 0.99) == "97.8 ±1.2"
    assert show_share(-0.004, -0.02, 0.01, sign=True) == "−0.4 ±1.6"
    assert show_share(-0.0001, sign=True) == "0.0"
    assert show_share(0.012, sign=True) == "+1.2"
    assert show_share(None) == "–"
    assert [show_ms(value) for value in (0.0123, 4.314, 43.14, 431.4, None)] == ["0.012", "4.31", "43.1", "431", "–"]
    assert show_ms(4.31, 4.309, 4.3101) == "4.31 ±0.01"  # rounded up: never a false ±0.00
    assert show_ms(4.31, 4.31, 4.31) == "4.31 ±0.00"
    assert show_ratio(0.31, 0.30, 0.33) == "0.31 ±0.02"
    assert show_ratio(0.141) == "0.141"
    shown = [show_scaled(value, "B") for value in (0, 999, 1_000, 12_345, 999_499, 999_500, 165_150_976, 2e9)]
    assert shown == ["0 B", "999 B", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "165 MB", "2.00 GB"]


@given(st.floats(0.001, 500), st.floats(0, 100), st.floats(0, 100))
def test_the_shown_interval_covers_the_measured_one(value: float, below: float, above: float) -> None:
    shown = show_ms(value, value - below, value + above)
    middle, half = (float(part) for part in shown.split(" ±"))
    rounding = 0.5 * 10.0 ** -len(shown.split(" ±")[0].partition(".")[2])
    assert half + 1e-5 >= max(below, above)
    assert abs(middle - value) <= rounding + 1e-9


def test_unprintable_and_direction_changing_characters_are_written_out() -> None:
    assert clean("a\x1b[31m\u202eb\udc80\nc") == "a\\x1b[31m\\u202eb\\udc80\nc"


def test_method_statement_is_one_line_and_complete() -> None:
    assert method_line(run_result()) == (
        "Raspberry Pi 5, Cortex-A76, 4 cores, 8.23 GB RAM, Debian 12, kernel 6.6.31, governor ondemand, "
        "onnxruntime 1.31.0, 1 thread, batch 1, n=600, p50 [95 % CI], quick protocol (not comparable with other "
        "sessions), 1 of 10 latencies not valid, quality on 480 test images"
    )
    assert method_line(run_result(measurements=[], machine={}, versions={}, chosen=None)) == "no latency measured"


# ---- Terminal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_table_as_in_the_gold_file(width: int) -> None:
    text = printed([run_result()], width)
    assert max(map(len, text.splitlines())) <= width
    check_gold(f"table-{width}.txt", text)


def test_columns_go_in_the_stated_order() -> None:
    order = ["params", "acc. %", "MACs", "e2e ms", "vs base"]
    lost = []
    for width in range(124, 72, -4):
        head = printed([run_result()], width).splitlines()[0]
        lost += [title for title in order if title not in head and title not in lost]
        assert all(title in head for title in order if title not in lost)
    assert lost == order
    assert "left out at this width: acc. %, params" in printed([run_result()], 100)


def test_styles_strike_dim_and_mark() -> None:
    stream = io.StringIO()
    print_table([run_result()], Console(file=stream, width=100, force_terminal=True, color_system="standard"))
    lines = {line: line for line in stream.getvalue().splitlines()}
    struck = next(line for line in lines if "prune50-int8" in line and "✗" in line)
    assert "\x1b[2;9m" in struck
    control = next(line for line in lines if "prune70-scratch-fp32" in line)
    assert control.startswith("\x1b[2m└ prune70-scratch-fp32")
    chosen = next(line for line in lines if "★ prune70-int8" in line)
    assert chosen.startswith("\x1b[1;32m★ prune70-int8")
    slower = next(line for line in lines if "▲" in line and "distilled-int8" in line)
    assert "\x1b[31m" in slower


def test_an_ascii_console_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_table([run_result()], Console(file=stream, width=100))
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "* prune70-int8" in text
    assert "96.9 ~1.6" in text


def test_markup_and_control_characters_in_texts_are_shown_not_obeyed() -> None:
    failure = Failure("[red]x[/red]", "train", "\x1b]0;title\x07 [bold]no[/bold]")
    text = printed([run_result(failures=[failure], warnings=["[/]"])], force_terminal=True, color_system=None)
    assert "failed: [red]x[/red] (train): \\x1b]0;title\\x07 [bold]no[/bold]" in text
    assert "warning: [/]" in text
    assert "\x07" not in text


def test_when_nothing_met_the_goal_nothing_is_marked() -> None:
    text = printed([run_result(chosen=None)])
    assert "★" not in text
    assert "no model met the goal" in text


def test_a_chosen_model_that_misses_the_goal_is_told() -> None:
    goal = {"metric": "macro_f1", "max_drop": None, "min": 0.999, "prefer": "latency"}
    assert "warning: prune70-int8 was chosen but misses the goal on validation images" in printed(
        [run_result(goal=goal)]
    )


def test_a_file_that_did_not_pass_parity_is_told() -> None:
    result = run_result()
    one = result.measurements[0]
    bad = dataclasses.replace(one, parity=dataclasses.replace(one.parity, passed=False))
    words = "warning: distilled-fp32 did not pass parity"
    assert words in printed([dataclasses.replace(result, measurements=[bad, *result.measurements[1:]])])
    assert words not in printed([result])


def test_relative_only_is_stamped() -> None:
    machine = {"relative_only": True, "relative_only_reason": "virtual machine"}
    text = printed([run_result(machine=machine)])
    assert "relative only: virtual machine; compare the ratios, not the milliseconds" in text
    assert "relative only" not in printed([run_result()])


def test_several_runs_stand_under_their_names() -> None:
    lines = printed([run_result(), run_result(name="other")]).splitlines()
    assert lines[2] == "recycling"
    assert "other" in lines
    assert lines[lines.index("other") + 1].startswith("base-fp32")
    assert sum(line.startswith(("recycling: measured", "other: measured")) for line in lines) == 2


def test_no_runs_print_nothing() -> None:
    assert printed([]) == ""


# ---- Files -----------------------------------------------------------------------------------------------------


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


def test_importing_the_room_is_cheap() -> None:
    heavy = "rich plotly jinja2 numpy torch sklearn onnxruntime pydantic"
    program = f"import sys, edgewise.report; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_key_of_a_row_is_explained_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    named_keys = set(re.findall(r"`(\w+)`", text.split("## The keys of a row")[1].split("## Comparing runs")[0]))
    ends = {f"{key}{end}" for key in named_keys for end in ("_low", "_high")}
    assert [key for key in comparison([run_result()])[0] if key not in named_keys | ends] == []
