"""The comparison on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgewise.report.answers import answer_lines
from edgewise.report.leakage import leakage_lines
from edgewise.report.method import invalid_words, method_line, relative_only
from edgewise.report.rows import Row, incomparable, rows_of, run_labels
from edgewise.report.words import clean, show_ms, show_ratio, show_scaled, show_share
from edgewise.results import RunResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


@dataclass(frozen=True)
class _Column:
    """A column of the terminal table. `keep` orders the dropping: the lowest goes first, 9 never goes."""

    title: str
    cell: Callable[[Row], str]
    keep: int


def _spread_cell(show: Callable[..., str], key: str, **options: Any) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        shown: str = show(row[key], row[f"{key}_low"], row[f"{key}_high"], **options)
        return shown

    return cell


def _name_cell(row: Row) -> str:
    name: str = row["name"].removeprefix(f"{row['run']}/").replace("\n", " ")  # the run stands above its rows
    return ("★ " if row["chosen"] else "") + ("└ " + name if row["role"] == "control" else name)


def _ratio_cell(row: Row) -> str:
    shown = show_ratio(row["latency_ratio"], row["latency_ratio_low"], row["latency_ratio_high"])
    return shown + (" ▲" if row["pace"] == "slower" else "") + (" ✗" if _ratio_is_void(row) else "")


def _ratio_is_void(row: Row) -> bool:
    return row["latency_ratio"] is not None and not row["comparable"]


def _ms_cell(key: str, ends: tuple[str, ...] = ()) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return show_ms(row[key], *(row[f"{key}{end}"] for end in ends)) + (" ✗" if row["valid"] is False else "")

    return cell


_NAME, _P50, _RATIO, _E2E = "model", "p50 ms", "x base", "e2e ms"
_COLUMNS = (
    _Column(_NAME, _name_cell, 9),
    _Column("macro F1 %", _spread_cell(show_share, "macro_f1"), 9),
    _Column("vs base", _spread_cell(show_share, "difference_macro_f1", sign=True), 5),
    _Column("acc. %", _spread_cell(show_share, "accuracy"), 2),
    _Column(_P50, _ms_cell("latency_p50_ms", ("_low", "_high")), 9),
    _Column(_RATIO, _ratio_cell, 9),
    _Column(_E2E, _ms_cell("e2e_p50_ms"), 4),
    _Column("size", lambda row: show_scaled(row["file_bytes"], "B"), 9),
    _Column("MACs", lambda row: show_scaled(row["macs"]), 3),
    _Column("params", lambda row: f"{row['params_total']:,}", 1),
)

_ASCII = str.maketrans({"★": "*", "±": "~", "✗": "!", "▲": "^", "└": "`", "−": "-", "–": "-", "·": "|"})


def print_table(results: Sequence[RunResult], console: Console) -> None:
    """Print the comparison, then failures, warnings and how it was measured.

    When the console is too narrow, columns are left out in this order until it fits: parameters, accuracy, MACs, e2e
    latency, difference to base. What was left out is named. Style is never the only sign of anything.

    Raises:
        UntrustedError: a run's `chosen` names none of its measurements.
    """
    rows = rows_of(results)
    for result, label in zip(results, run_labels(results), strict=True):
        for line in leakage_lines(result):
            _print(console, f"{clean(label)}: {line}" if len(results) > 1 else line, "bold yellow")
    if rows:
        dropped = _print_rows(rows, results, console)
        _print_legend(rows, dropped, console)
        for line in answer_lines(rows):
            _print(console, line, "dim" if line.startswith(" ") else "")
    for result, label in zip(results, run_labels(results), strict=True):
        _print_facts(result, f"{clean(label)}: " if len(results) > 1 else "", console)
    for message in incomparable(results):
        _print(console, f"warning: {message}", "yellow")


def _print_rows(rows: list[Row], results: Sequence[RunResult], console: Console) -> list[str]:
    """Print the table; the titles of the columns that did not fit are returned."""
    columns = list(_COLUMNS)
    wide = console.options.update(max_width=10_000)
    while True:
        table = _table(rows, columns, len(results) > 1, console)
        weakest = min(columns, key=lambda column: column.keep)
        if console.measure(table, options=wide).maximum <= console.width or weakest.keep == 9:
            break
        columns.remove(weakest)
    console.print(table)
    return [column.title for column in _COLUMNS if column not in columns]


def _table(rows: list[Row], columns: list[_Column], titled: bool, console: Console) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            _text(console, column.title),
            justify="left" if column.title == _NAME else "right",
            no_wrap=True,
            overflow="ellipsis",
        )
    run = None
    for row in rows:
        if titled and row["run"] != run:
            if run is not None:
                table.add_section()
            table.add_row(_text(console, row["run"].replace("\n", " "), "bold"))
            run = row["run"]
        table.add_row(*(_text(console, column.cell(row), _style(row, column.title)) for column in columns))
    return table


def _style(row: Row, title: str) -> str:
    if (row["valid"] is False and title in (_P50, _E2E)) or (_ratio_is_void(row) and title == _RATIO):
        return "strike dim"
    if row["pace"] == "slower" and title == _RATIO:
        return "red"
    if row["chosen"]:
        return "bold green" if row["meets_goal"] is not False else "bold yellow"
    if row["role"] == "control":
        return "dim"
    return "bold" if row["is_base"] and title == _NAME else ""


def _print_legend(rows: list[Row], dropped: list[str], console: Console) -> None:
    signs = [
        ("★ chosen", any(row["chosen"] for row in rows)),
        ("└ control, trained from scratch", any(row["role"] == "control" for row in rows)),
        ("▲ slower than base", any(row["pace"] == "slower" for row in rows)),
        ("✗ not valid", any(row["valid"] is False or _ratio_is_void(row) for row in rows)),
        ("± 95 % interval", True),
    ]
    _print(console, " · ".join(sign for sign, shown in signs if shown), "dim")
    if dropped:
        _print(console, f"left out at this width: {', '.join(dropped)}", "dim")
    for row in rows:
        if not row["parity_passed"]:
            _print(
                console, f"warning: {row['name']} did not pass parity: its file is not as good as its model", "yellow"
            )
        if row["chosen"] and row["meets_goal"] is False:
            _print(console, f"warning: {row['name']} was chosen but misses the goal on validation images", "yellow")


def _print_facts(result: RunResult, prefix: str, console: Console) -> None:
    for line in invalid_words(result):
        _print(console, f"{prefix}✗ {line}", "yellow")
    if result.measurements and result.chosen is None:
        _print(console, f"{prefix}no model met the goal", "yellow")
    for failure in result.failures:
        _print(console, f"{prefix}failed: {failure.name} ({failure.stage}): {failure.reason}", "red")
    for warning in result.warnings:
        _print(console, f"{prefix}warning: {warning}", "yellow")
    stamp = relative_only(result)
    if stamp:
        _print(console, f"{prefix}relative only ({stamp}): compare the ratios, not the milliseconds", "yellow")
    _print(console, f"{prefix}measured: {method_line(result)}", "dim")


def _print(console: Console, text: str, style: str) -> None:
    console.print(_text(console, text, style))


def _text(console: Console, text: str, style: str = "") -> Text:
    """Plain text for the console: nothing in it is markup, and the signs are ASCII where the console is."""
    from rich.text import Text

    shown = Text(clean(text).translate(_ASCII) if console.options.ascii_only else clean(text))
    shown.stylize(style)  # a style of the whole would strike the blanks that align it, too
    return shown
