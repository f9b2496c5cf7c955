"""The comparison table of the page: its columns and the cells of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgewise.report.rows import Row, interval
from edgewise.report.words import NONE, show_ms, show_ratio, show_scaled, show_share

COLUMNS = (
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
"""Title, explanation and first direction of sorting of each column; the cells of `groups_of` follow the first one."""


def groups_of(rows: list[Row]) -> list[list[dict[str, Any]]]:
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
    images = f"{row['test_images']:,} test images"
    milliseconds, ratio = _strikes(row)
    slower = "slower" if row["pace"] == "slower" else ""
    paired = "A/A check: the base against itself" if row["latency_reference"] == row["name"] else ""
    return [
        _interval_cell(row, "macro_f1", show_share, images),
        _interval_cell(row, "difference_macro_f1", show_share, images, sign=True),
        {**_interval_cell(row, "latency_p50_ms", show_ms, _runs(row)), "why": milliseconds},
        {**_interval_cell(row, "latency_ratio", show_ratio, paired), "why": ratio, "tag": slower},
        {**_interval_cell(row, "e2e_p50_ms", show_ms, ""), "why": milliseconds},
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


def _strikes(row: Row) -> tuple[str, str]:
    """Why the milliseconds and why the ratio of a row are struck out; empty where they stand."""
    reasons = row["invalid_reasons"] or "no reason given"
    return (
        f"milliseconds not valid: {reasons}" if row["valid"] is False else "",
        f"the ratio does not compare: {reasons}" if row["comparable"] is False else "",
    )


def _cell(value: float | None, text: str, title: str = "") -> dict[str, Any]:
    """A cell; a reason put into `why` strikes it out."""
    return {"sort": value, "text": text, "title": title, "why": "", "tag": ""}


def _interval_cell(row: Row, key: str, show: Callable[..., str], samples: str, **options: Any) -> dict[str, Any]:
    value, low, high = interval(row, key)
    if value is None:
        return _cell(None, NONE)
    title = f"95 % interval {show(low, **options)} to {show(high, **options)}" + (f", {samples}" if samples else "")
    return _cell(value, show(value, low, high, **options), title)


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
