"""How a run was measured and what of it does not stand, in words."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.measure import machine
from edgewise.measure.latency import drift
from edgewise.report.method import invalid_words, method_line, relative_only
from edgewise.results import RunResult
from tests.report.builders import measurement, run_result


def timed(*reasons: list[str], **changes: Any) -> RunResult:
    """A run with one file for each list of reasons; the file is valid where the list is empty."""
    measurements = []
    for index, listed in enumerate(reasons):
        one = measurement(f"net{index}", "fp32", ratio=0.5)
        assert one.latency is not None
        judged = dataclasses.replace(one.latency, valid=not listed, invalid_reasons=listed, **changes)
        measurements.append(dataclasses.replace(one, latency=judged))
    return run_result(measurements=measurements, chosen=None)


def test_method_statement_is_one_line_and_complete() -> None:
    assert method_line(run_result()) == (
        "Raspberry Pi 5, Cortex-A76, 4 cores, 8.23 GB RAM, Debian 12, kernel 6.6.31, governor ondemand, "
        "onnxruntime 1.31.0, 1 thread, batch 1, n=600, p50 [95 % CI], quick protocol (not comparable with other "
        "sessions), milliseconds of 1 of 10 files not valid, paired ratios compare, quality on 480 test images"
    )
    assert method_line(run_result(measurements=[], machine={}, versions={}, chosen=None)) == "no latency measured"


@pytest.mark.parametrize(
    ("reasons", "changes", "words"),
    [
        (([], []), {}, "all latencies valid"),
        ((["hot"], ["hot"]), {}, "milliseconds of 2 of 2 files not valid, paired ratios compare"),
        ((["hot"], []), {"comparable": False}, "milliseconds of 1 of 2 files not valid, paired ratios do not compare"),
        (([],), {"comparable": False}, "all milliseconds valid, paired ratios do not compare"),
        ((["hot"],), {"ratio": None}, "milliseconds of 1 of 1 file not valid, no paired ratios"),
    ],
)
def test_method_statement_says_what_stands(reasons: Any, changes: dict[str, Any], words: str) -> None:
    assert f", {words}, quality" in method_line(timed(*reasons, **changes))


def test_method_statement_counts_ratios_of_mixed_sessions() -> None:
    good, bad = timed([], []), timed([], comparable=False)
    both = dataclasses.replace(good, measurements=[*good.measurements, *bad.measurements])
    assert "all milliseconds valid, paired ratios do not compare (1 of 3)" in method_line(both)


# ---- Reasons ---------------------------------------------------------------------------------------------------


def test_reasons_of_a_kind_are_one_with_the_largest_drift_and_the_number_of_files() -> None:
    load = "other processes used 81% of the CPUs"
    result = timed(
        [load, "model drift 0.39 -> 0.429 ms", "e2e drift 0.5 -> 0.595 ms"],
        [load],
        [load, "e2e drift 1.2e+03 -> 1.1e+03 ms"],
    )
    assert invalid_words(result) == [
        "milliseconds not valid: other processes used 81 % of the CPUs (3 of 3 files); "
        "drift of up to 19 % (2 of 3 files)"
    ]


def test_numbers_that_differ_are_a_range_and_unknown_reasons_stand_as_they_are() -> None:
    result = timed(
        ["swap was used: 900 pages moved", "throttled (bits 0x50005)", "someone knocked, twice"],
        ["swap was used: 1200 pages moved", "throttled (bits 0x50005)", "drift"],
        [],
    )
    (line,) = invalid_words(result)
    assert line == (
        "milliseconds not valid: swap was used: 900-1200 pages moved (2 of 3 files); "
        "throttled (bits 0x50005) (2 of 3 files); someone knocked, twice (1 of 3 files); drift (1 of 3 files)"
    )


def test_many_kinds_are_cut_and_counted() -> None:
    (line,) = invalid_words(timed(["a", "b", "c", "d", "e", "f"], ["e"]))
    assert line == (
        "milliseconds not valid: e (2 of 2 files); a (1 of 2 files); b (1 of 2 files); c (1 of 2 files); "
        "and 2 more kinds of reason"
    )


def test_a_failed_a_a_check_is_a_line_of_its_own() -> None:
    check = "A/A check: the reference against itself is 1.060 [1.020, 1.100], which excludes 1"
    assert invalid_words(timed([check], [check], comparable=False)) == [
        f"milliseconds not valid: {check} (2 of 2 files)",
        "ratios do not compare: the A/A check did not hold (2 of 2 files)",
    ]


def test_valid_latencies_and_runs_without_any_have_no_reasons() -> None:
    assert invalid_words(timed([], [])) == []
    assert invalid_words(run_result(measurements=[], chosen=None)) == []
    untimed = dataclasses.replace(measurement("base", "fp32", role="base"), latency=None)
    assert invalid_words(run_result(measurements=[untimed], chosen=None)) == []


def test_an_invalid_latency_without_a_reason_is_told() -> None:
    result = timed(["x"])
    assert result.measurements[0].latency is not None
    bare = dataclasses.replace(result.measurements[0].latency, invalid_reasons=[])
    one = dataclasses.replace(result.measurements[0], latency=bare)
    assert invalid_words(dataclasses.replace(result, measurements=[one])) == [
        "milliseconds not valid: no reason given (1 of 1 file)"
    ]


def test_what_the_timer_writes_is_understood() -> None:
    """The texts come from where they are made, so that a change of their wording is noticed here."""
    slow, fast = np.full((8, 4), 1.0), np.full((8, 4), 1.0)
    slow[4:], fast[4:] = 1.25, 0.9
    told = [*drift(slow, "model"), *drift(fast, "e2e")]
    assert len(told) == 2
    before = machine.State(frequency_khz=(2_400_000,), busy_ticks=0, total_ticks=0, own_ticks=0, cores=2)
    after = machine.State(frequency_khz=(1_800_000,), busy_ticks=300, total_ticks=400, own_ticks=100, cores=2)
    disturbed = machine.reasons(before, after)
    assert invalid_words(timed([*disturbed, *told[:1]], [*disturbed, *told[1:]])) == [
        "milliseconds not valid: CPU clock fell 2400 -> 1800 MHz (2 of 2 files); "
        "other processes used 50 % of the CPUs (2 of 2 files); drift of up to 25 % (2 of 2 files)"
    ]


kinds = st.sampled_from(["swap: {} pages", "model drift {} -> {} ms", "used {}% of {}", "odd", "0x{} bits", "{} drift"])
reason = st.builds(lambda text, a, b: text.format(a, b), kinds, st.integers(0, 99), st.integers(0, 99))


@given(st.lists(st.lists(reason | st.text(max_size=20), max_size=4), max_size=6))
def test_no_reason_breaks_the_grouping_and_no_count_exceeds_the_files(reasons: list[list[str]]) -> None:
    lines = invalid_words(timed(*reasons))
    assert len(lines) == any(reasons)
    assert all("\n" not in line for line in lines)
    for count, files in re.findall(r"\((\d+) of (\d+) files?\)(?=;|$)", " ".join(lines)):
        assert 1 <= int(count) <= int(files) == len(reasons)


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("virtual machine: the cores are shared", "virtual machine: the cores are shared"),
        (True, "a shared or virtual machine"),
        (False, None),
        (None, None),
        ("\x1b[31m", "\\x1b[31m"),
    ],
)
def test_relative_only_gives_the_reason(fact: object, words: str | None) -> None:
    assert relative_only(run_result(machine={"relative_only": fact})) == words
