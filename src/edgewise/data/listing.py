"""From scanned and read files to a checked list: one class map, a split for each image, and what there is to say."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.data.read import Reading
from edgewise.data.scan import PARTS, BadFile, Entry, Part, Scan, check_class_names, deeper, listed
from edgewise.data.split import Indices, draw_some, draw_splits, unite
from edgewise.data.walk import SUFFIXES, shown, suffix
from edgewise.errors import ConfigError, DataError
from edgewise.recipe import DataOptions


@dataclass(frozen=True)
class Item:
    """One usable image. `index` is its place among the scanned entries, `group` is "" without one."""

    index: int
    name: str
    path: Path | None
    label: str
    part: Part
    sha256: str
    group: str


@dataclass(frozen=True)
class Listing:
    """Every image that is used, train first, then val, then test, each sorted by name.

    `classes` is the class map: sorted names of the classes of the training images. `summary` holds flat facts for
    the report, see `edgewise.data.Dataset`.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...]
    summary: dict[str, Any] = field(default_factory=dict)


def make_listing(scan: Scan, readings: Sequence[Reading], options: DataOptions, seed: int, place: str) -> Listing:
    """Check the files of a scan and split them.

    Args:
        scan: the labelled files.
        readings: what each of them turned out to be.
        options: shares, limits and allowances.
        seed: of all draws.
        place: where the data is, for messages.

    Raises:
        ConfigError: C31, a limit is below the number of classes.
        DataError: D05 one class only, D06 a class that has no training images, D07 too many bad files, D08 class
            names that differ in case only, D09 too few images for a validation and a test set, D10 a class below
            `min_per_class`, D14 a group in several given splits.
    """
    bad = tuple(sorted(_bad_files(scan, readings), key=lambda file: file.name))
    _check_bad(bad, len(readings) + len(scan.bad), options, place)
    items = [
        Item(index, entry.name, entry.path, entry.label, entry.part or "train", reading.sha256, entry.group or "")
        for index, (entry, reading) in enumerate(zip(scan.entries, readings, strict=True))
        if not reading.problem
    ]
    classes = _classes(items, options, place)
    given = {entry.part for entry in scan.entries} - {None}
    warnings = [*scan.warnings, *_file_warnings(scan.entries, readings, bad)]
    warnings += _lost_classes(scan, classes)
    warnings += _same_files(items)
    if given:
        _check_groups(items, place)
        warnings += _leaks(items)
        if given != set(PARTS):
            absent = " and ".join(part for part in PARTS if part not in given)
            warnings.append(f"the data brings no {absent} images; they are drawn from the training images")
    drawn = _limited(items, _drawn(items, classes, given, options, seed), classes, options, seed)
    _check_parts(drawn, place)
    not_evaluated = _not_evaluated(drawn, classes)
    warnings += _thin_classes(drawn, classes, not_evaluated)
    ordered = sorted(drawn, key=lambda item: (PARTS.index(item.part), item.name))
    how = "given" if given == set(PARTS) else "partly given" if given else "drawn"
    summary = {
        "source": options.source,
        "layout": scan.layout,
        "split": how if how == "given" else f"{how}, {':'.join(f'{share:g}' for share in options.split)}, seed {seed}",
        **_counts(ordered, classes),
        "not_evaluated": not_evaluated,
        "bad_files": len(bad),
        "ignored": scan.ignored,
        "data_hash": _data_hash(ordered),
        "warnings": warnings,
    }
    return Listing(tuple(ordered), classes, bad, summary)


# ---------------------------------------------------------------------------------------------------------------
# Checks.


def _bad_files(scan: Scan, readings: Sequence[Reading]) -> Iterator[BadFile]:
    yield from scan.bad
    for entry, reading in zip(scan.entries, readings, strict=True):
        if reading.problem:
            yield BadFile(entry.name, reading.problem)


def _check_bad(bad: Sequence[BadFile], total: int, options: DataOptions, place: str) -> None:
    share = len(bad) / total
    if share <= options.max_bad and len(bad) < total:
        return
    named = [f"{file.name}: {file.reason}" for file in bad[:10]]
    if len(bad) > 10:
        named.append(f"... and {len(bad) - 10} more")
    if len(bad) == total:
        fix = "these files are not images that can be used; give another folder"
    else:
        allow = math.ceil(share * 1000) / 1000
        fix = f"repair or remove these files, or leave them out with --set data.max_bad={allow:g}"
    raise DataError(
        f"{len(bad)} of {total} image files cannot be used ({share:.1%}, allowed are {options.max_bad:.1%})",
        code="D07",
        where={"folder": place},
        why="\n".join(named),
        fix=fix,
    )


def _classes(items: Sequence[Item], options: DataOptions, place: str) -> tuple[str, ...]:
    check_class_names({item.label for item in items})
    train = {item.label for item in items if item.part == "train"}
    extra = [f"{label} ({part})" for label, part in sorted({(i.label, i.part) for i in items}) if label not in train]
    if extra:
        raise DataError(
            "a class without training images",
            code="D06",
            where={"folder": place, "class": listed(extra)},
            why=f"the classes are those of the training images: {listed(sorted(train))}",
            fix="add training images of it, correct the name, or take it out of the other splits",
        )
    if len(train) < 2:
        found = [f"data.source: {path}" for path in deeper(Path(place))] if Path(place).is_dir() else []
        raise DataError(
            "only one class has images" if train else "no class has images",
            code="D05",
            where={"folder": place, "class": listed(sorted(train))},
            why="a classifier decides between at least two classes",
            fix=f"use {' or '.join(found)}" if found else "add a folder (or label) with images of what it is not",
        )
    counts = Counter(item.label for item in items)
    few = [f"{label} ({counts[label]})" for label in sorted(counts) if counts[label] < options.min_per_class]
    if few:
        raise DataError(
            f"a class has fewer than {options.min_per_class} images",
            code="D10",
            where={"folder": place, "class": listed(few)},
            why=f"data.min_per_class = {options.min_per_class} asks for more",
            fix="add images, leave the class out, or lower data.min_per_class",
        )
    return tuple(sorted(train))


def _check_groups(items: Sequence[Item], place: str) -> None:
    parts = defaultdict(set)
    for item in items:
        if item.group:
            parts[item.group].add(item.part)
    broken = [f"{group} ({', '.join(sorted(found))})" for group, found in sorted(parts.items()) if len(found) > 1]
    if broken:
        raise DataError(
            "a group lies in several splits",
            code="D14",
            where={"file": place, "group": listed(broken)},
            why="images of one group are too alike to be trained on and tested with",
            fix="correct the column split, or leave it out and let the split be drawn by groups",
        )


def _check_parts(items: Sequence[Item], place: str) -> None:
    counts = Counter(item.part for item in items)
    absent = [part for part in PARTS if not counts[part]]
    if absent:
        raise DataError(
            f"too few images: none are left for {' and '.join(absent)}",
            code="D09",
            where={"folder": place},
            why=f"{len(items)} usable images; at 70:15:15 a class needs 4 images to be in all three splits, "
            "and copies or groups stay together",
            fix="add images, or give the splits by folders or by a manifest",
        )


# ---------------------------------------------------------------------------------------------------------------
# Warnings.


def _file_warnings(entries: Sequence[Entry], readings: Sequence[Reading], bad: Sequence[BadFile]) -> Iterator[str]:
    if bad:
        named = listed(f"{file.name} ({file.reason})" for file in bad)
        yield f"{len(bad)} file(s) cannot be used and are left out: {named}"
    wrong = [
        f"{entry.name} is {reading.kind}"
        for entry, reading in zip(entries, readings, strict=True)
        if not reading.problem and reading.kind and SUFFIXES.get(suffix(entry.name)) != reading.kind
    ]
    if wrong:
        yield f"{len(wrong)} file(s) are of another format than their name says; they are used: {listed(wrong, 3)}"


def _lost_classes(scan: Scan, classes: Sequence[str]) -> Iterator[str]:
    lost = sorted({entry.label for entry in scan.entries} - set(classes))
    if lost:
        yield f"classes without a usable image are left out: {listed(lost)}"


def _same_files(items: Sequence[Item]) -> Iterator[str]:
    """Exact copies: how many, and those that stand in two classes."""
    same = defaultdict(list)
    for item in items:
        same[item.sha256].append(item)
    copies = [group for group in same.values() if len(group) > 1]
    if copies:
        extra = sum(len(group) - 1 for group in copies)
        named = listed((" = ".join(item.name for item in group[:3]) for group in copies), 3)
        yield f"{extra} image(s) are exact copies of others: {named}"
    torn = [group for group in copies if len({item.label for item in group}) > 1]
    if torn:
        named = listed(" and ".join(item.name for item in group) for group in torn)
        yield f"{len(torn)} image(s) stand in two classes, one of which is wrong: {named}"


def _leaks(items: Sequence[Item]) -> Iterator[str]:
    """Copies across splits that the data itself brings."""
    train = {item.sha256: item.name for item in items if item.part == "train"}
    for part in PARTS[1:]:
        own = [item for item in items if item.part == part]
        leaked = [f"{item.name} = {train[item.sha256]}" for item in own if item.sha256 in train]
        if leaked:
            share = len(leaked) / len(own)
            yield f"{len(leaked)} {part} image(s) ({share:.1%}) are also training images: {listed(leaked, 3)}"


def _thin_classes(items: Sequence[Item], classes: Sequence[str], not_evaluated: Sequence[str]) -> Iterator[str]:
    single = {label for label, count in Counter(item.label for item in items).items() if count == 1}
    if single:
        yield f"classes with a single image, which stays in training; not evaluated: {listed(sorted(single))}"
    rest = [label for label in not_evaluated if label not in single]
    if rest:
        yield f"classes without test images, not evaluated: {listed(rest)}"
    judged = {item.label for item in items if item.part == "val"}
    unseen = [label for label in classes if label not in judged and label not in single]
    if unseen:
        yield f"classes without validation images, which play no part in choosing a model: {listed(unseen)}"


def _not_evaluated(items: Sequence[Item], classes: Sequence[str]) -> list[str]:
    tested = {item.label for item in items if item.part == "test"}
    return [label for label in classes if label not in tested]


# ---------------------------------------------------------------------------------------------------------------
# Splitting.


def _drawn(
    items: Sequence[Item], classes: Sequence[str], given: set[Part | None], options: DataOptions, seed: int
) -> list[Part]:
    """The split of each item: the given one, or one drawn from the training images for each split that is missing."""
    missing = [part == "train" or part not in given for part in PARTS]
    parts = [item.part for item in items]
    if sum(missing) > 1:
        pool = [index for index, part in enumerate(parts) if part == "train"]
        own = [items[index] for index in pool]
        shares = [share if absent else 0.0 for share, absent in zip(options.split, missing, strict=True)]
        units = unite([item.sha256 for item in own], [item.group or None for item in own])
        for index, part in zip(pool, draw_splits(_numbers(own, classes), units, shares, seed), strict=True):
            parts[index] = PARTS[part]
    return parts


def _limited(
    items: Sequence[Item], parts: Sequence[Part], classes: Sequence[str], options: DataOptions, seed: int
) -> list[Item]:
    """The items in use, with their splits."""
    kept = []
    limits = (options.limit_train, options.limit_val, options.limit_test)
    for number, (part, limit) in enumerate(zip(PARTS, limits, strict=True)):
        own = [item for item, drawn in zip(items, parts, strict=True) if drawn == part]
        if limit is not None and own:
            if part == "train":
                _check_limit(limit, classes)
            # Each split has a seed of its own, or the draws of two splits would follow each other.
            rows = draw_some(_numbers(own, classes), limit, seed + (number << 32), each_class=part == "train")
            own = [own[row] for row in rows]
        kept += [item if item.part == part else dataclasses.replace(item, part=part) for item in own]
    return kept


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


# ---------------------------------------------------------------------------------------------------------------
# Facts.


def _counts(items: Sequence[Item], classes: Sequence[str]) -> dict[str, Any]:
    by_part = {part: Counter(item.label for item in items if item.part == part) for part in PARTS}
    total = Counter(item.label for item in items)
    smallest, largest = min(classes, key=lambda c: total[c]), max(classes, key=lambda c: total[c])
    return {
        "classes": len(classes),
        "images": len(items),
        **{part: counts.total() for part, counts in by_part.items()},
        **{f"{part}_per_class": {label: counts[label] for label in classes} for part, counts in by_part.items()},
        "smallest_class": smallest,
        "smallest_class_images": total[smallest],
        "largest_class": largest,
        "largest_class_images": total[largest],
    }


def _data_hash(items: Sequence[Item]) -> str:
    """Sha256 over the sorted (file sha256, split, label) of the images in use; names and order do not matter."""
    lines = sorted(f"{item.sha256} {item.part} {shown(item.label)}\n" for item in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
