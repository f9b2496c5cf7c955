"""Rows: the measurements of one or several runs as flat data, ordered, judged by the goal and ranked.

A row is a flat JSON-able object; `comparison` names its keys, and docs/report.md defines each. Rows come base first,
then variant by variant, a control directly after what it controls. Time is ranked by the paired ratio to the base,
never by milliseconds, and only within a run, whose files were timed in one session.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgewise.errors import UntrustedError
from edgewise.judge import base_of, pace, paired_ratio, shortfall
from edgewise.report.words import clean
from edgewise.results import Decision, Estimate, Measurement, Reliability, RunResult

Row = dict[str, Any]

METRICS = {"macro_f1": "macro F1", "accuracy": "accuracy"}
"""Quality figures a goal can be set on, and how they are written."""


def comparison(results: Sequence[RunResult]) -> list[Row]:
    """One flat, JSON-able row per measurement of one or several runs; a figure that is not known is None.

    Quality figures are those of the test images. Names are written ``run/name`` only where two runs share a name.
    `pareto` is True when no row of the same run is at least as good in macro F1, paired latency ratio and file size and
    better in one of them. Rows of different runs were not timed in one session and are not ranked together; a row whose
    ratio does not compare (see `paired_ratio`) is not ranked and has `pareto` False.

    Raises:
        UntrustedError: a run's `chosen` names none of its measurements.

    Warns:
        UserWarning: the runs were timed on different machines or days, so that their latencies cannot be compared.
    """
    for message in incomparable(results):
        warnings.warn(message, UserWarning, stacklevel=2)
    return rows_of(results)


def incomparable(results: Sequence[RunResult]) -> list[str]:
    """What speaks against setting latencies of these runs side by side, in sentences."""
    if len(results) < 2:
        return []
    fingerprints = {_fingerprint(result) for result in results}
    if None in fingerprints:
        return ["A run does not say which machine it was timed on: do not compare latencies across runs."]
    if len(fingerprints) > 1:
        return ["The runs were timed on different machines (fingerprints differ): do not compare their latencies."]
    if len({result.created[:10] for result in results}) > 1:
        return ["The runs were timed on different days: do not compare their latencies."]
    return []


def pareto_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other point dominates. Every coordinate is better when smaller.

    A point dominates another when it is nowhere worse and somewhere better; equal points do not dominate each other.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def goal_shortfall(result: RunResult, measurement: Measurement) -> float | None:
    """`edgewise.judge.shortfall` under the run's own goal."""
    from edgewise.recipe import Goal

    return shortfall(result.measurements, measurement, Goal.model_validate(result.goal))


def meets_goal(result: RunResult, measurement: Measurement) -> bool | None:
    """Whether a measurement meets the run's goal on validation images; None when there is no limit to meet."""
    missing = goal_shortfall(result, measurement)
    return None if missing is None else missing <= 0


def ordered(measurements: Sequence[Measurement]) -> list[tuple[Measurement, Measurement | None]]:
    """Measurements in the order they are shown, each control with what it controls.

    Base first, then by variant in order of appearance. A control follows the measurement of its variant that has the
    same precision, or stands at the end of its variant (with None) when there is none.
    """
    base = base_of(measurements)
    leads = [one for one in measurements if one.role != "control"]
    leads.sort(key=lambda one: (one is not base, one.role != "base"))
    variants = [one.variant for one in leads]
    families: dict[str, list[Measurement]] = {}
    for one in (*leads, *(one for one in measurements if one.role == "control")):
        families.setdefault(family(one.variant, variants), []).append(one)
    shown: list[tuple[Measurement, Measurement | None]] = []
    for members in families.values():
        controls = [one for one in members if one.role == "control"]
        for lead in (one for one in members if one.role != "control"):
            shown.append((lead, None))
            shown += [(one, lead) for one in controls if one.precision == lead.precision]
            controls = [one for one in controls if one.precision != lead.precision]
        shown += [(one, None) for one in controls]
    return shown


def family(variant: str, variants: Sequence[str]) -> str:
    """The variant a row belongs to: a control may be named after its variant, as in ``prune50-control``."""
    if variant in variants:
        return variant
    named = [known for known in variants if re.match(re.escape(known) + r"[^A-Za-z0-9]", variant)]
    return max(named, key=len, default=variant)


def rows_of(results: Sequence[RunResult]) -> list[Row]:
    """The rows of `comparison`, without its warnings."""
    labels = run_labels(results)
    rows: list[Row] = []
    for result, label in zip(results, labels, strict=True):
        if result.chosen is not None and result.chosen not in {one.name for one in result.measurements}:
            raise UntrustedError(
                "the results choose a model that they do not hold",
                code="U01",
                where={"run": label, "chosen": result.chosen},
                fix="the file was changed or damaged after it was written; make it again",
            )
        shown = ordered(result.measurements)
        own = [_row(result, label, one, lead) for one, lead in shown]
        _mark_pareto(own, [paired_ratio(one) for one, _ in shown])
        rows += own
    counts = Counter(name for result in results for name in {one.name for one in result.measurements})
    for row in rows:
        for key in ("name", "control_of"):
            if row[key] is not None and counts[row[key]] > 1:
                row[key] = f"{row['run']}/{row[key]}"
    return [{key: clean(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows]


def run_labels(results: Sequence[RunResult]) -> list[str]:
    """The runs' names; runs that share a name are numbered in the order given, ``name#1``, ``name#2``."""
    shared = Counter(result.name for result in results)
    seen: Counter[str] = Counter()
    labels = []
    for result in results:
        seen[result.name] += 1
        labels.append(f"{result.name}#{seen[result.name]}" if shared[result.name] > 1 else result.name)
    return labels


def _row(result: RunResult, label: str, one: Measurement, lead: Measurement | None) -> Row:
    return {
        "name": one.name,
        "run": label,
        "variant": one.variant,
        "role": one.role,
        "is_base": one is base_of(result.measurements),
        "control_of": lead.name if lead else None,
        "plan": one.plan,
        "format": one.format,
        "precision": one.precision,
        "scheme": one.scheme,
        "chosen": one.name == result.chosen,
        "pareto": False,
        "meets_goal": meets_goal(result, one),
        **_quality(one),
        **_confidence(one),
        **_decision(one),
        **_cost(one),
        **_latency(one),
        "parity_n": one.parity.n,
        "parity_max_abs_logit_delta": one.parity.max_abs_logit_delta,
        "parity_top1_agreement": one.parity.top1_agreement,
        "parity_tolerance": one.parity.tolerance,
        "parity_passed": one.parity.passed,
        "bundle": one.bundle,
        "sha256": one.sha256,
        "fingerprint": _fingerprint(result),
        "created": result.created,
        "notes": "; ".join(one.notes),
    }


def _quality(one: Measurement) -> Row:
    difference, clean = one.difference, one.test_clean
    return {
        "test_images": one.test.n,
        **_ends("accuracy", one.test.accuracy),
        **_ends("macro_f1", one.test.macro_f1),
        "difference_reference": difference.reference if difference else None,
        **_ends("difference_accuracy", difference.accuracy if difference else None),
        **_ends("difference_macro_f1", difference.macro_f1 if difference else None),
        "clean_images": clean.n if clean else None,
        **_ends("clean_accuracy", clean.accuracy if clean else None),
        **_ends("clean_macro_f1", clean.macro_f1 if clean else None),
        "validation_images": one.validation.n,
        "validation_accuracy": one.validation.accuracy.value,
        "validation_macro_f1": one.validation.macro_f1.value,
    }


def _confidence(one: Measurement) -> Row:
    found = one.calibration
    return {
        "ece": found.before.ece if found else None,
        "ece_chance": found.before.ece_chance if found else None,
        "ece_adaptive": found.before.ece_adaptive if found else None,
        "nll": found.before.nll if found else None,
        **_ends("confidence_gap", found.before.gap if found else None),
        "confidence_verdict": confidence_verdict(found.before) if found else None,
        "temperature": found.temperature if found else None,
        "ece_scaled": found.after.ece if found else None,
        "nll_scaled": found.after.nll if found else None,
    }


def _decision(one: Measurement) -> Row:
    found = one.decision
    test = found.test if found else None
    return {
        "unknown_below": found.threshold if found else None,
        "precision_asked": found.asked if found else None,
        **_ends("answered", test.coverage if test else None),
        **_ends("answered_rightly", test.precision if test else None),
        "answers": test.precision.n if test and test.precision else None,
        "answers_verdict": answers_verdict(found) if found else None,
        "no_threshold": found.note if found else None,
    }


def answers_verdict(one: Decision) -> str:
    """``none`` without a threshold, ``below`` where the test answers are surely worse than asked, else ``holds``."""
    if one.threshold is None:
        return "none"
    precision = one.test.precision if one.test else None
    return "below" if precision and precision.high < one.asked else "holds"


def confidence_verdict(one: Reliability) -> str:
    """``over`` or ``under`` where the interval of mean confidence minus accuracy lies on that side, else ``fits``."""
    return "over" if one.gap.low > 0 else "under" if one.gap.high < 0 else "fits"


def _cost(one: Measurement) -> Row:
    cost = one.cost
    return {
        "params_total": cost.params_total,
        "params_nonzero": cost.params_nonzero,
        "params_zero": cost.params_zero,
        "macs": cost.macs,
        "flops": cost.flops,
        "file_bytes": cost.file_bytes,
        "peak_rss_bytes": one.memory.peak_rss_bytes if one.memory else None,
        "baseline_rss_bytes": one.memory.baseline_rss_bytes if one.memory else None,
    }


def _latency(one: Measurement) -> Row:
    latency = one.latency
    model, e2e = (latency.model, latency.e2e) if latency else (None, None)
    return {
        **_ends("latency_p50_ms", model.p50_ms if model else None),
        "latency_p90_ms": model.p90_ms if model else None,
        "latency_p99_ms": model.p99_ms if model else None,
        "latency_mean_ms": model.mean_ms if model else None,
        "latency_sd_ms": model.sd_ms if model else None,
        "latency_min_ms": model.min_ms if model else None,
        "latency_runs": model.n if model else None,
        **_ends("latency_ratio", latency.ratio if latency else None),
        "latency_reference": latency.reference if latency else None,
        "latency_aa_spread": latency.aa_spread if latency else None,
        "pace": pace(latency),
        **_ends("e2e_p50_ms", e2e.p50_ms if e2e else None),
        "e2e_p90_ms": e2e.p90_ms if e2e else None,
        "load_ms": latency.load_ms if latency else None,
        "first_ms": latency.first_ms if latency else None,
        "protocol": latency.protocol if latency else None,
        "threads": latency.threads if latency else None,
        "comparable": latency.comparable if latency else None,
        "valid": latency.valid if latency else None,
        "invalid_reasons": "; ".join(latency.invalid_reasons) if latency else None,
    }


def _ends(key: str, estimate: Estimate | None) -> Row:
    return {
        key: estimate.value if estimate else None,
        f"{key}_low": estimate.low if estimate else None,
        f"{key}_high": estimate.high if estimate else None,
    }


def _mark_pareto(rows: list[Row], ratios: list[Estimate | None]) -> None:
    timed = [(row, ratio.value) for row, ratio in zip(rows, ratios, strict=True) if ratio]
    front = pareto_front([(-row["macro_f1"], ratio, row["file_bytes"]) for row, ratio in timed])
    for (row, _), optimal in zip(timed, front, strict=True):
        row["pareto"] = optimal


def _fingerprint(result: RunResult) -> str | None:
    found = result.machine.get("fingerprint")
    return None if found is None else str(found)


def interval(row: Row, key: str) -> tuple[Any, Any, Any]:
    """A figure of a row with the ends of its interval."""
    return row[key], row[f"{key}_low"], row[f"{key}_high"]
