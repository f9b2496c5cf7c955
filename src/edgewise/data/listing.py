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

from edgewise.data.copies import (
    Copies,
    Labelled,
    Leak,
    Mode,
    conflicts,
    excluded,
    find_copies,
    labelled,
    leak_warnings,
    leaks,
    refuse_conflicts,
    refuse_leaks,
)
from edgewise.data.copies import warnings_of as copy_warnings
from edgewise.data.parts import Item, Order, draw, firm
from edgewise.data.read import Reading
from edgewise.data.saved import Changes, Saved, changes
from edgewise.data.scan import PARTS, BadFile, Entry, Part, Scan, check_class_names, deeper, listed
from edgewise.data.walk import SUFFIXES, shown, suffix
from edgewise.errors import DataError
from edgewise.recipe import DataOptions


@dataclass(frozen=True)
class Listing:
    """Every image that is used, train first, then val, then test, each sorted by name.

    `classes` is the class map: sorted names of the classes of the training images. `bad` names what is left out:
    files that cannot be used, and images that stand in several classes. `unused` are images that a limit left out.
    `changes` is what differs from a saved split, `copies` what was found alike. `summary` holds flat facts
    for the report, see `edgewise.data.Dataset`.
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    bad: tuple[BadFile, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    unused: tuple[Item, ...] = ()
    changes: Changes = field(default_factory=Changes)
    copies: Copies = field(default_factory=lambda: Copies("off"))


def make_listing(
    scan: Scan, readings: Sequence[Reading], options: DataOptions, seed: int, place: str, saved: Saved | None = None
) -> Listing:
    """Check the files of a scan and split them.

    Args:
        scan: the labelled files.
        readings: what each of them turned out to be.
        options: shares, limits and allowances.
        seed: of all draws.
        place: where the data is, for messages.
        saved: a split that was saved; its images stay where they were.

    Raises:
        ConfigError: C31, a limit is below the number of classes.
        DataError: D05 one class only, D06 a class that has no training images, D07 too many bad files, D08 class
            names that differ in case only, D09 too few images for a validation and a test set, D10 a class below
            `min_per_class`, D14 a group in several given splits, D30 and D31 copies under several labels or across
            splits with `strict`, D32 the images are not those of the saved split.
        UnavailableError: E52, scipy is missing.
    """
    bad = sorted(_bad_files(scan, readings), key=lambda file: file.name)
    check_bad(bad, len(readings) + len(scan.bad), options, place)
    present = list(_items(scan, readings))
    given = {entry.part for entry in scan.entries} - {None}
    copies = find_copies(
        {reading.sha256: reading.look for reading in readings if not reading.problem}, _mode(scan, options)
    )
    torn = _torn(present, copies, options, place)
    left_out = {id(item) for group in torn for item in group}
    items = [item for item in present if id(item) not in left_out]
    classes = _classes(items, options, place)
    if given:
        _check_groups(items, place)
    found = _changed(saved, firm(items, frozenset(given)), present)
    drawn, unused = draw(items, Order(classes, frozenset(given), options, seed, copies, saved))
    _check_parts(drawn, place)
    _check_training(drawn, classes, place)
    drawn, leaked = _with_leaks(drawn, copies)
    if options.strict:
        refuse_leaks(leaked, place)
    ordered = tuple(sorted(drawn, key=lambda item: (PARTS.index(item.part), item.name)))
    warnings = [*leak_warnings(ordered, leaked), *scan.warnings, *_file_warnings(scan.entries, readings, bad)]
    warnings += [*_lost_classes(scan, classes), *copy_warnings(ordered, copies, torn), *_given_words(given)]
    warnings += _thin_classes(ordered, classes, _not_evaluated(ordered, classes))
    warnings += [f"the images changed since the split was saved:\n{found.describe()}"] if found else []
    summary = {
        "source": options.source,
        "layout": scan.layout,
        "split": _how(given, options, seed, saved),
        **_counts(ordered, classes),
        "not_evaluated": _not_evaluated(ordered, classes),
        "bad_files": len(bad),
        "ignored": scan.ignored,
        "duplicates": copies.mode,
        "conflicts": len(left_out),
        "val_leaked": sum(leak.part == "val" for leak in leaked),
        "test_leaked": sum(leak.part == "test" for leak in leaked),
        "data_hash": _data_hash(ordered),
        "warnings": warnings,
    }
    return Listing(ordered, classes, (*bad, *excluded(torn)), summary, tuple(unused), found, copies)


def _torn(items: Sequence[Item], copies: Copies, options: DataOptions, place: str) -> list[list[Labelled]]:
    """Identical images under several labels; with `strict` they stop the run."""
    torn = [] if copies.mode == "off" else conflicts(items)
    if options.strict:
        refuse_conflicts([labelled(group) for group in torn], place)
    return torn


def _changed(saved: Saved | None, items: Sequence[Item], present: Sequence[Item]) -> Changes:
    """What is different from the saved split; stops unless that was accepted."""
    if saved is None:
        return Changes()
    found = changes(saved.rows, items, present)
    saved.check(found)
    return found


def _items(scan: Scan, readings: Sequence[Reading]) -> Iterator[Item]:
    """The usable images, not split yet."""
    for index, (entry, reading) in enumerate(zip(scan.entries, readings, strict=True)):
        if not reading.problem:
            part = entry.part or "train"
            yield Item(index, entry.name, entry.path, entry.label, part, reading.sha256, entry.group or "", entry.part)


def _mode(scan: Scan, options: DataOptions) -> Mode:
    """Built-in sets are compared by identical images only: they are published as they are, with the split that all
    figures on them refer to, and their images are too small and too much alike for more."""
    return "exact" if scan.layout == "built-in" and options.duplicates == "near" else options.duplicates


def _how(given: set[Part | None], options: DataOptions, seed: int, saved: Saved | None) -> str:
    if saved is not None:
        return f"as saved in {saved.path.name}"
    how = "given" if given == set(PARTS) else "partly given" if given else "drawn"
    return how if how == "given" else f"{how}, {':'.join(f'{share:g}' for share in options.split)}, seed {seed}"


def _given_words(given: set[Part | None]) -> Iterator[str]:
    if given and given != set(PARTS):
        absent = " and ".join(part for part in PARTS if part not in given)
        yield f"the data brings no {absent} images; they are drawn from the training images"


def _with_leaks(items: Sequence[Item], copies: Copies) -> tuple[list[Item], list[Leak]]:
    """The items, each with the training image that it is a copy of, and these leaks."""
    leaked = leaks(items, copies)
    of = {(leak.name, leak.part): leak.of for leak in leaked}
    return [dataclasses.replace(item, copy_of=of.get((item.name, item.part), "")) for item in items], leaked


# ---------------------------------------------------------------------------------------------------------------
# Checks.


def _bad_files(scan: Scan, readings: Sequence[Reading]) -> Iterator[BadFile]:
    yield from scan.bad
    for entry, reading in zip(scan.entries, readings, strict=True):
        if reading.problem:
            yield BadFile(entry.name, reading.problem)


def check_bad(bad: Sequence[BadFile], total: int, options: DataOptions, place: str) -> None:
    """Stop when more than `max_bad` of all files are bad.

    Raises:
        DataError: D07, with ten of them.
    """
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


def _check_training(items: Sequence[Item], classes: Sequence[str], place: str) -> None:
    trained = {item.label for item in items if item.part == "train"}
    absent = [label for label in classes if label not in trained]
    if absent:
        raise DataError(
            "a class without training images",
            code="D06",
            where={"folder": place, "class": listed(absent)},
            why="all its images are held in other splits by the saved split",
            fix="add training images of it, or start a new run with a new split",
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
