"""Manifests: a CSV or JSON-lines file that names the images and their labels, beside the images."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgewise.data.scan import SYNONYMS, BadFile, Entry, Part, Scan, listed
from edgewise.data.walk import NOWHERE, OUTSIDE, inside, shown
from edgewise.errors import DataError, nearest

REQUIRED = ("file_name", "label")
OPTIONAL = ("split", "group")
SUFFIXES = (".csv", ".jsonl", ".ndjson")

Row = tuple[int, Mapping[str, Any]]


def scan_manifest(path: Path) -> Scan:
    """Read the labelled files of a manifest. Paths are relative to its folder and must stay inside it.

    Raises:
        DataError: D11 it cannot be read, or columns or values are missing; D12 a path leaves the folder;
            D13 a value of the column `split` is unknown or missing.
    """
    rows, columns = _read(path)
    for name in REQUIRED:
        if name not in columns:
            raise _wrong(path, f'no column "{name}"', f"columns: {listed(columns)}; {nearest(name, columns)}")
    if not rows:
        raise _wrong(path, "the manifest has no rows", "only the column names were found")
    warnings = []
    unknown = [name for name in columns if name not in REQUIRED + OPTIONAL]
    if unknown:
        warnings.append(f"columns of the manifest that are not used: {listed(map(shown, unknown))}")
    root = os.path.realpath(path.parent)
    _check_places(path, root, rows)
    parts = _parts(path, rows)
    entries: dict[tuple[str, str], Entry] = {}
    bad: dict[str, BadFile] = {}
    for (line, row), part in zip(rows, parts, strict=True):
        place, label = _place(root, str(row["file_name"])), _text(row, "label")
        if not label:
            raise _wrong(path, "a row without a label", f"line {line}: {shown(str(row['file_name']))}")
        name = shown(os.path.relpath(place, root))
        problem = _link_problem(place, root)
        if problem:
            bad[name] = BadFile(name, problem)
        else:
            group = _text(row, "group") or None
            entries[name, label] = Entry(name, Path(place), shown(label), part, group and shown(group))
    repeated = len(rows) - len(entries) - len(bad)
    if repeated:
        warnings.append(f"{repeated} row(s) name a file that stands in the manifest already; they count once")
    return Scan("manifest", tuple(entries[key] for key in sorted(entries)), tuple(bad.values()), 0, tuple(warnings))


def _read(path: Path) -> tuple[list[Row], list[str]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return _read_csv(text) if path.suffix.lower() == ".csv" else _read_lines(text)
    except OSError as problem:
        raise _wrong(path, "the manifest cannot be opened", problem.strerror or str(problem), code="D01") from problem
    except (csv.Error, ValueError, RecursionError) as problem:
        raise _wrong(path, "the manifest cannot be read", str(problem)) from problem


def _read_csv(text: str) -> tuple[list[Row], list[str]]:
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns = [name.strip() for name in reader.fieldnames or []]
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column name stands twice: {listed(columns)}")
    reader.fieldnames = columns
    rows: list[Row] = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} does not have {len(columns)} cells")
        rows.append((reader.line_num, row))
    return rows, columns


def _read_lines(text: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    # Not splitlines(): that would also cut at U+2028, which JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as problem:
            raise ValueError(f"line {number} is not JSON: {problem}") from problem
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        columns.update(dict.fromkeys(row))
        missing = [name for name in REQUIRED if name not in row]
        if missing and set(REQUIRED) <= set(columns):
            raise ValueError(f'line {number} has no "{missing[0]}"')
        rows.append((number, row))
    absent = [(number, name) for number, row in rows for name in REQUIRED if name in columns and name not in row]
    if absent:
        raise ValueError(f'line {absent[0][0]} has no "{absent[0][1]}"')
    return rows, list(columns)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value).strip()


def _parts(path: Path, rows: list[Row]) -> list[Part | None]:
    values = [_text(row, "split") for _, row in rows]
    if not any(values):
        return [None] * len(rows)
    unknown = [
        f"line {line}: {shown(value) or '(empty)'}"
        for (line, _), value in zip(rows, values, strict=True)
        if value.lower() not in SYNONYMS
    ]
    if unknown:
        raise DataError(
            "values of the column split that are not known",
            code="D13",
            where={"file": shown(str(path)), "column": "split"},
            why=f"{len(unknown)} row(s)\n" + "\n".join(unknown[:10]),
            fix="write train, val or test in every row, or leave the column out and let the split be drawn",
        )
    return [SYNONYMS[value.lower()] for value in values]


def _check_places(path: Path, root: str, rows: Iterable[Row]) -> None:
    leaving = list(_leaving(root, rows))
    if leaving:
        raise DataError(
            "the manifest names files outside its folder",
            code="D12",
            where={"file": shown(str(path)), "folder": shown(root)},
            why=f"{len(leaving)} row(s)\n" + "\n".join(leaving[:10]),
            fix="put the manifest into a folder above all its images, with paths relative to that folder",
        )


def _leaving(root: str, rows: Iterable[Row]) -> Iterator[str]:
    for line, row in rows:
        name = row["file_name"]
        if not isinstance(name, str) or not name or "\0" in name:
            yield f"line {line}: {shown(str(name)) or '(empty)'}: not a path"
        elif not inside(_place(root, name), root):
            yield f"line {line}: {shown(name)}"


def _place(root: str, name: str) -> str:
    """The absolute path that a row names; links and dots on the way are resolved, the file itself is not."""
    path = Path(root, name)
    return os.path.normpath(f"{os.path.realpath(path.parent)}/{path.name}")


def _link_problem(place: str, root: str) -> str:
    if not inside(os.path.realpath(place), root):
        return OUTSIDE
    if not os.path.lexists(place):
        return "no such file"
    return "" if os.path.exists(place) else NOWHERE  # noqa: PTH110


def _wrong(path: Path, what: str, why: str, code: str = "D11") -> DataError:
    return DataError(
        what,
        code=code,
        where={"file": shown(str(path))},
        why=why,
        fix="a manifest is CSV with the columns file_name,label (and split, group), or JSON lines with these keys",
    )
