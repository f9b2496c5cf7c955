"""Contact sheets of a checked data set: small pictures per class and per problem, for the eye to judge."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from PIL import Image

from edgewise.data.check import DataReport, ImageFacts
from edgewise.data.sources import find
from edgewise.device import preprocess
from edgewise.recipe import DataOptions
from edgewise.report.data_page import Sheet, Tile

SIDE = 120
"""Longer side of a picture in pixels."""

PER_CLASS = 16
"""Pictures of each class, spread evenly over its names."""

PER_PROBLEM = 48
"""Pictures, or clusters of copies, of each problem."""

_PER_CLUSTER = 6


def contact_sheets(report: DataReport, options: DataOptions) -> list[Sheet]:
    """The sheets of a report: conflicts, leaks, bad, blurry, dark, copies, then one for each class.

    Args:
        report: of `check_data`.
        options: those it was made with; the images are read again from there.
    """
    draw = _Pencil(report, options)
    by_name = {image.name: image for image in report.images}
    sheets = [
        _grouped(draw, report, "conflict", "The same image in several classes", "One of the labels is wrong."),
        _grouped(draw, report, "near conflict", "Near copies in two classes", "Look whether a label is wrong."),
        Sheet(
            "Copies of training images in other splits",
            "Each beside the training image that it is a copy of: = identical, ~ alike.",
            [
                [draw(by_name[leak.name], f"{leak.part} {'=' if leak.exact else '~'}"), draw(by_name[leak.of], "train")]
                for leak in report.leaks[:PER_PROBLEM]
            ],
            max(0, len(report.leaks) - PER_PROBLEM),
        ),
        _single(draw, report.flagged("bad"), "Files that cannot be used", "With the reason.", lambda one: one.problem),
        _single(
            draw,
            sorted(report.flagged("blurry"), key=lambda one: one.sharpness),
            "Blurry images",
            "Least sharp first; the figure is the variance of the Laplacian.",
            lambda one: f"{one.sharpness:,.1f}",
        ),
        _single(
            draw,
            sorted(report.flagged("dark"), key=lambda one: one.luminance),
            "Dark images",
            "Darkest first; the figure is the mean luminance of 255.",
            lambda one: f"{one.luminance:.1f}",
        ),
        _clusters(draw, report),
    ]
    for label in report.facts["per_class"]:
        own = [image for image in report.images if image.label == label and not image.problem]
        step = max(1, len(own) // PER_CLASS)
        tiles = [draw(image, image.part) for image in own[::step][:PER_CLASS]]
        sheets.append(Sheet(f"Class {label}", f"{len(tiles)} of {len(own):,} images.", [tiles]))
    return [sheet for sheet in sheets if any(sheet.groups)]


class _Pencil:
    """Draws the picture of an image; a file that cannot be read any more has none."""

    def __init__(self, report: DataReport, options: DataOptions) -> None:
        self._arrays: dict[str, Any] = {}
        if report.facts["layout"] == "built-in":
            found = find(options)
            self._arrays = {e.name: c for e, c in zip(found.scan.entries, found.contents, strict=True)}

    def __call__(self, image: ImageFacts, remark: str) -> Tile:
        return Tile(self._jpeg(image), image.name, remark)

    def _jpeg(self, image: ImageFacts) -> bytes:
        if image.problem or (image.path is None and image.name not in self._arrays):
            return b""
        try:
            with warnings.catch_warnings():  # of odd metadata, which was read without complaint before
                warnings.simplefilter("ignore")
                picture = preprocess.open_image(image.path) if image.path else Image.fromarray(self._arrays[image.name])
                picture = preprocess.to_mode(picture, 3)
        except preprocess.BadImage:
            return b""
        picture.thumbnail((SIDE, SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        return stream.getvalue()


def _single(
    draw: _Pencil, images: Sequence[ImageFacts], title: str, about: str, remark: Callable[[ImageFacts], str]
) -> Sheet:
    tiles = [draw(image, remark(image)) for image in images[:PER_PROBLEM]]
    return Sheet(title, about, [tiles] if tiles else [], max(0, len(images) - PER_PROBLEM))


def _grouped(draw: _Pencil, report: DataReport, flag: str, title: str, about: str) -> Sheet:
    """Images with a flag, each cluster of copies together."""
    groups = defaultdict(list)
    for image in report.flagged(flag):
        groups[image.cluster].append(image)
    shown = [
        [draw(image, image.label) for image in group[:_PER_CLUSTER]] for group in islice(groups.values(), PER_PROBLEM)
    ]
    return Sheet(title, about, shown, max(0, len(groups) - PER_PROBLEM))


def _clusters(draw: _Pencil, report: DataReport) -> Sheet:
    groups = defaultdict(list)
    for image in report.images:
        if image.cluster:
            groups[image.cluster].append(image)
    shown = [
        [draw(image, f"{image.label} {image.part}".strip()) for image in group[:_PER_CLUSTER]]
        for _, group in islice(sorted(groups.items()), PER_PROBLEM)
    ]
    about = (
        f"Each row is a cluster of identical or alike images, the largest first; up to {_PER_CLUSTER} of it are shown."
    )
    return Sheet("Copies", about, shown, max(0, len(groups) - PER_PROBLEM))
