"""Which split each image goes to: the given one, the saved one, or one that is drawn; and what a limit leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewise.data.copies import Copies
from edgewise.data.saved import UNUSED, Row, Saved, matches
from edgewise.data.scan import PARTS, Part
from edgewise.data.split import Indices, draw_some, draw_splits, unite
from edgewise.errors import ConfigError
from edgewise.recipe import DataOptions


@dataclass(frozen=True)
class Item:
    """One usable image.

    `index` is its place among the scanned entries, `group` is "" without one, `given` is the split that the data names
    for it (None where it is drawn), `copy_of` the training image that it is a copy of ("" for none).
    """

    index: int
    name: str
    path: Path | None
    label: str
    part: Part
    sha256: str
    group: str
    given: Part | None = None
    copy_of: str = ""


@dataclass(frozen=True)
class Order:
    """How images are split: the class map, the splits that the data brings, what stays together, what was saved."""

    classes: Sequence[str]
    given: frozenset[Part | None]
    options: DataOptions
    seed: int
    copies: Copies
    saved: Saved | None = None


def draw(items: Sequence[Item], order: Order) -> tuple[list[Item], list[Item]]:
    """The items in use with their splits, and those that a limit leaves out.

    Images of a saved split stay where they were, in use or not; limits then hold for the others only.

    Raises:
        ConfigError: C31, a limit is below the number of classes.
    """
    rows = matches(order.saved.rows, items) if order.saved else [None] * len(items)
    unused = [item for item, row in zip(items, rows, strict=True) if row and row.part == UNUSED]
    pairs = [(item, row) for item, row in zip(items, rows, strict=True) if not row or row.part != UNUSED]
    items, rows = [item for item, _ in pairs], [row for _, row in pairs]
    parts = _drawn(items, rows, order)
    drawn = [
        item if item.part == part else dataclasses.replace(item, part=part)
        for item, part in zip(items, parts, strict=True)
    ]
    kept, dropped = _limited(drawn, [row is not None for row in rows], order)
    return kept, unused + dropped


def firm(items: Sequence[Item], given: frozenset[Part | None]) -> list[Item]:
    """The items with `given` taken back where a missing split is drawn from the training images."""
    if set(PARTS) <= given:
        return list(items)
    return [dataclasses.replace(item, given=None) if item.given == "train" else item for item in items]


def _drawn(items: Sequence[Item], rows: Sequence[Row | None], order: Order) -> list[Part]:
    """The split of each item: the saved one, the given one, or one drawn from the training images for each split that
    is missing."""
    missing = [part == "train" or part not in order.given for part in PARTS]
    parts = [item.part for item in items]
    held = [-1 if row is None else PARTS.index(_part(row)) for row in rows]
    if sum(missing) > 1:
        pool = [index for index, part in enumerate(parts) if part == "train"]
        own = [items[index] for index in pool]
        shares = [share if absent else 0.0 for share, absent in zip(order.options.split, missing, strict=True)]
        units = unite([order.copies.unit(item.sha256) for item in own], [item.group or None for item in own])
        kept = np.array([held[index] for index in pool], dtype=np.int64)
        sides = draw_splits(_numbers(own, order.classes), units, shares, order.seed, kept)
        for index, side in zip(pool, sides, strict=True):
            parts[index] = PARTS[side]
    return [PARTS[side] if side >= 0 else part for part, side in zip(parts, held, strict=True)]


def _part(row: Row) -> Part:
    return next(part for part in PARTS if part == row.part)


def _limited(items: Sequence[Item], old: Sequence[bool], order: Order) -> tuple[list[Item], list[Item]]:
    """The items that the limits leave, and those that they leave out. Old ones are never left out."""
    kept: list[Item] = []
    dropped: list[Item] = []
    options = order.options
    limits = (options.limit_train, options.limit_val, options.limit_test)
    for number, (part, limit) in enumerate(zip(PARTS, limits, strict=True)):
        held = [item for item, was in zip(items, old, strict=True) if item.part == part and was]
        own = [item for item, was in zip(items, old, strict=True) if item.part == part and not was]
        rows = np.arange(len(own))
        if limit is not None and own:
            if part == "train":
                _check_limit(limit, order.classes)
            # Each split has a seed of its own, or the draws of two splits would follow each other.
            seed = order.seed + (number << 32)
            room = max(0, limit - len(held))
            rows = draw_some(_numbers(own, order.classes), room, seed, each_class=part == "train" and not held)
        chosen = set(rows.tolist())
        kept += held + [item for row, item in enumerate(own) if row in chosen]
        dropped += [item for row, item in enumerate(own) if row not in chosen]
    return kept, dropped


def _check_limit(limit: int, classes: Sequence[str]) -> None:
    if limit < len(classes):
        raise ConfigError(
            "limit_train is below the number of classes",
            code="C31",
            where={"key": f"data.limit_train = {limit}"},
            why=f"there are {len(classes)} classes, and each needs a training image",
            fix=f"use at least --set data.limit_train={len(classes)}",
        )


def _numbers(items: Sequence[Item], classes: Sequence[str]) -> Indices:
    number = {label: index for index, label in enumerate(classes)}
    return np.array([number[item.label] for item in items], dtype=np.int64)
