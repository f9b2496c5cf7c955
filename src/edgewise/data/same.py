"""Whether the images of a source are still those that a run was made with, told by the run's `splits.csv`."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgewise.data import Dataset
from edgewise.errors import DataError, UntrustedError

_FACTS = ("sha256", "label", "split")
_NAMED = 3


def check_same(dataset: Dataset, splits: Path) -> None:
    """Compare the images, labels and splits in use with a `splits.csv` written earlier.

    Raises:
        DataError: an image is gone, new, or has other bytes, another label or another split (D60).
        UntrustedError: the file cannot be read as a splits.csv (U41).
    """
    with tempfile.TemporaryDirectory() as folder:
        dataset.write_splits(Path(folder) / splits.name)
        now = _read(Path(folder) / splits.name)
    then = _read(splits)
    told = [
        _told("gone", sorted(then.keys() - now.keys())),
        _told("new", sorted(now.keys() - then.keys())),
        _told("changed", sorted(name for name in then.keys() & now.keys() if then[name] != now[name])),
    ]
    if any(told):
        raise DataError(
            "the images are not those that the run was made with",
            code="D60",
            where={"splits": splits},
            why="\n".join(line for line in told if line),
            fix="bring the images back as they were, or run the recipe again on those that are there now",
        )


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    """Path of each image -> its sha256, label and split."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return {row["path"]: tuple(row[fact] for fact in _FACTS) for row in csv.DictReader(stream)}
    except (OSError, ValueError, KeyError, csv.Error) as problem:
        raise UntrustedError(
            "cannot read the splits of a run",
            code="U41",
            where={"file": path},
            why=f"no column {problem}" if isinstance(problem, KeyError) else str(problem),
            fix="copy the run folder again, or run the recipe again",
        ) from problem


def _told(what: str, names: Sequence[str]) -> str:
    """``2 gone: a.png, b.png``; empty for none."""
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}" if names else ""
