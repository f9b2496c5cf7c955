"""What the plots of the page show, as plain data for ``report.js``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgewise.judge import paired_ratio
from edgewise.report.rows import METRICS, Row, family, interval, ordered, pareto_front, rows_of
from edgewise.report.words import show_ms, show_ratio, show_scaled, show_share
from edgewise.results import Measurement, Quality, RunResult

_COSTS = ("latency_ratio", "file_bytes", "macs")


def plot_data(result: RunResult, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that ``report.js`` draws: points, Pareto fronts, recall, confusion, training curves."""
    rows = rows_of([result])
    shown = [one for one, _ in ordered(result.measurements)]
    variants = [one.variant for one in shown if one.role != "control"]
    families = list(dict.fromkeys(family(one.variant, variants) for one in shown))
    points = [
        {
            **{key: row[key] for key in ("name", "role", "is_base", "precision", "chosen")},
            "family": families.index(family(one.variant, variants)),
            "values": _values(one, row),
            "hover": _hover(row),
            "recall": [_recall(one.test, label) for label in result.classes],
            "confusion": one.test.confusion,
        }
        for one, row in zip(shown, rows, strict=True)
    ]
    return {
        "points": points,
        "families": families,
        "metrics": METRICS,
        "metric": result.goal.get("metric", "macro_f1"),
        "fronts": {metric: {cost: _front(points, metric, cost) for cost in _COSTS} for metric in METRICS},
        "classes": result.classes,
        "curves": [
            {
                "name": name,
                "family": families.index(home) if (home := family(name, variants)) in families else len(families),
                "control": name not in variants,
                **curve,
            }
            for name, curve in _curves(history).items()
        ],
    }


def _values(one: Measurement, row: Row) -> dict[str, dict[str, float] | None]:
    """The figures to plot; None where one is not known or (a latency) does not compare."""
    ratio = paired_ratio(one)
    return {
        **{metric: _bar(*interval(row, metric)) for metric in METRICS},
        "latency_ratio": _bar(ratio.value, ratio.low, ratio.high) if ratio else None,
        **{key: _bar(row[key], row[key], row[key]) for key in ("file_bytes", "macs")},
    }


def _bar(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def _front(points: Sequence[Mapping[str, Any]], metric: str, cost: str) -> list[int]:
    """The points that no other beats in this one plot, from the cheapest up."""
    drawn = [(index, point["values"]) for index, point in enumerate(points) if point["values"][cost]]
    optimal = pareto_front([(-values[metric]["value"], values[cost]["value"]) for _, values in drawn])
    kept = [index for (index, _), best in zip(drawn, optimal, strict=True) if best]
    return sorted(kept, key=lambda index: points[index]["values"][cost]["value"])


def _hover(row: Row) -> list[str]:
    void = "" if row["valid"] else " (not valid)"
    ratio = f"latency {show_ratio(*interval(row, 'latency_ratio'))} × base"
    lines = [
        f"macro F1 {show_share(*interval(row, 'macro_f1'))} %",
        f"accuracy {show_share(*interval(row, 'accuracy'))} %",
        ratio + ("" if row["comparable"] else " (does not compare)") if row["latency_ratio"] is not None else "",
        f"p50 {show_ms(*interval(row, 'latency_p50_ms'))} ms{void}" if row["latency_p50_ms"] is not None else "",
        f"e2e p50 {show_ms(row['e2e_p50_ms'])} ms{void}" if row["e2e_p50_ms"] is not None else "",
        f"size {show_scaled(row['file_bytes'], 'B')}",
        f"MACs {show_scaled(row['macs'])}",
        f"parameters {row['params_total']:,}",
        f"peak RSS {show_scaled(row['peak_rss_bytes'], 'B')}" if row["peak_rss_bytes"] is not None else "",
        f"plan: {row['plan']}" if row["plan"] else "",
    ]
    return [line for line in lines if line]


def _recall(quality: Quality, label: str) -> dict[str, float] | None:
    estimate = quality.recall.get(label)
    return dataclasses.asdict(estimate) if estimate else None


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """Per variant, epochs and figures; a variant that was trained in several phases runs on along the axis."""
    curves: dict[str, dict[str, list[float | None]]] = {}
    last: dict[str, tuple[int, int]] = {}
    for record in history:
        name, epoch = record.get("variant"), record.get("epoch")
        if not isinstance(name, str) or not isinstance(epoch, int):
            continue
        before, offset = last.get(name, (epoch - 1, 0))
        if epoch <= before:
            offset += before
        last[name] = (epoch, offset)
        curve = curves.setdefault(name, {key: [] for key in ("epoch", *_CURVES)})
        curve["epoch"].append(epoch + offset)
        for key in _CURVES:
            curve[key].append(_finite(record.get(key)))
    return curves


_CURVES = ("train_loss", "val_loss", "val_macro_f1")


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
