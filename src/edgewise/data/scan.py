"""From a data folder to labelled files: which layout it has, what the classes are, what is left out and why."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from edgewise.data.walk import Folder, shown, walk
from edgewise.errors import ConfigError, DataError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")

SYNONYMS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names, lower case, that mean one of the three splits."""

LAYOUTS = """class folders:   DATA/cat/1.jpg  DATA/dog/2.jpg
split folders:   DATA/train/cat/1.jpg  DATA/val/cat/2.jpg  DATA/test/cat/3.jpg
a manifest:      DATA/labels.csv with the columns file_name,label"""


@dataclass(frozen=True)
class Entry:
    """One labelled file (or one image of a built-in set, where `path` is None), not yet opened.

    `name` is relative to the data root and safe to print; `part` and `group` are None where the data says nothing.
    """

    name: str
    path: Path | None
    label: str
    part: Part | None = None
    group: str | None = None


class Known(Protocol):
    """An image that was read: its name, the sha256 of its file, and its label."""

    @property
    def name(self) -> str:
        """Relative to the data root."""
        ...

    @property
    def sha256(self) -> str:
        """Of the file."""
        ...

    @property
    def label(self) -> str:
        """Its class."""
        ...


@dataclass(frozen=True)
class BadFile:
    """A file that was meant as an image and cannot be used, with the reason in one line."""

    name: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """What a source holds, before any file is opened. `entries` are sorted by name."""

    layout: Literal["classes", "splits", "manifest", "built-in"]
    entries: tuple[Entry, ...]
    bad: tuple[BadFile, ...] = ()
    ignored: int = 0
    warnings: tuple[str, ...] = ()


def scan_folder(root: Path, layout: Literal["auto", "classes", "splits"]) -> Scan:
    """Find the labelled files under `root`, an absolute path without links.

    Raises:
        ConfigError: C30, the folder can be read in two ways and `layout` is "auto".
        DataError: D01 a folder cannot be read, D04 no images in an accepted layout, D15 no training folder.
    """
    tree = walk(str(root))
    chosen = _choose(tree, layout)
    sets = _split_folders(tree) if chosen == "splits" else {None: tree}
    entries = [entry for part, top in sets.items() for entry in _entries(top, tree, part)]
    if not entries:
        raise _nothing_found(tree)
    tops = list(sets.values())
    broken = [
        BadFile(_relative(label, tree, name), reason)
        for top in tops
        for label in top.folders
        for name, reason in label.broken
    ]
    return Scan(
        layout=chosen,
        entries=tuple(sorted(entries, key=lambda entry: entry.name)),
        bad=tuple(broken),
        ignored=sum(folder.junk + len(folder.others) for folder in _all(tree)) + len(_refused(tree, tops)),
        warnings=tuple(_warnings(tree, tops)),
    )


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names in one line, cut after `most` with the number of the rest."""
    every = list(names)
    rest = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest


def deeper(root: Path) -> list[str]:
    """Folders below `root` that would be accepted as data folders themselves."""
    return _deeper(walk(str(root)))


def _entries(top: Folder, tree: Folder, part: Part | None) -> Iterator[Entry]:
    for folder in top.folders:
        place, label, path = _relative(folder, tree, ""), shown(folder.name), Path(folder.path)
        for name in folder.images:
            yield Entry(place + shown(name), path / name, label, part)


def _relative(folder: Folder, tree: Folder, name: str) -> str:
    return shown(os.path.relpath(folder.path, tree.path) + "/" + name)


def _all(folder: Folder) -> Iterator[Folder]:
    yield folder
    for below in folder.folders:
        yield from _all(below)


# ---------------------------------------------------------------------------------------------------------------
# Which layout.


def _choose(tree: Folder, asked: Literal["auto", "classes", "splits"]) -> Literal["classes", "splits"]:
    named = [folder for folder in tree.folders if _part(folder) and folder.count()]
    if asked == "classes" or (asked == "auto" and not named):
        return "classes"
    if not named:
        raise _no_train(tree)
    twice = [part for part, count in Counter(_part(folder) for folder in named).items() if count > 1]
    flat = [folder for folder in named if folder.images and not _labels(folder)]
    beside = [folder for folder in tree.folders if folder.images and not _part(folder)]
    if twice or (asked == "auto" and (flat or beside)):
        raise _ambiguous(tree, named, [str(part) for part in twice])
    return "splits"


def _part(folder: Folder) -> Part | None:
    return SYNONYMS.get(folder.name.lower())


def _labels(folder: Folder) -> list[Folder]:
    """The class folders of a folder."""
    return [below for below in folder.folders if below.images]


def _split_folders(tree: Folder) -> dict[Part | None, Folder]:
    found: dict[Part | None, Folder] = {}
    for folder in tree.folders:
        part = _part(folder)
        if part and folder.count():
            found[part] = folder
    if "train" not in found:
        raise _no_train(tree)
    return found


def _ambiguous(tree: Folder, named: list[Folder], twice: list[str]) -> ConfigError:
    classes = [f"{shown(folder.name)} ({len(folder.images)})" for folder in _labels(tree)]
    as_classes = f"{len(classes)} class(es) with images: {listed(classes)}" if classes else "no folder holds images"
    if twice:
        both = [f"{shown(folder.name)}/" for folder in named if _part(folder) in twice]
        as_splits = f"not possible: {' and '.join(both)} are both {' and '.join(twice)}"
        fix = "merge or rename these folders, or choose the reading with --set data.layout=classes"
    else:
        as_splits = _as_splits(tree, named)
        fix = "choose one: --set data.layout=classes or --set data.layout=splits, or move the folder away"
    return ConfigError(
        "this folder can be read in two ways",
        code="C30",
        where={"folder": shown(tree.path), "key": "data.layout"},
        why=f"data.layout=classes: {as_classes}\ndata.layout=splits: {as_splits}",
        fix=fix,
    )


def _as_splits(tree: Folder, named: list[Folder]) -> str:
    if not any(_part(folder) == "train" and _labels(folder) for folder in named):
        return "not possible: there is no train/ folder with class folders in it"
    words = [
        f"{shown(folder.name)}/ is {_part(folder)} with {len(_labels(folder))} classes"
        + (f" ({len(folder.images)} images in no class are left out)" if folder.images else "")
        for folder in named
    ]
    words += [f"{shown(folder.name)}/ is left out" for folder in tree.folders if folder not in named]
    return listed(words)


# ---------------------------------------------------------------------------------------------------------------
# Messages.


def _no_train(tree: Folder) -> DataError:
    return DataError(
        "there is no training folder",
        code="D15",
        where={"folder": shown(tree.path)},
        why="found:\n" + picture(tree),
        fix="name the folder of training images train/ (or training/); val/ and test/ are drawn from it when missing",
    )


def _nothing_found(tree: Folder) -> DataError:
    images = tree.count()
    found = _deeper(tree)
    if found:
        fix = "the images lie deeper; use this folder instead: " + " or ".join(f"data.source: {path}" for path in found)
    elif tree.images:
        fix = "put each image into a folder named after its class, or write a manifest"
    else:
        fix = "give a folder with images in one of these layouts"
    links = sum(len(folder.broken) + len(folder.refused) for folder in _all(tree))
    told = f"{images} images in it, none in a class folder" if images else "no image files in it"
    if links:
        told += f"; {links} link(s) or special files are not followed"
    return DataError(
        "no labelled images found" if images else "no images found",
        code="D04",
        where={"folder": shown(tree.path)},
        why=f"{told}:\n{picture(tree)}",
        fix=f"{fix}\n{LAYOUTS}",
    )


def picture(tree: Folder, lines: int = 10) -> str:
    """The tree in at most `lines` lines, with the number of images in each folder."""
    drawn = list(_picture(tree, 0))
    rest = len(drawn) - lines
    return "\n".join(drawn if rest <= 0 else [*drawn[: lines - 1], f"... and {rest + 1} more folders"])


def _picture(folder: Folder, depth: int) -> Iterator[str]:
    endings = [f"{count} {ending or 'without suffix'}" for ending, count in sorted(Counter(folder.others).items())]
    holds = [f"{len(folder.images)} images"] if folder.images else []
    yield "  " * depth + f"{shown(folder.name)}/  " + (", ".join(holds + endings) or "no files")
    for below in folder.folders:
        yield from _picture(below, depth + 1)


def _deeper(tree: Folder) -> list[str]:
    found = []
    for folder in tree.folders:
        splits = [below for below in folder.folders if _part(below) == "train" and len(_labels(below)) > 1]
        if len(_labels(folder)) > 1 or splits:
            found.append(shown(folder.path))
        else:
            found += _deeper(folder)
    return found


def _warnings(tree: Folder, tops: list[Folder]) -> Iterator[str]:
    empty = [_relative(folder, tree, "") for top in tops for folder in top.folders if not folder.count()]
    if empty:
        yield f"class folders without images are left out: {listed(empty)}"
    loose = [top for top in {id(top): top for top in [tree, *tops]}.values() if top.images]
    if loose:
        names = [_relative(top, tree, name).removeprefix("./") for top in loose for name in top.images]
        yield f"{len(names)} image(s) in no class folder are left out: {listed(names, 3)}"
    deep = [below for top in tops for folder in top.folders for below in folder.folders if below.count()]
    if deep:
        total = sum(folder.count() for folder in deep)
        names = [_relative(folder, tree, "") for folder in deep]
        yield f"{total} image(s) in folders below a class folder are left out: {listed(names, 3)}"
    aside = [folder for folder in tree.folders if tree not in tops and folder not in tops and folder.count()]
    if aside:
        yield f"folders beside train/, val/ and test/ are left out: {listed(shown(folder.name) for folder in aside)}"
    others = Counter(ending for folder in _all(tree) for ending in folder.others)
    if others:
        kinds = listed(f"{count} {ending or 'without suffix'}" for ending, count in others.most_common())
        yield f"{others.total()} file(s) that are no images of an accepted format are left out: {kinds}"
    refused = _refused(tree, tops)
    if refused:
        yield f"{len(refused)} link(s) or special file(s) are left out: {listed(refused)}"
    yield from _unicode_twins(tree)


def _refused(tree: Folder, tops: list[Folder]) -> list[str]:
    """Special files, and links that are not followed, other than the bad files of the class folders."""
    labels = {id(folder) for top in tops for folder in top.folders}
    return [
        f"{_relative(folder, tree, name).removeprefix('./')} ({why})"
        for folder in _all(tree)
        for name, why in [*folder.refused, *([] if id(folder) in labels else folder.broken)]
    ]


def _unicode_twins(tree: Folder) -> Iterator[str]:
    for folder in _all(tree):
        same = defaultdict(list)
        for name in [*folder.images, *(below.name for below in folder.folders)]:
            if not name.isascii():
                same[unicodedata.normalize("NFC", name)].append(name)
        for name, twins in same.items():
            if len(twins) > 1:
                place = _relative(folder, tree, name).removeprefix("./")
                yield f"{len(twins)} names differ only in their Unicode form (NFC, NFD): {place}"


def check_class_names(labels: Iterable[str]) -> None:
    """Refuse class names that differ only in upper and lower case.

    Raises:
        DataError: D08, naming them.
    """
    same: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        composed = unicodedata.normalize("NFC", label)
        same[composed.casefold()].add(composed)
    twins = sorted(" and ".join(sorted(group)) for group in same.values() if len(group) > 1)
    if twins:
        raise DataError(
            "class names differ only in upper and lower case",
            code="D08",
            where={"classes": listed(twins)},
            why="they would be two classes, and one on file systems that ignore case",
            fix="give each class one spelling in every split",
        )
