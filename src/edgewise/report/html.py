"""The report: one HTML page that holds everything it shows and fetches nothing.

The page is made from ``template.html``, ``report.css`` and ``report.js`` beside this file, the run's data as JSON and
plotly.js, which the plotly package ships. Jinja2 escapes every text in the markup; the JSON is escaped for its place
inside a script element; ``report.js`` neutralises the markup that plotly would read in labels.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.errors import UnavailableError
from edgewise.report.table import (
    METRICS,
    NONE,
    Row,
    clean,
    family,
    goal_shortfall,
    meets_goal,
    method_line,
    ordered,
    pareto_front,
    relative_only,
    rows_of,
    show_ms,
    show_ratio,
    show_scaled,
    show_share,
    write_file,
)
from edgewise.results import Quality, RunResult

_HERE = Path(__file__).parent
_PREFERENCES = {"latency": "lowest latency", "size": "smallest file", "macs": "fewest MACs"}
_COSTS = ("latency_p50_ms", "file_bytes", "macs")


def write_html(result: RunResult, path: Path, *, history: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write the report of one run as a single offline page, atomically.

    Args:
        result: the run.
        path: where the page goes, e.g. ``RUN/report.html``; about 5 MB, nearly all of it plotly.js.
        history: training records, in the order they were logged: ``variant``, ``epoch`` and any of ``train_loss``,
            ``val_loss``, ``val_macro_f1``. Records without a variant and an epoch are other events and are left out.

    Raises:
        UnavailableError: plotly or Jinja2 is missing, or the file cannot be written.
        UntrustedError: the run's `chosen` names none of its measurements.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs, get_plotlyjs_version
    except ImportError as problem:
        raise UnavailableError(
            "the HTML report needs plotly and Jinja2",
            code="E40",
            why=str(problem),
            fix='pip install "edgewise[host]"',
        ) from problem
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly = get_plotlyjs()
    page = environment.get_template("template.html").render(
        **_cleaned(_context(result)),
        data=_script_json(_cleaned(_plot_data(result, history))),
        css=(_HERE / "report.css").read_text(encoding="utf-8"),
        script=(_HERE / "report.js").read_text(encoding="utf-8"),
        plotly=plotly,
        plotly_version=get_plotlyjs_version(),
        plotly_size=show_scaled(len(plotly.encode()), "B"),
    )
    write_file(path, page)


def _cleaned(value: Any) -> Any:
    """Plain data with `clean` applied to every text in it, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value


def _script_json(value: Any) -> str:
    """JSON that can stand inside a script element: no ``<``, ``>``, ``&`` or line separators in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


# ---------------------------------------------------------------------------------------------------------------
# What the markup shows.


def _context(result: RunResult) -> dict[str, Any]:
    rows = rows_of([result])
    status, sentence = headline(result)
    return {
        "title": result.name,
        "created": result.created,
        "status": status,
        "headline": sentence,
        "goal": goal_words(result.goal),
        "stamp": relative_only(result),
        "tiles": _tiles(rows),
        "warnings": result.warnings,
        "failures": [dataclasses.asdict(failure) for failure in result.failures],
        "columns": [{"title": title, "about": about, "first": first} for title, about, first in _COLUMNS],
        "groups": _groups(rows),
        "invalid": [row for row in rows if row["valid"] is False],
        "rows": rows,
        "candidates": _candidates(result),
        "parities": [_parity(row) for row in rows],
        "method": method_line(result),
        "command": result.command,
        "facts": [
            ("Machine", _facts(result.machine)),
            ("Data", _facts({"classes": len(result.classes), **result.data})),
            ("Goal", _facts(result.goal)),
            ("Software", _facts(result.versions)),
            ("Seed and time", [("seed", str(result.seed)), *_seconds(result.seconds)]),
        ],
    }


def headline(result: RunResult) -> tuple[str, str]:
    """The outcome in one sentence, with its status.

    Returns:
        ("met", ...) when a compressed model was chosen and meets the goal, ("kept", ...) when the base itself is the
        cheapest that does, ("missed", ...) when nothing met the goal or was measured, or the chosen model misses it.
    """
    rows = rows_of([result])
    chosen = next((one for one in result.measurements if one.name == result.chosen), None)
    if not rows:
        return "missed", "Nothing was measured in this run."
    if chosen is None:
        return "missed", _missed_words(result)
    row = next(row for row in rows if row["chosen"])
    if meets_goal(result, chosen) is False:
        return "missed", f"{row['name']} was chosen, but it misses the goal on the validation images."
    if row["is_base"]:
        return "kept", "The base model stays: nothing cheaper met the goal."
    metric = result.goal.get("metric", "macro_f1")
    base = next((row for row in rows if row["is_base"]), None)
    quality = f"{_percent(row, metric)} {METRICS[metric]}"
    if base is None:
        return "met", f"{row['name']} has {quality}; there is no base to compare it with."
    verb = "keeps" if row[metric] < base[metric] else "reaches"
    size = show_ratio(row["file_bytes"] / base["file_bytes"])
    return "met", (
        f"{row['name']} {verb} {quality} (base {show_share(base[metric])} %) "
        f"{_latency_words(row)} and {size}x the size."
    )


def _percent(row: Row, key: str) -> str:
    value, low, high = (row[f"{key}{end}"] for end in ("", "_low", "_high"))
    return show_share(value, low, high).replace(" ±", " % ± ")


def _latency_words(row: Row) -> str:
    """A latency claim that the measurement bears out (see `pace`), to follow "keeps 97.8 % macro F1"."""
    if row["valid"] is False:
        return "with no valid latency"
    if row["latency_ratio"] is None or row["pace"] is None:
        return "with a latency that was not compared with the base,"
    ratio = show_ratio(row["latency_ratio"])
    if row["pace"] == "same":
        return f"at a latency not measurably different ({ratio}x)"
    return f"at {ratio}x the latency" + (", slower than base," if row["pace"] == "slower" else "")


def _missed_words(result: RunResult) -> str:
    words = "Nothing met the goal."
    short = [
        (shortfall, one)
        for one in result.measurements
        if one.role != "control" and (shortfall := goal_shortfall(result, one)) is not None and shortfall > 0
    ]
    if not short:
        return words
    shortfall, nearest = min(short, key=lambda pair: pair[0])
    return f"{words} {nearest.name} came closest and misses it by {100 * shortfall:.1f} points on validation images."


def goal_words(goal: Mapping[str, Any]) -> str:
    """A goal in words: ``validation macro F1 at most 2.0 points below base, then the lowest latency``."""
    limits = []
    if goal.get("max_drop") is not None:
        limits.append(f"at most {100 * goal['max_drop']:.1f} points below base")
    if goal.get("min") is not None:
        limits.append(f"at least {100 * goal['min']:.1f} %")
    metric = METRICS[goal.get("metric", "macro_f1")]
    prefer = _PREFERENCES[goal.get("prefer", "latency")]
    return f"validation {metric} {' and '.join(limits)}, then the {prefer}" if limits else f"the {prefer}"


def _tiles(rows: list[Row]) -> list[dict[str, str]]:
    """The chosen model's key figures beside those of the base."""
    base = next((row for row in rows if row["is_base"]), None)
    chosen = next((row for row in rows if row["chosen"]), None)
    if base is None or chosen is None or chosen is base:
        return []
    tiles = []
    for label, key, show in (("Macro F1", "macro_f1", show_share), ("Accuracy", "accuracy", show_share)):
        difference = show_share(*_spread(chosen, f"difference_{key}"), sign=True)
        tiles.append(
            {
                "label": label,
                "value": f"{show(chosen[key])} %",
                "base": f"base {show(base[key])} %",
                "change": f"{difference} points" if difference != NONE else "",
            }
        )
    ratio = show_ratio(*_spread(chosen, "latency_ratio"))
    tiles.append(
        {
            "label": "Latency p50",
            "value": f"{show_ms(chosen['latency_p50_ms'])} ms" if chosen["valid"] else "not valid",
            "base": f"base {show_ms(base['latency_p50_ms'])} ms",
            "change": f"{ratio} × base" if chosen["valid"] and ratio != NONE else "",
        }
    )
    for label, key, unit in (
        ("File size", "file_bytes", "B"),
        ("MACs", "macs", ""),
        ("Parameters", "params_total", ""),
    ):
        tiles.append(
            {
                "label": label,
                "value": show_scaled(chosen[key], unit),
                "base": f"base {show_scaled(base[key], unit)}",
                "change": f"{show_ratio(chosen[key] / base[key])} × base" if base[key] else "",
            }
        )
    return tiles


# ---------------------------------------------------------------------------------------------------------------
# The comparison table.

_COLUMNS = (
    ("Model", "name of the bundle, its precision and int8 scheme, and the plan that made it", "ascending"),
    ("Macro F1 %", "mean of the classes' F1 on the test images, with its 95 % interval", "descending"),
    ("vs base", "paired difference of macro F1 to the base on the same images, in points", "descending"),
    ("p50 ms", "median time of one inference, batch 1, pixels ready in memory", "ascending"),
    ("× base", "paired latency ratio to the base, measured in alternating blocks; below 1 is faster", "ascending"),
    ("e2e ms", "median time from decoded image to label: resize, run, softmax", "ascending"),
    ("Size", "bytes of the model file; 1 kB is 1,000 bytes", "ascending"),
    ("MACs", "multiply-adds of convolutions and linear layers for one image", "ascending"),
    ("Parameters", "all parameters, zero ones included", "ascending"),
    ("Accuracy %", "share of the test images that are classified rightly", "descending"),
    ("vs base", "paired difference of accuracy to the base on the same images, in points", "descending"),
    ("Load ms", "cold start: from a new process to a session that is ready", "ascending"),
    ("Peak RSS", "peak resident memory of a fresh process that classifies", "ascending"),
)


def _groups(rows: list[Row]) -> list[list[dict[str, Any]]]:
    """Table rows in the units that sorting moves: a measurement with its controls beneath it."""
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        shown = {"row": row, "cells": _cells(row)}
        if row["control_of"] is not None:
            groups[-1].append(shown)
        else:
            groups.append([shown])
    return groups


def _cells(row: Row) -> list[dict[str, Any]]:
    struck = row["valid"] is False
    why = f"latency not valid: {row['invalid_reasons'] or 'no reason given'}" if struck else ""
    images = f"{row['test_images']:,} test images"
    slower = "slower" if row["pace"] == "slower" else ""
    return [
        _interval_cell(row, "macro_f1", show_share, images),
        _interval_cell(row, "difference_macro_f1", show_share, images, sign=True),
        {**_interval_cell(row, "latency_p50_ms", show_ms, _runs(row)), "struck": struck, "why": why},
        {**_interval_cell(row, "latency_ratio", show_ratio, ""), "struck": struck, "why": why, "tag": slower},
        {**_interval_cell(row, "e2e_p50_ms", show_ms, ""), "struck": struck, "why": why},
        _cell(row["file_bytes"], show_scaled(row["file_bytes"], "B"), f"{row['file_bytes']:,} bytes"),
        _cell(row["macs"], show_scaled(row["macs"]), f"{row['macs']:,} MACs, {row['flops']:,} FLOPs"),
        _cell(
            row["params_total"],
            f"{row['params_total']:,}",
            f"{row['params_nonzero']:,} non-zero, {row['params_zero']:,} zero",
        ),
        _interval_cell(row, "accuracy", show_share, images),
        _interval_cell(row, "difference_accuracy", show_share, images, sign=True),
        _cell(row["load_ms"], show_ms(row["load_ms"])),
        _cell(row["peak_rss_bytes"], show_scaled(row["peak_rss_bytes"], "B"), _baseline(row)),
    ]


def _cell(value: float | None, text: str, title: str = "") -> dict[str, Any]:
    return {"sort": value, "text": text, "title": title, "struck": False, "why": "", "tag": ""}


def _interval_cell(row: Row, key: str, show: Any, samples: str, **options: Any) -> dict[str, Any]:
    value, low, high = _spread(row, key)
    if value is None:
        return _cell(None, NONE)
    title = f"95 % interval {show(low, **options)} to {show(high, **options)}" + (f", {samples}" if samples else "")
    return _cell(value, show(value, low, high, **options), title)


def _spread(row: Row, key: str) -> tuple[Any, Any, Any]:
    return row[key], row[f"{key}_low"], row[f"{key}_high"]


def _runs(row: Row) -> str:
    shown = [f"{row['latency_runs']:,} runs"] if row["latency_runs"] is not None else []
    for percentile in ("p90", "p99"):
        if row[f"latency_{percentile}_ms"] is not None:
            shown.append(f"{percentile} {show_ms(row[f'latency_{percentile}_ms'])} ms")
    return ", ".join(shown)


def _baseline(row: Row) -> str:
    if row["baseline_rss_bytes"] is None:
        return ""
    return f"{show_scaled(row['baseline_rss_bytes'], 'B')} of it is the runtime alone"


# ---------------------------------------------------------------------------------------------------------------
# The smaller tables.


def _candidates(result: RunResult) -> list[dict[str, Any]]:
    shown = []
    for one in result.candidates:
        verdict = "kept" if one.kept else "passed" if one.passed else "not passed"
        shown.append(
            {
                "variant": one.variant,
                "scheme": one.scheme,
                "macro_f1": show_share(one.macro_f1),
                "accuracy": show_share(one.accuracy),
                "drop": show_share(one.drop, sign=True),
                "ratio": show_ratio(one.ratio_to_fp32),
                "size": show_scaled(one.file_bytes, "B"),
                "delta": f"{one.max_abs_logit_delta:.3g}",
                "agreement": show_share(one.top1_agreement),
                "verdict": verdict,
                "note": one.note,
            }
        )
    return shown


def _parity(row: Row) -> dict[str, Any]:
    tolerance = row["parity_tolerance"]
    return {
        "name": row["name"],
        "n": f"{row['parity_n']:,}",
        "delta": f"{row['parity_max_abs_logit_delta']:.3g}",
        "tolerance": NONE if tolerance is None else f"{tolerance:.3g}",
        "agreement": show_share(row["parity_top1_agreement"]),
        "passed": row["parity_passed"],
    }


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.removesuffix("_bytes").replace("_", " "), _fact(key, value))
        for key, value in facts.items()
        if value not in ("", [], {})
    ]


def _fact(key: str, value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{show_scaled(value, 'B')} ({value:,} bytes)"
    if isinstance(value, Mapping):
        return ", ".join(f"{inner}: {_fact(str(inner), value[inner])}" for inner in value)
    if isinstance(value, list | tuple):
        return ", ".join(_fact("", inner) for inner in value)
    return str(value)


def _seconds(seconds: Mapping[str, float]) -> list[tuple[str, str]]:
    return [(stage, f"{value:,.1f} s") for stage, value in seconds.items()]


# ---------------------------------------------------------------------------------------------------------------
# What the plots show.


def _plot_data(result: RunResult, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    rows = rows_of([result])
    shown = [one for one, _ in ordered(result.measurements)]
    variants = [one.variant for one in shown if one.role != "control"]
    families = list(dict.fromkeys(family(one.variant, variants) for one in shown))
    points = [
        {
            **{key: row[key] for key in ("name", "role", "is_base", "precision", "chosen")},
            "family": families.index(family(one.variant, variants)),
            "values": {key: _point(row, key) for key in (*METRICS, *_COSTS)},
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
        "fronts": {metric: {cost: _front(rows, metric, cost) for cost in _COSTS} for metric in METRICS},
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


def _point(row: Row, key: str) -> dict[str, float] | None:
    """A figure to plot, None when it is not known or (a latency) not valid."""
    if row[key] is None or (key == "latency_p50_ms" and not row["valid"]):
        return None
    return {"value": row[key], "low": row.get(f"{key}_low", row[key]), "high": row.get(f"{key}_high", row[key])}


def _front(rows: list[Row], metric: str, cost: str) -> list[int]:
    """The rows that no other beats in this one plot, from the cheapest up."""
    drawn = [index for index, row in enumerate(rows) if _point(row, cost)]
    optimal = pareto_front([(-rows[index][metric], rows[index][cost]) for index in drawn])
    kept = [index for index, best in zip(drawn, optimal, strict=True) if best]
    return sorted(kept, key=lambda index: rows[index][cost])


def _hover(row: Row) -> list[str]:
    latency = f"{show_ms(*_spread(row, 'latency_p50_ms'))} ms"
    lines = [
        f"macro F1 {show_share(*_spread(row, 'macro_f1'))} %",
        f"accuracy {show_share(*_spread(row, 'accuracy'))} %",
        f"latency p50 {latency}" if row["valid"] else "latency not valid" if row["valid"] is False else "",
        f"{show_ratio(*_spread(row, 'latency_ratio'))} of base" if row["valid"] and row["latency_ratio"] else "",
        f"e2e p50 {show_ms(row['e2e_p50_ms'])} ms" if row["valid"] else "",
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
