"""A split that was saved, met again: every image stays where it was, and what changed since is told.

`splits.csv` is what a run leaves behind (`Dataset.write_splits`). Images are recognised by their path; their sha256 and
label tell whether they are still what they were.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgewise.data.scan import PARTS, Known
from edgewise.errors import DataError

COLUMNS = ("path", "sha256", "label", "split", "group")
UNUSED = "unused"
"""The split of an image that a limit left out."""

_FORMULA = re.compile(r"'*[=+\-@]")


class Image(Known, Protocol):
    """An image as the data has it now."""

    @property
    def given(self) -> str | None:
        """The split that the data itself names, None where it is drawn."""
        ...


@dataclass(frozen=True)
class Row:
    """One line of a saved split; `part` is train, val, test or unused."""

    name: str
    sha256: str
    label: str
    part: str
    group: str = ""


@dataclass(frozen=True)
class Changes:
    """What is different from a saved split, by path. Nothing is left when all are empty.

    Attributes:
        deleted: gone, or not readable any more.
        replaced: another sha256 at the same path.
        relabelled: (path, label then, label now).
        moved: (path, split then, split that the data names now); the saved one holds.
        added: not in the saved split.
    """

    deleted: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    relabelled: tuple[tuple[str, str, str], ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.deleted, self.replaced, self.relabelled, self.moved, self.added))

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "deleted": list(self.deleted),
            "replaced": list(self.replaced),
            "relabelled": [list(change) for change in self.relabelled],
            "moved": [list(change) for change in self.moved],
            "added": list(self.added),
        }

    def describe(self, most: int = 10) -> str:
        """A line for each kind of change with its number, then at most `most` of its paths."""
        lines: list[str] = []
        kinds = {
            "deleted": list(self.deleted),
            "replaced (other sha256)": list(self.replaced),
            "relabelled": [f"{name}: {old} -> {new}" for name, old, new in self.relabelled],
            "moved (stays where it was)": [f"{name}: {old}, now given as {new}" for name, old, new in self.moved],
            "added": list(self.added),
        }
        for kind, names in kinds.items():
            if names:
                lines.append(f"{len(names)} {kind}")
                lines += [f"  {name}" for name in names[:most]]
                lines += [f"  ... and {len(names) - most} more"] if len(names) > most else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Saved:
    """A saved split, and whether data that changed since may be used with it."""

    path: Path
    rows: tuple[Row, ...]
    accept_changes: bool = False

    def check(self, found: Changes) -> None:
        """Stop when something changed and that was not accepted.

        Raises:
            DataError: D32, with the differences.
        """
        if found and not self.accept_changes:
            raise DataError(
                "the images are not those of the saved split",
                code="D32",
                where={"file": self.path},
                why=found.describe(),
                fix="bring the images back, start a new run, or go on with them as they are now "
                "(`run` and `train`: --resume with --accept-data-change): old images stay where they were, new ones "
                "are given a split",
            )


def read_saved(path: Path, *, accept_changes: bool = False) -> Saved:
    """Read a `splits.csv`.

    Raises:
        DataError: D34, it cannot be read, lacks a column, or names an unknown split or a path twice.
    """
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True)
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise ValueError(f"columns {','.join(header)}; expected {','.join(COLUMNS)}")
        rows = [_row(cells, reader.line_num) for cells in reader]
        if len({(row.name, row.label) for row in rows}) < len(rows):
            raise ValueError("a path stands twice with one label")
    except (OSError, ValueError, csv.Error) as problem:
        raise DataError(
            "the saved split cannot be read",
            code="D34",
            where={"file": path},
            why=(isinstance(problem, OSError) and problem.strerror) or str(problem),
            fix="give the splits.csv of a run folder, as edgewise wrote it",
        ) from problem
    return Saved(path, tuple(rows), accept_changes)


def matches(saved: Sequence[Row], images: Sequence[Image]) -> list[Row | None]:
    """The saved row of each image, None for what is new. Images are recognised by path; one that stands there under
    several labels, by path and label."""
    by_name: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in saved:
        by_name[row.name][row.label] = row
    found: list[Row | None] = []
    for image in images:
        rows = by_name.get(image.name, {})
        only = next(iter(rows.values())) if len(rows) == 1 else None
        found.append(rows.get(image.label, only))
    return found


def changes(saved: Sequence[Row], images: Sequence[Image], present: Sequence[Image] | None = None) -> Changes:
    """What is different now.

    Args:
        saved: the rows of the saved split.
        images: what would be used now.
        present: all that can be read now, where that is more: an image that is there but left out, because a copy of
            it came under another label, was not deleted.
    """
    pairs = list(zip(matches(saved, images), images, strict=True))
    known = [(row, image) for row, image in pairs if row is not None]
    here = {image.name for image in (images if present is None else present)}
    return Changes(
        deleted=tuple(sorted({row.name for row in saved} - here)),
        replaced=tuple(sorted(image.name for row, image in known if row.sha256 != image.sha256)),
        relabelled=tuple(
            sorted((row.name, row.label, image.label) for row, image in known if row.label != image.label)
        ),
        moved=tuple(
            sorted(
                (row.name, row.part, image.given)
                for row, image in known
                if image.given is not None and row.part not in (UNUSED, image.given)
            )
        ),
        added=tuple(sorted(image.name for row, image in pairs if row is None)),
    )


def write_cell(cell: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula: a ' in front of what starts with = + - @, after any number of
    ' already there, so that `read_cell` gives back every text."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def read_cell(cell: str) -> str:
    """The text that `write_cell` was given."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell


def _row(cells: Sequence[str], line: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"line {line} does not have {len(COLUMNS)} cells")
    row = Row(*map(read_cell, cells))
    if row.part not in (*PARTS, UNUSED):
        raise ValueError(f"line {line}: no split is called {row.part!r}")
    return row
