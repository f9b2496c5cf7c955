"""What is chosen, on made-up rows."""

from __future__ import annotations

import dataclasses
from typing import Any

from edgewise.judge import choose, times_as_long
from edgewise.recipe import Goal
from edgewise.results import Clock, Cost, Estimate, Latency, Measurement, Parity, Quality


def row(name: str, f1: float, ms: float, macs: int, size: int, **more: Any) -> Measurement:
    f1_estimate = Estimate(f1, f1 - 0.01, f1 + 0.01, 500)
    quality = Quality(500, f1_estimate, f1_estimate, {}, [])
    ratio = more.pop("ratio", 0.5)
    timed = Latency(
        "quick", 1, *[Clock(100, Estimate(ms, ms, ms, 100), ms, None, ms, 0.0, ms)] * 2,
        ratio=Estimate(ratio, ratio - 0.02, ratio + 0.02, 10), comparable=more.pop("comparable", True), valid=False,
    )  # fmt: skip
    parity = Parity(500, 0.0, 1.0, None, more.pop("passed", True))
    role = more.pop("role", "variant")
    cost = Cost(1, 1, 0, macs, size)
    none: Any = None
    return Measurement(
        name, name, role, "", "onnx", "fp32", "", "", "", cost, quality, quality, none, parity, timed, none
    )


BASE = row("base", 0.95, 2.0, 1000, 1000, role="base", ratio=1.0)


def chosen(*rows: Measurement, **goal: Any) -> tuple[str | None, str]:
    return choose([BASE, *rows], Goal.model_validate(goal))


def test_the_fastest_that_keeps_the_quality_is_chosen() -> None:
    fast, faster_but_worse = row("fast", 0.94, 1.0, 500, 500), row("worse", 0.90, 0.5, 200, 200, ratio=0.2)
    assert chosen(fast, faster_but_worse) == ("fast", "")
    assert chosen(fast, faster_but_worse, max_drop=0.1)[0] == "worse"
    assert chosen(fast, prefer="size")[0] == "fast"
    assert chosen(fast, max_drop=None, min=0.99)[0] is None


def test_the_paired_ratio_ranks_not_the_milliseconds() -> None:
    """Drift during the session can make the milliseconds say the opposite."""
    early, late = row("early", 0.95, 1.0, 500, 500, ratio=0.6), row("late", 0.95, 1.2, 500, 500, ratio=0.5)
    assert chosen(early, late) == ("late", "")


def test_controls_failed_parity_and_slower_files_are_never_chosen() -> None:
    control = row("control", 0.95, 0.1, 10, 10, role="control", ratio=0.1)
    failed = row("failed", 0.95, 0.1, 10, 10, passed=False, ratio=0.1)
    slower = row("slower", 0.95, 2.4, 500, 500, ratio=1.2)
    assert chosen(control, failed, slower) == ("base", "")
    assert chosen(slower, prefer="size")[0] == "slower"


def test_timings_that_failed_the_a_a_check_rank_nothing() -> None:
    fast = row("fast", 0.95, 0.5, 900, 900, comparable=False)
    lean = row("lean", 0.95, 1.0, 500, 500)
    name, warning = chosen(fast, lean)
    assert name == "lean"
    assert "timing was disturbed" in warning


def test_int8_is_compared_with_the_fp32_file_of_its_own_model() -> None:
    floating = row("small", 0.95, 0.2, 10, 10, ratio=0.2)
    whole = dataclasses.replace(row("small-int8", 0.95, 0.4, 10, 3, ratio=0.4), variant="small", precision="int8")
    assert times_as_long([BASE, floating, whole], whole) == 2.0
    assert times_as_long([BASE, floating, whole], floating) is None
    assert times_as_long([BASE, whole], whole) is None
    assert whole.latency is not None
    rough = dataclasses.replace(whole, latency=dataclasses.replace(whole.latency, aa_spread=0.6))
    assert times_as_long([BASE, floating, rough], rough) == 1.0
