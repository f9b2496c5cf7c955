"""The comparison on a terminal."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from edgewise.report import print_table
from edgewise.results import Failure
from tests.report.builders import run_result
from tests.report.shown import check_gold, printed


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
    assert re.findall(r"\x1b\[2;9m([^\x1b]+)", struck) == ["3.77 ±0.06 ✗", "4.39 ✗"]
    control = next(line for line in lines if "prune70-scratch-fp32" in line)
    assert control.startswith("\x1b[2m└ prune70-scratch-fp32")
    chosen = next(line for line in lines if "★ prune70-int8" in line)
    assert chosen.startswith("\x1b[1;32m★ prune70-int8")
    slower = next(line for line in lines if "▲" in line and "distilled-int8" in line)
    assert "\x1b[31m" in slower


def test_a_ratio_is_struck_only_where_it_does_not_compare() -> None:
    result = run_result()
    failed = dataclasses.replace(
        result,
        measurements=[
            dataclasses.replace(one, latency=dataclasses.replace(one.latency, comparable=False))
            for one in result.measurements
            if one.latency
        ],
    )
    stream = io.StringIO()
    print_table([failed], Console(file=stream, width=100, force_terminal=True, color_system="standard"))
    line = next(line for line in stream.getvalue().splitlines() if "distilled-int8" in line)
    assert re.findall(r"\x1b\[2;9m([^\x1b]+)", line) == ["1.10 ±0.04 ✗"]  # its milliseconds stand
    text = printed([failed])
    assert "✗ ratios do not compare: the A/A check did not hold (10 of 10 files)" in text
    assert "▲" not in text


def test_a_disturbed_session_takes_one_line() -> None:
    result = run_result()
    disturbed = [
        dataclasses.replace(
            one,
            latency=dataclasses.replace(
                one.latency, valid=False, invalid_reasons=[f"model drift 1 -> 1.{place + 10} ms"]
            ),
        )
        for place, one in enumerate(result.measurements)
        if one.latency
    ]
    text = printed([dataclasses.replace(result, measurements=disturbed)])
    lines = [line for line in text.splitlines() if line.startswith("✗")]
    assert lines == ["✗ milliseconds not valid: drift of up to 19 % (10 of 10 files)"]
    assert "▲" in text  # the ratios still compare


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
    machine = {"relative_only": "virtual machine"}
    text = printed([run_result(machine=machine)])
    assert "relative only (virtual machine): compare the ratios, not the milliseconds" in text
    assert "relative only" not in printed([run_result()])


def test_several_runs_stand_under_their_names() -> None:
    lines = printed([run_result(), run_result(name="other")]).splitlines()
    assert lines[2] == "recycling"
    assert "other" in lines
    assert lines[lines.index("other") + 1].startswith("base-fp32")
    assert sum(line.startswith(("recycling: measured", "other: measured")) for line in lines) == 2


def test_no_runs_print_nothing() -> None:
    assert printed([]) == ""
