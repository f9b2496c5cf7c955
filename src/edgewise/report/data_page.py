"""What `edgewise data check` found, shown: a terminal table, CSV, and one offline page with contact sheets.

The facts come as plain data (`edgewise.data.check.DataReport.as_dict`), the pictures as small JPEGs inside the page.
The page runs no script and fetches nothing; Jinja2 escapes every text.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.report.files import csv_cell, write_file
from edgewise.report.page import write_plain_page
from edgewise.report.words import clean, show_share

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = (
    *("name", "label", "part", "sha256", "problem", "format", "mode", "width", "height"),
    *("sharpness", "luminance", "cluster", "flags"),
)
"""Columns of the CSV, one row an image; docs/data.md defines them."""


@dataclass(frozen=True)
class Tile:
    """A picture of a contact sheet: JPEG bytes (b"" where there is none), what stands below it, and a remark."""

    jpeg: bytes
    caption: str
    remark: str = ""


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: `groups` are shown apart from each other, `more` counts what is not shown."""

    title: str
    about: str
    groups: Sequence[Sequence[Tile]]
    more: int = 0


def write_data_page(facts: Mapping[str, Any], sheets: Sequence[Sheet], place: str, path: Path) -> None:
    """Write the page, atomically.

    Args:
        facts: of `DataReport.facts`.
        sheets: contact sheets, in the order they are shown.
        place: where the data is.
        path: where the page goes.

    Raises:
        UnavailableError: Jinja2 is missing, or the file cannot be written.
    """
    context = {
        "title": place,
        "problems": problem_lines(facts),
        "classes": _class_rows(facts),
        "tables": [(title, rows) for title, rows in _tables(facts) if rows],
        "warnings": [str(warning) for warning in facts["warnings"]],
        "sheets": [_shown(sheet) for sheet in sheets],
    }
    write_plain_page(path, "data_page.html", context)


def write_data_csv(images: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write one row an image (see `COLUMNS`), atomically; a text that a spreadsheet would take for a formula gets a
    leading apostrophe.

    Raises:
        UnavailableError: the file cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image in images:
        row = {**image, "flags": "; ".join(image["flags"])}
        writer.writerow([csv_cell(row[key]) for key in COLUMNS])
    write_file(path, stream.getvalue())


def print_data(facts: Mapping[str, Any], console: Console) -> None:
    """Print problems, then the images per class and split, then sizes and warnings."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    def say(text: str, style: str = "") -> None:
        console.print(Text(clean(text), style))

    for line in problem_lines(facts):
        say(line, "bold yellow")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for number, title in enumerate(_CLASS_TITLES):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for cells in _class_rows(facts):
        table.add_row(*(Text(cell.replace("\n", " ")) for cell in cells))
    console.print(table)
    for title, rows in _tables(facts):
        if rows:
            say(f"{title}: " + ", ".join(f"{key} ({value})" for key, value in rows))
    for warning in facts["warnings"]:
        say(f"warning: {warning}", "yellow")


def problem_lines(facts: Mapping[str, Any]) -> list[str]:
    """What is wrong with the data, worst first, in sentences; one line says so when nothing is."""
    flags, limits = facts["flags"], facts["limits"]
    lines = []
    if facts["would_stop"]:
        stop = facts["would_stop"]
        lines.append(f"A run would stop: {stop['what']} ({stop['error']}). {stop['why']}".strip())
    for part, word in (("test", "test"), ("val", "validation")):
        leak = facts["leakage"][part]
        if leak["copies"]:
            lines.append(
                f"Leakage: {leak['copies']:,} of {leak['images']:,} {word} images ({show_share(leak['share'])} %) are "
                "copies of training images."
            )
    counted = (
        ("conflict", "stand in several classes (identical images); a run leaves them out."),
        ("near conflict", "look like an image of another class."),
        ("bad", f"cannot be used ({flags['truncated']:,} of them cut short)."),
        ("blurry", f"are blurry: sharpness below {limits['blurry']:g} of the median {facts['median_sharpness']:,.0f}."),
        ("dark", f"are dark: mean luminance below {limits['dark']:g} of 255."),
        ("exact copy", "are identical to another."),
        ("near copy", "look like another."),
    )
    lines += [f"{flags[flag]:,} of {facts['images']:,} files {words}" for flag, words in counted if flags[flag]]
    if facts["too_small"]:
        small = ", ".join(f"{name} ({facts['per_class'][name]['images']})" for name in facts["too_small"])
        lines.append(f"Classes of fewer than {limits['small_class']} images: {small}.")
    if facts["imbalance"] >= 3:
        lines.append(f"The largest class has {facts['imbalance']:.1f} times the images of the smallest.")
    return lines or [f"No problem found in {facts['images']:,} images of {facts['classes']} classes."]


_CLASS_TITLES = ("Class", "Images", "Train", "Val", "Test")


def _class_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    rows = [[clean(name), *(f"{count:,}" for count in counts.values())] for name, counts in facts["per_class"].items()]
    totals = [sum(counts[key] for counts in facts["per_class"].values()) for key in ("images", "train", "val", "test")]
    return [*rows, ["all", *(f"{total:,}" for total in totals)]]


def _tables(facts: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    more = facts["different_sizes"] - len(facts["sizes"])
    sizes = [(size, f"{count:,}") for size, count in facts["sizes"].items()]
    return [
        ("Sizes", sizes + ([("other sizes", f"{more:,}")] if more > 0 else [])),
        ("Modes", [(clean(mode), f"{count:,}") for mode, count in facts["modes"].items()]),
        ("Formats", [(clean(kind), f"{count:,}") for kind, count in facts["formats"].items()]),
    ]


def _shown(sheet: Sheet) -> dict[str, Any]:
    groups = [
        [
            {
                "source": "data:image/jpeg;base64," + base64.b64encode(tile.jpeg).decode() if tile.jpeg else "",
                "caption": clean(tile.caption),
                "remark": clean(tile.remark),
            }
            for tile in group
        ]
        for group in sheet.groups
    ]
    return {"title": clean(sheet.title), "about": clean(sheet.about), "groups": groups, "more": sheet.more}
