"""The status table of an export on a terminal: what became of every (format, precision)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgewise.report.words import NONE, clean, show_ratio, show_scaled, show_share
from edgewise.results import Attempt, ExportResult

if TYPE_CHECKING:
    from rich.console import Console

TITLES = (
    *("format", "precision", "state", "max diff", "same %", "val F1 %", "test F1 %"),
    *("answered %", "right %", "size", "time"),
)
_LEFT = 3


def status_rows(result: ExportResult, model: str) -> list[tuple[str, ...]]:
    """The cells of one model's rows, under `TITLES`."""
    return [_cells(row) for row in result.attempts if row.model == model]


def print_status(result: ExportResult, console: Console) -> None:
    """Print a table for each model, then the reasons, then how time was taken.

    Plain text: the columns are aligned by hand, so that a pipe gets the same table.
    """
    for model in dict.fromkeys(row.model for row in result.attempts):
        rows = [TITLES, *status_rows(result, model)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
        console.print(clean(model), markup=False, highlight=False)
        for row in rows:
            cells = [
                cell.ljust(width) if column < _LEFT else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            console.print("  " + "  ".join(cells).rstrip(), markup=False, highlight=False, soft_wrap=True)
        reasons: dict[tuple[str, str], list[str]] = {}
        for attempt in result.attempts:
            if attempt.model == model and attempt.reason:
                reasons.setdefault((attempt.format, attempt.reason), []).append(attempt.precision)
        for (format_, reason), precisions in reasons.items():
            line = f"  {format_} {', '.join(precisions)}: {clean(reason)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        reference = next((row.reference for row in result.attempts if row.model == model and row.reference), "")
        if reference:
            noise = show_share(result.noise[model])
            threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
            line = f"  time: median of one picture over that of {reference}, paired blocks, {threads}, noise {noise} %"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for warning in result.warnings:
        console.print(f"warning: {clean(warning)}", markup=False, highlight=False, soft_wrap=True)


def _cells(row: Attempt) -> tuple[str, ...]:
    precision = f"{row.precision} {row.scheme}".strip()
    ratio = NONE if row.ratio is None else show_ratio(row.ratio.value, row.ratio.low, row.ratio.high)
    if row.bundle and row.bundle == row.reference:
        ratio = "1"  # its record holds the A/A ratio, which the noise tells
    checked = row.parity
    given = row.decision.test if row.decision else None
    return (
        row.format,
        precision,
        "kept" if row.kept else "passed" if row.state == "written" else row.state,
        f"{checked.max_abs_logit_delta:.2g}" if checked else NONE,
        show_share(checked.top1_agreement) if checked else NONE,
        show_share(row.validation.macro_f1.value) if row.validation else NONE,
        show_share(row.test.macro_f1.value) if row.test else NONE,
        show_share(given.coverage.value) if given else NONE,
        show_share(given.precision.value) if given and given.precision else NONE,
        show_scaled(row.file_bytes, "B"),
        ratio,
    )
