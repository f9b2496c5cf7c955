"""The outcome of a run: one sentence, its goal in words, and the chosen model's figures beside those of the base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgewise.report.rows import METRICS, Row, goal_shortfall, interval, meets_goal, rows_of
from edgewise.report.words import NONE, show_ms, show_ratio, show_scaled, show_share
from edgewise.results import RunResult

_PREFERENCES = {"latency": "lowest latency", "size": "smallest file", "macs": "fewest MACs"}


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
    if row["comparable"] is False:
        return "with a latency that does not compare (the A/A check did not hold),"
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


def tiles_of(rows: list[Row]) -> list[dict[str, str]]:
    """The chosen model's key figures beside those of the base."""
    base = next((row for row in rows if row["is_base"]), None)
    chosen = next((row for row in rows if row["chosen"]), None)
    if base is None or chosen is None or chosen is base:
        return []
    tiles = []
    for label, key, show in (("Macro F1", "macro_f1", show_share), ("Accuracy", "accuracy", show_share)):
        difference = show_share(*interval(chosen, f"difference_{key}"), sign=True)
        tiles.append(
            {
                "label": label,
                "value": f"{show(chosen[key])} %",
                "base": f"base {show(base[key])} %",
                "change": f"{difference} points" if difference != NONE else "",
            }
        )
    tiles.append(_latency_tile(chosen, base))
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


def _latency_tile(chosen: Row, base: Row) -> dict[str, str]:
    """Milliseconds where they are valid, else the paired ratio where that compares, else that there is neither."""
    ratio = show_ratio(*interval(chosen, "latency_ratio")) if chosen["comparable"] else NONE
    own, others = (f"{show_ms(row['latency_p50_ms'])} ms" if row["valid"] else "" for row in (chosen, base))
    tile = {"label": "Latency p50", "base": f"base {others}" if others else "base ms not valid"}
    if own:
        return {**tile, "value": own, "change": f"{ratio} × base" if ratio != NONE else ""}
    if ratio == NONE:
        return {**tile, "value": "not valid", "change": ""}
    figure, _, half = ratio.partition(" ")
    return {"label": "Latency", "value": f"{figure} ×", "change": f"{half} × base", "base": "milliseconds not valid"}
