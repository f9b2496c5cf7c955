"""The comparison as CSV and as JSON, and how a file of this room is written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.errors import UnavailableError
from edgewise.report.rows import comparison
from edgewise.results import RunResult


def write_json(results: Sequence[RunResult], path: Path) -> None:
    """Write the rows of `comparison` as a JSON list, atomically.

    Raises:
        UnavailableError: the file cannot be written.
    """
    write_file(path, json.dumps(comparison(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(results: Sequence[RunResult], path: Path) -> None:
    """Write the rows of `comparison` as CSV (RFC 4180 quoting, UTF-8, LF), atomically.

    A text that a spreadsheet would take for a formula (it starts with = + - @, a tab or a carriage return) gets a
    leading apostrophe; numbers, negative ones too, stay numbers. None is an empty cell, booleans are true and false.

    Raises:
        UnavailableError: the file cannot be written.
    """
    write_rows(comparison(results), path)


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows that all have the keys of the first as CSV; see `write_csv`.

    Raises:
        UnavailableError: the file cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows([csv_cell(value) for value in row.values()] for row in rows)
    write_file(path, stream.getvalue())


def csv_cell(value: Any) -> Any:
    """A value for a CSV cell that no spreadsheet takes for a formula; see `write_csv`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def write_file(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        UnavailableError: the folder is missing or read-only, the disk is full, or the path is a folder.
    """
    try:
        runs.write_text(path, text)
    except OSError as problem:
        raise UnavailableError(
            "cannot write this file",
            code="E41",
            where={"file": path},
            why=problem.strerror or str(problem),
            fix="choose a folder that can be written and has free space",
        ) from problem
