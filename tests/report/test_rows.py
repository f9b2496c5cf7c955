"""The comparison as rows: order, goal, ranking, pace."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.errors import UntrustedError
from edgewise.judge import pace, paired_ratio
from edgewise.report import comparison
from edgewise.report.rows import pareto_front
from edgewise.results import Estimate, RunResult
from tests.report.builders import clock, latency, measurement, run_result
from tests.report.shown import named, printed


def test_rows_hold_what_was_measured() -> None:
    result = run_result()
    one = next(one for one in result.measurements if one.name == "prune70-int8")
    assert one.latency is not None
    assert one.latency.ratio is not None
    assert one.memory is not None
    assert one.difference is not None
    assert one.calibration is not None
    assert one.decision is not None
    assert one.decision.test is not None
    assert one.decision.test.precision is not None
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
        **dict.fromkeys(
            [f"clean_{key}{end}" for key in ("accuracy", "macro_f1") for end in ("", "_low", "_high")], None
        ),
        "clean_images": None,
        "validation_images": 360,
        "validation_accuracy": one.validation.accuracy.value,
        "validation_macro_f1": one.validation.macro_f1.value,
        "ece": 0.031,
        "ece_chance": 0.014,
        "ece_adaptive": 0.032,
        "nll": 0.151,
        "confidence_gap": 0.031,
        "confidence_gap_low": one.calibration.before.gap.low,
        "confidence_gap_high": one.calibration.before.gap.high,
        "confidence_verdict": "over",
        "temperature": 1.62,
        "ece_scaled": 0.001,
        "nll_scaled": 0.121,
        "unknown_below": 0.8605,
        "precision_asked": 0.95,
        "answered": 0.85,
        "answered_low": one.decision.test.coverage.low,
        "answered_high": one.decision.test.coverage.high,
        "answered_rightly": one.decision.test.precision.value,
        "answered_rightly_low": one.decision.test.precision.low,
        "answered_rightly_high": one.decision.test.precision.high,
        "answers": 408,
        "answers_verdict": "holds",
        "no_threshold": "",
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
        "comparable": True,
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
    (row,) = comparison([run_result(measurements=[one], chosen=None, machine={}, goal={"max_drop": None})])
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


def test_runs_are_ranked_apart_even_on_the_same_machine_and_day() -> None:
    first = run_result()
    slow = [dataclasses.replace(one, latency=latency(99.0, 9.0)) for one in first.measurements]
    second = run_result(name="slow", measurements=slow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = comparison([first, second])
    alone = [*comparison([first]), *comparison([second])]
    assert [row["pareto"] for row in rows] == [row["pareto"] for row in alone]
    assert any(row["pareto"] for row in rows[10:])


def test_chosen_must_be_there() -> None:
    with pytest.raises(UntrustedError, match="choose a model that they do not hold"):
        comparison([run_result(chosen="gone")])


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


def with_wonder(**changes: Any) -> RunResult:
    """The run with one more model, which beats all others in quality, ratio and size."""
    timed = dataclasses.replace(latency(0.001, 0.001), **changes)
    best = measurement("wonder", "int8", accuracy=0.999, p50=0.001, ratio=0.001, params=1)
    result = run_result()
    return dataclasses.replace(result, measurements=[*result.measurements, dataclasses.replace(best, latency=timed)])


@pytest.mark.parametrize("changes", [{"comparable": False}, {"comparable": False, "valid": False}, {"ratio": None}])
def test_a_ratio_that_does_not_compare_is_not_ranked(changes: dict[str, Any]) -> None:
    rows = comparison([with_wonder(**changes)])
    assert [row["pareto"] for row in rows[:10]] == [row["pareto"] for row in comparison([run_result()])]
    assert rows[10]["pareto"] is False


def test_a_ratio_that_compares_is_ranked_where_milliseconds_are_not_valid() -> None:
    rows = comparison([with_wonder(valid=False)])
    assert [row["name"] for row in rows if row["pareto"]] == ["wonder-int8"]
    assert named(run_result(), "prune50-int8")["valid"] is False
    assert named(run_result(), "prune50-int8")["pareto"] is True


def test_milliseconds_rank_nothing() -> None:
    result = run_result()
    turned = [
        dataclasses.replace(
            one, latency=dataclasses.replace(one.latency, model=clock(1 / one.latency.model.min_ms, 600))
        )
        for one in result.measurements
        if one.latency
    ]
    rows = comparison([dataclasses.replace(result, measurements=turned)])
    assert [row["latency_p50_ms"] for row in rows] != [row["latency_p50_ms"] for row in comparison([result])]
    assert [row["pareto"] for row in rows] == [row["pareto"] for row in comparison([result])]


def test_the_base_is_once_its_own_time_whatever_the_a_a_ratio_says() -> None:
    base, other = run_result().measurements[1], run_result().measurements[2]
    assert base.latency is not None
    assert base.latency.ratio is not None
    assert base.latency.ratio.value == 1.004
    assert paired_ratio(base) == Estimate(1.0, 1.0, 1.0, 40)
    assert other.latency is not None
    assert paired_ratio(other) == other.latency.ratio
    for broken in (None, dataclasses.replace(other.latency, comparable=False)):
        assert paired_ratio(dataclasses.replace(other, latency=broken)) is None
    # Against the A/A ratio 0.98 it would be dominated; against 1 it is the faster of the two.
    near = dataclasses.replace(other, test=base.test, cost=base.cost, latency=latency(7.9, 0.995))
    shaky = dataclasses.replace(base, latency=latency(12.24, 0.98))
    rows = comparison([run_result(measurements=[shaky, near], chosen=None)])
    assert [row["pareto"] for row in rows] == [False, True]


@pytest.mark.parametrize("valid", [True, False])
@pytest.mark.parametrize(
    ("ratio", "spread", "comparable", "expected"),
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
def test_pace_needs_interval_effect_and_a_sound_comparison(
    ratio: Estimate | None, spread: float | None, comparable: bool, expected: str | None, valid: bool
) -> None:
    timed = dataclasses.replace(latency(1.0, 0.5), ratio=ratio, aa_spread=spread, comparable=comparable, valid=valid)
    assert pace(timed) == expected
    assert pace(None) is None


def test_every_key_of_a_row_is_explained_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    named_keys = set(re.findall(r"`(\w+)`", text.split("## The keys of a row")[1].split("## Comparing runs")[0]))
    ends = {f"{key}{end}" for key in named_keys for end in ("_low", "_high")}
    assert [key for key in comparison([run_result()])[0] if key not in named_keys | ends] == []


def test_importing_the_room_is_cheap() -> None:
    heavy = "rich plotly jinja2 numpy torch sklearn onnxruntime pydantic"
    program = f"import sys, edgewise.report; print([name for name in '{heavy}'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
