"""Labelled images on disk -> decoded, split, checked arrays. No torch here.

``load_data`` is the way in: it finds the images (`scan`, `manifest`, `builtin`), reads and decodes each once
(`read`, `cache`), and splits them (`listing`, `split`). The images of the user are only ever read.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import InputSpec
from edgewise.data.builtin import defaults
from edgewise.data.cache import decode_images
from edgewise.data.listing import Listing, make_listing
from edgewise.data.parts import Item
from edgewise.data.pool import Progress
from edgewise.data.read import Reading, check_images, hash_images
from edgewise.data.saved import COLUMNS, UNUSED, Changes, Saved, read_saved, write_cell
from edgewise.data.scan import PARTS, BadFile
from edgewise.data.sources import Found, find
from edgewise.recipe import DataOptions
from edgewise.runs import write_text

__all__ = [
    "BadFile",
    "Changes",
    "Dataset",
    "Item",
    "Listing",
    "Split",
    "defaults",
    "find_images",
    "load_data",
    "write_csv",
]


@dataclass(frozen=True)
class Split:
    """One of train, val and test.

    Attributes:
        images: uint8 (N, height, width, channels), RGB or gray, 0..255; read-only, an array or a map of a file.
        labels: int64 (N,), indices into `Dataset.classes`.
        names: (N,), path relative to the data root with forward slashes, or "digits/0001" for built-in sets. Control
            characters and bytes that are no UTF-8 are written as escapes.
        sha256: (N,), of each source file.
        groups: (N,), of the manifest, "" where there is none.
        paths: (N,), the source files; empty for built-in sets.
        clean: bool (N,), False for images of val and test that are copies of training images; None where all are clean.
        copies: (N,), equal for images that are copies of each other, exact or near; empty with `data.duplicates: off`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()
    clean: NDArray[np.bool_] | None = None
    copies: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Dataset:
    """The images of a run. `test` is for reporting only and never used to choose anything.

    `classes` is the class map: sorted names of the classes of the training images. `summary` holds facts that go to
    JSON as they are: source, layout, split (how it was made), classes, images, train, val, test (numbers of images),
    train_per_class, val_per_class, test_per_class, smallest_class, smallest_class_images, largest_class,
    largest_class_images, not_evaluated (classes without test images), bad_files, ignored, duplicates (near, exact or
    off), conflicts (images left out because they stand in several classes), val_leaked and test_leaked (copies of
    training images), data_hash (sha256 over the images, labels and splits in use) and warnings (sentences).

    `bad` names what was left out and why, `unused` the images that a limit left out, `changes` what is different from
    the saved split that was given.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    summary: dict[str, Any]
    bad: tuple[BadFile, ...] = field(default=())
    unused: tuple[Item, ...] = ()
    changes: Changes = field(default_factory=Changes)

    def write_splits(self, path: Path) -> None:
        """Write `splits.csv`: path, sha256, label, split, group of every image; one that a limit left out is "unused".

        A cell that starts with one of = + - @ gets a ' in front, so that no spreadsheet takes it for a formula;
        `edgewise.data.saved.read_saved` takes it off again.
        """
        rows: list[tuple[str, ...]] = []
        for part, split in zip(PARTS, (self.train, self.val, self.test), strict=True):
            blank = ("",) * len(split)
            facts = zip(split.names, split.sha256 or blank, split.labels, split.groups or blank, strict=True)
            rows += [(name, digest, self.classes[label], part, group) for name, digest, label, group in facts]
        rows += [(item.name, item.sha256, item.label, UNUSED, item.group) for item in self.unused]
        write_csv(path, COLUMNS, rows)

    def write_bad_files(self, path: Path) -> None:
        """Write `bad_files.csv`: path and reason of every file that was left out."""
        write_csv(path, ("path", "reason"), [(file.name, file.reason) for file in self.bad])


def load_data(
    options: DataOptions,
    spec: InputSpec,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    saved: Path | None = None,
    accept_changes: bool = False,
) -> Dataset:
    """Find, read, decode and split the images of a source.

    Args:
        options: where they are and how they are split.
        spec: the pixels the model wants.
        seed: of every draw.
        progress: called in this thread with (images done, images in all); may start over once.
        saved: the `splits.csv` of an earlier run. Every image in it stays where it was; `Dataset.changes` is what is
            different now.
        accept_changes: go on when images were deleted, replaced, relabelled, moved or added since; the new ones are
            given a split.

    Raises:
        ConfigError: C30 a folder that can be read in two ways, C31 a limit below the number of classes.
        DataError: D01 to D16 and D30 to D34, the data cannot be used; see docs/errors.md.
        UnavailableError: E50 a built-in set that is not installed, E51 no room for the decoded images, E52 scipy is
            missing.
    """
    before = None if saved is None else read_saved(saved, accept_changes=accept_changes)
    found = find(options)
    preprocessing = spec.preprocessing()
    contents = found.contents
    if found.scan.layout == "built-in":
        # Nothing can be bad here, so that only the images in use need to be decoded.
        listing = _listing(found, hash_images(contents), options, seed, before)
        contents = [contents[item.index] for item in listing.items]
        with decode_images(contents, preprocessing, progress) as decoded:
            pixels = decoded.arrange(range(len(contents)))
    else:
        with decode_images(contents, preprocessing, progress, options.read_seconds) as decoded:
            listing = _listing(found, decoded.readings, options, seed, before)
            pixels = decoded.arrange([item.index for item in listing.items])
    if decoded.note:
        listing.summary["warnings"].append(decoded.note)
    train, val, test = _cut(listing, pixels)
    facts = listing.summary, listing.bad, listing.unused, listing.changes
    return Dataset(train, val, test, listing.classes, *facts)


def find_images(options: DataOptions, *, seed: int = 0, progress: Progress | None = None) -> Listing:
    """Find, read, check and split the images of a source without keeping pixels; see `load_data`.

    Every file is decoded in full, so that `Listing.bad` names all that `load_data` would leave out.
    """
    found = find(options)
    readings = (hash_images if found.scan.layout == "built-in" else check_images)(
        found.contents, progress, options.read_seconds
    )
    return _listing(found, readings, options, seed)


def _listing(
    found: Found, readings: Sequence[Reading], options: DataOptions, seed: int, saved: Saved | None = None
) -> Listing:
    listing = make_listing(found.scan, readings, options, seed, found.place, saved)
    if found.scan.layout == "built-in" and Path(options.source).exists():
        note = f'"{options.source}" is the built-in set; write ./{options.source} for the folder of that name'
        listing.summary["warnings"].append(note)
    return listing


def _cut(listing: Listing, pixels: NDArray[np.uint8]) -> list[Split]:
    """Consecutive views of the pixels, one for each split."""
    number = {label: index for index, label in enumerate(listing.classes)}
    splits = []
    start = 0
    for part in PARTS:
        items = [item for item in listing.items if item.part == part]
        clean = np.array([not item.copy_of for item in items], dtype=np.bool_)
        splits.append(
            Split(
                images=pixels[start : start + len(items)],
                labels=np.array([number[item.label] for item in items], dtype=np.int64),
                names=tuple(item.name for item in items),
                sha256=tuple(item.sha256 for item in items),
                groups=tuple(item.group for item in items),
                paths=tuple(item.path for item in items if item.path is not None),
                clean=None if clean.all() else clean,
                copies=()
                if listing.copies.mode == "off"
                else tuple(str(listing.copies.unit(item.sha256)) for item in items),
            )
        )
        start += len(items)
    return splits


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically; a cell that a spreadsheet would take for a formula gets a ' in front."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([write_cell(cell) for cell in row] for row in rows)
    write_text(path, stream.getvalue())
