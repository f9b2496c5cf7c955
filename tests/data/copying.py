"""Folders of real photograph crops with copies planted among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.planted import picture

from edgewise.data import Dataset


def plant(root: Path, numbers: dict[str, range]) -> Path:
    """Write `root/<folder>/<number>.png` for each folder and number."""
    for folder, indices in numbers.items():
        (root / folder).mkdir(parents=True)
        for index in indices:
            picture(index).save(root / folder / f"{index:04}.png")
    return root


def sides_of(data: Dataset) -> dict[str, str]:
    """Name -> split."""
    return dict(_sides(data))


def _sides(data: Dataset) -> Iterator[tuple[str, str]]:
    for part, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        yield from ((name, part) for name in split.names)
