"""The report of a run: one HTML page, made from ``template.html`` and ``report.js``; see `edgewise.report.page`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.report.answers import answers_of
from edgewise.report.cells import COLUMNS, groups_of
from edgewise.report.explained import calibrations_of, section_of
from edgewise.report.leakage import leakage_lines
from edgewise.report.method import invalid_words, method_line, relative_only
from edgewise.report.outcome import goal_words, headline, tiles_of
from edgewise.report.page import write_page, write_plain_page
from edgewise.report.plots import plot_data
from edgewise.report.rows import Row, rows_of
from edgewise.report.words import NONE, show_ratio, show_scaled, show_share
from edgewise.results import RunResult


def write_html(
    result: RunResult, path: Path, *, history: Sequence[Mapping[str, Any]] = (), explained: Path | None = None
) -> None:
    """Write the report of one run as a single offline page, atomically.

    Args:
        result: the run.
        path: where the page goes, e.g. ``RUN/report.html``; about 5 MB, nearly all of it plotly.js.
        history: training records, in the order they were logged: ``variant``, ``epoch`` and any of ``train_loss``,
            ``val_loss``, ``val_macro_f1``. Records without a variant and an epoch are other events and are left out.
        explained: a folder that `edgewise.train.explain` filled, shown as a section with at most 1.2 MB of pictures.

    Raises:
        UnavailableError: plotly or Jinja2 is missing, or the file cannot be written.
        UntrustedError: the run's `chosen` names none of its measurements, or the explanation is damaged.
    """
    context = {**_context(result), "explained": section_of(explained) if explained else None}
    write_page(path, "template.html", "report.js", context, plot_data(result, history))


def write_explanation_page(folder: Path) -> None:
    """Write ``explain.html`` into a folder that `edgewise.train.explain` filled: the report's section as a page alone.

    Raises:
        UnavailableError: Jinja2 is missing, or the file cannot be written.
        UntrustedError: the explanation is damaged.
    """
    write_plain_page(folder / "explain.html", "explained_page.html", {"explained": section_of(folder)})


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
        "leakage": leakage_lines(result),
        "tiles": tiles_of(rows),
        "warnings": result.warnings,
        "failures": [dataclasses.asdict(failure) for failure in result.failures],
        "columns": [{"title": title, "about": about, "first": first} for title, about, first in COLUMNS],
        "groups": groups_of(rows),
        "invalid": invalid_words(result),
        "reasons": [row for row in rows if row["valid"] is False or row["comparable"] is False],
        "rows": rows,
        "candidates": _candidates(result),
        "parities": [_parity(row) for row in rows],
        "calibrations": calibrations_of(rows),
        "answers": answers_of(rows),
        "method": method_line(result),
        "command": result.command,
        "facts": [
            ("Machine", _facts(result.machine)),
            ("Data", _facts({"classes": len(result.classes), **result.data})),
            *([("Base, trained by another run", _facts(result.source))] if result.source else []),
            ("Goal", _facts(result.goal)),
            ("Software", _facts(result.versions)),
            ("Seed and time", [("seed", str(result.seed)), *_seconds(result.seconds)]),
        ],
    }


def _candidates(result: RunResult) -> list[dict[str, Any]]:
    shown = []
    for one in result.candidates:
        verdict = "kept" if one.kept else "passed" if one.passed else "not passed"
        shown.append(
            {
                "variant": one.variant,
                "scheme": one.scheme if one.format == "onnx" else f"{one.format} {one.scheme}",
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
    """Facts to list; empty ones are left out, and one that stands there in bytes too."""
    return [
        (key.removesuffix("_bytes").replace("_", " "), _fact(key, value))
        for key, value in facts.items()
        if value not in ("", [], {}) and f"{key}_bytes" not in facts
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
