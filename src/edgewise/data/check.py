"""What is known of a data set before anything is trained on it: `edgewise data check`.

Every image is read and decoded once. Of each are kept its size, mode and format, two figures, and its look:

- *sharpness* is the variance of the 4-neighbour Laplacian of the gray image, whose longer side is first brought to 256
  pixels where it is larger. An image is *blurry* when its sharpness is below `data.check.blurry` (0.1) times the median
  of the set: what is normal differs from set to set, and a set of soft images is not a set of bad ones.
- *luminance* is the mean of the gray image, 0..255 (ITU-R 601). An image is *dark* below `data.check.dark` (40).

Copies are found as for a run (`edgewise.data.copies`), except that built-in sets are searched for near copies too.
Nothing is left out here: the report tells what a run would leave out, or why it would stop.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgewise.data.copies import (
    Copies,
    Labelled,
    Leak,
    conflicts,
    find_copies,
    leaks,
    near_conflicts,
    refuse_conflicts,
    refuse_leaks,
)
from edgewise.data.listing import Listing, check_bad, make_listing
from edgewise.data.pool import Content, Progress, each
from edgewise.data.read import Reading, digest_of, read_with
from edgewise.data.saved import UNUSED
from edgewise.data.scan import PARTS, BadFile, Scan
from edgewise.data.similar import look
from edgewise.data.sources import Found, find
from edgewise.device import preprocess
from edgewise.errors import ConfigError, DataError
from edgewise.recipe import DataOptions

FLAGS = (
    *("bad", "truncated", "blurry", "dark", "exact copy", "near copy"),
    *("leak", "conflict", "near conflict"),
)
"""What an image may be marked with."""

SHARP_SIDE = 256
"""Longer side, in pixels, at which sharpness is taken."""


@dataclass(frozen=True)
class ImageFacts:
    """One image of a set.

    Attributes:
        name: relative to the data root.
        path: the file; None for built-in sets.
        label: its class.
        part: the split that the data names or that a run would draw; "" where neither is known.
        sha256: of the file; "" where it could not be read.
        problem: why it cannot be used, "" for a usable one. The rest is 0 or "" where there is one.
        format, mode: of the file.
        width, height: in pixels, upright.
        sharpness: variance of the Laplacian.
        luminance: mean gray level, 0..255.
        cluster: number of the cluster of copies it belongs to, 0 for none.
        flags: see `FLAGS`.
    """

    name: str
    path: Path | None
    label: str
    part: str = ""
    sha256: str = ""
    problem: str = ""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    sharpness: float = 0.0
    luminance: float = 0.0
    cluster: int = 0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Attributes:
        images: every image, sorted by name.
        leaks: images of val and test with a copy in train.
        conflicts: names with labels of each identical image under several labels.
        near_conflicts: pairs of near copies under two labels.
        across: clusters of copies that lie in several splits, names with splits.
        facts: plain data for JSON: counts per class and split, imbalance (largest class over smallest), too_small
            classes, sizes, modes, formats, median_sharpness, limits, the number of images with each flag, leakage of
            each split, warnings of a run, and would_stop: the error that a run would stop with, or None.
        place: where the data is.
    """

    images: tuple[ImageFacts, ...]
    leaks: tuple[Leak, ...]
    conflicts: tuple[tuple[str, ...], ...]
    near_conflicts: tuple[tuple[str, ...], ...]
    across: tuple[tuple[str, ...], ...]
    facts: dict[str, Any]
    place: str

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        images = [{**dataclasses.asdict(image), "flags": list(image.flags)} for image in self.images]
        for image in images:
            del image["path"]
        return {
            **self.facts,
            "conflicts": [list(group) for group in self.conflicts],
            "near_conflicts": [list(group) for group in self.near_conflicts],
            "leaks": [dataclasses.asdict(leak) for leak in self.leaks],
            "across_splits": [list(group) for group in self.across],
            "images": images,
        }

    def flagged(self, flag: str) -> list[ImageFacts]:
        """The images with a flag."""
        return [image for image in self.images if flag in image.flags]


def check_data(options: DataOptions, *, seed: int = 0, progress: Progress | None = None) -> DataReport:
    """Look at every image of a source.

    Args:
        options: where they are, and the limits `check`; `strict` is not looked at.
        seed: of the split that a run would draw.
        progress: called in this thread with (images done, images in all).

    Raises:
        ConfigError: C30 a folder that can be read in two ways.
        DataError: D01 to D04, D11 to D13, D15, D16 the source cannot be listed; D33 reading a file stands still.
        UnavailableError: E50 a built-in set that is not installed, E52 scipy is missing.
    """
    found = find(options)
    contents = found.contents
    seen = each(contents, lambda index: _examine(contents[index]), progress, options.read_seconds)
    readings = [reading for reading, _ in seen]
    copies = find_copies({one.sha256: one.look for one in readings if not one.problem}, options.duplicates)
    listing, stop = _as_a_run(found, readings, options, seed)
    images = _images(found.scan, seen, listing)
    usable = [image for image in images if not image.problem]
    torn = [] if copies.mode == "off" else conflicts(usable)
    near = near_conflicts(usable, copies)
    leaked = leaks(usable, copies)
    clusters = _clusters(usable, copies)
    flags = _flags(images, options, copies, clusters)
    for flag, names in (
        ("leak", {leak.name for leak in leaked}),
        ("conflict", {item.name for group in torn for item in group}),
        ("near conflict", {item.name for pair in near for item in pair}),
    ):
        flags[flag] = names
    number = {image.name: place for place, group in enumerate(clusters, start=1) for image in group}
    marked = tuple(
        dataclasses.replace(
            image,
            cluster=number.get(image.name, 0),
            flags=tuple(flag for flag, names in flags.items() if image.name in names),
        )
        for image in sorted(images, key=lambda image: (image.name, image.label))
    )
    told: list[str] = listing.summary["warnings"] if listing else list(found.scan.warnings)
    facts = _summary(marked, found.scan, options) | {"warnings": told, "would_stop": stop}
    return DataReport(
        images=marked,
        leaks=tuple(leaked),
        conflicts=tuple(_told(group, "label") for group in torn),
        near_conflicts=tuple(_told(pair, "label") for pair in near),
        across=tuple(_told(group, "part") for group in clusters if len({image.part for image in group}) > 1),
        facts=facts,
        place=found.place,
    )


def require_clean(report: DataReport, options: DataOptions) -> None:
    """Refuse data with conflicts, leakage, or more bad files than `max_bad`, or that a run would refuse.

    Raises:
        DataError: D30 conflicts, D31 leakage, D07 too many bad files, D35 anything else that a run would stop for.
    """
    refuse_conflicts(report.conflicts, report.place)
    refuse_leaks(report.leaks, report.place)
    check_bad(
        [BadFile(image.name, image.problem) for image in report.flagged("bad")],
        len(report.images),
        options,
        report.place,
    )
    stop = report.facts["would_stop"]
    if stop:
        raise DataError(
            "a run would stop on this data",
            code="D35",
            where={"folder": report.place},
            why=f"{stop['error']}: {stop['what']}\n{stop['why']}".strip(),
            fix=stop["fix"],
        )


def sharpness(gray: Image.Image) -> float:
    """Variance of the 4-neighbour Laplacian of a gray image whose longer side is at most `SHARP_SIDE`."""
    scale = SHARP_SIDE / max(gray.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in gray.size)
        gray = gray.resize((width, height), Image.Resampling.BILINEAR)
    levels = np.asarray(gray, dtype=np.int16)
    if min(levels.shape) < 3:
        return 0.0
    around = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return float((around - 4 * levels[1:-1, 1:-1]).var(dtype=np.float64))


@dataclass(frozen=True)
class _Figures:
    width: int
    height: int
    mode: str
    sharpness: float
    luminance: float


def _examine(content: Content) -> tuple[Reading, _Figures | None]:
    def use(image: Image.Image) -> tuple[bytes, _Figures]:
        gray = preprocess.to_mode(image, 1)
        light = float(np.asarray(gray).mean())
        return look(image), _Figures(image.width, image.height, image.mode, sharpness(gray), light)

    if isinstance(content, Path):
        reading, made = read_with(content, use)
    else:
        reading, made = digest_of(content), use(Image.fromarray(content))
    return (dataclasses.replace(reading, look=made[0]), made[1]) if made else (reading, None)


def _as_a_run(
    found: Found, readings: Sequence[Reading], options: DataOptions, seed: int
) -> tuple[Listing | None, dict[str, Any] | None]:
    """What a run would make of the images, or the error that it would stop with."""
    try:
        lenient = options.model_copy(update={"strict": False})
        return make_listing(found.scan, readings, lenient, seed, found.place), None
    except (ConfigError, DataError) as problem:
        return None, problem.as_dict()


def _images(scan: Scan, seen: Sequence[tuple[Reading, _Figures | None]], listing: Listing | None) -> list[ImageFacts]:
    images = [ImageFacts(bad.name, None, "", problem=bad.reason) for bad in scan.bad]
    for entry, part, (reading, figures) in zip(scan.entries, _parts(scan, listing), seen, strict=True):
        image = ImageFacts(
            entry.name, entry.path, entry.label, part, reading.sha256, problem=reading.problem, format=reading.kind
        )
        images.append(dataclasses.replace(image, **dataclasses.asdict(figures)) if figures else image)
    return images


def _parts(scan: Scan, listing: Listing | None) -> list[str]:
    """The split of each entry: that of a run, else the one that the data names."""
    drawn: dict[int, str] = {}
    if listing:
        drawn = {item.index: item.part for item in listing.items}
        drawn |= dict.fromkeys((item.index for item in listing.unused), UNUSED)
    return [drawn.get(index, entry.part or "") for index, entry in enumerate(scan.entries)]


def _clusters(images: Sequence[ImageFacts], copies: Copies) -> list[list[ImageFacts]]:
    """Images that are copies of each other, identical or alike, the largest cluster first."""
    groups: dict[str | int, list[ImageFacts]] = defaultdict(list)
    for image in images:
        unit = copies.unit(image.sha256)
        if unit is not None:
            groups[unit].append(image)
    found = [sorted(group, key=lambda image: image.name) for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group[0].name))


def _flags(
    images: Sequence[ImageFacts], options: DataOptions, copies: Copies, clusters: Sequence[Sequence[ImageFacts]]
) -> dict[str, set[str]]:
    """Flag -> names of the images that have it, but for what needs labels and splits."""
    usable = [image for image in images if not image.problem]
    limit = options.check.blurry * _median(usable)
    alike = [image for group in clusters for image in group]
    counts = Counter(image.sha256 for image in alike)
    return {
        "bad": {image.name for image in images if image.problem},
        "truncated": {image.name for image in images if "truncated" in image.problem},
        "blurry": {image.name for image in usable if image.sharpness < limit},
        "dark": {image.name for image in usable if image.luminance < options.check.dark},
        "exact copy": {image.name for image in alike if counts[image.sha256] > 1},
        "near copy": {image.name for image in alike if image.sha256 in copies.near},
    }


def _median(images: Sequence[ImageFacts]) -> float:
    return statistics.median(image.sharpness for image in images) if images else 0.0


def _told(images: Iterable[Labelled], key: str) -> tuple[str, ...]:
    return tuple(f"{image.name} ({getattr(image, key)})" for image in images)


def _summary(images: Sequence[ImageFacts], scan: Scan, options: DataOptions) -> dict[str, Any]:
    usable = [image for image in images if not image.problem]
    total = Counter(image.label for image in usable)
    placed = Counter((image.label, image.part) for image in usable)
    per_class = {
        label: {"images": total[label], **{part: placed[label, part] for part in PARTS}}
        for label in sorted({image.label for image in images if image.label})
    }
    flags = Counter(flag for image in images for flag in image.flags)
    leakage = {}
    for part in PARTS[1:]:
        own = [image for image in usable if image.part == part]
        leaked = sum("leak" in image.flags for image in own)
        leakage[part] = {"images": len(own), "copies": leaked, "share": leaked / len(own) if own else 0.0}
    pixels = sorted(((image.width, image.height) for image in usable), key=lambda size: size[0] * size[1])
    counted = Counter(f"{width} x {height}" for width, height in pixels)
    return {
        "source": options.source,
        "layout": scan.layout,
        "given_splits": sorted({entry.part for entry in scan.entries if entry.part}),
        "images": len(images),
        "usable": len(usable),
        "ignored": scan.ignored,
        "classes": len(total),
        "per_class": per_class,
        "imbalance": max(total.values()) / min(total.values()) if total else 0.0,
        "too_small": [label for label in per_class if total[label] < options.check.small_class],
        "smallest_size": list(pixels[0]) if pixels else [],
        "largest_size": list(pixels[-1]) if pixels else [],
        "sizes": dict(counted.most_common(10)),
        "different_sizes": len(counted),
        "modes": dict(Counter(image.mode for image in usable).most_common()),
        "formats": dict(Counter(image.format for image in usable if image.format).most_common()),
        "median_sharpness": _median(usable),
        "limits": {"max_bad": options.max_bad, **options.check.model_dump()},
        "flags": {flag: flags[flag] for flag in FLAGS},
        "leakage": leakage,
        "duplicates": options.duplicates,
    }
