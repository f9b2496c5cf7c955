"""A picture of what augmentation does: one row per class, the stored image first, then changed ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edgewise.data import Dataset
from edgewise.runs import write_atomic

if TYPE_CHECKING:
    from edgewise.data.augment import Augment

COLUMNS = 6
"""Changed images in each row."""
ROWS = 40
"""Rows at most; of more classes the first are shown."""
CELL = 112
"""Side of a shown image in pixels; smaller ones are enlarged by a whole number, larger ones reduced."""
GAP = 8
LINE = 13
SHOWN_SHARES = 2
"""Label shares written under a mixed image, the largest first."""


def write_preview(dataset: Dataset, augment: Augment, path: Path, seed: int) -> None:
    """Write a PNG contact sheet of augmented training images.

    Each column is one augmented batch with one training image of each class, so that mixing is seen as it happens in
    training. Under a mixed image stand the largest shares of its label; a class that is not augmented says so.

    Args:
        dataset: only `train` is looked at.
        augment: what is shown.
        path: the file; replaced if it is there.
        seed: of the choice of images and of the changes.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(min(len(dataset.classes), ROWS), dtype=np.int64)
    rows = [int(random.choice(np.flatnonzero(dataset.train.labels == label))) for label in labels]
    images = dataset.train.images[rows]
    columns = [(images, ["stored"] * len(rows))]
    for _ in range(COLUMNS):
        changed, targets = augment(images, labels, random)
        columns.append((changed, [_caption(augment, dataset.classes, row, targets) for row in labels.tolist()]))
    sheet = _sheet(columns, dataset.classes)
    write_atomic(path, lambda temporary: sheet.save(temporary, format="PNG"))


def _caption(augment: Augment, classes: tuple[str, ...], row: int, targets: NDArray[np.float32] | None) -> str:
    if row not in augment.changed:
        return "not augmented"
    if targets is None:
        return ""
    percent = np.rint(100 * targets[row]).astype(int)
    largest = np.argsort(-percent, kind="stable")[:SHOWN_SHARES]
    # The share comes first, so that a long name does not push it off the edge.
    return ", ".join(f"{percent[one]} % {classes[one]}" for one in largest.tolist() if percent[one])


def _sheet(columns: list[tuple[NDArray[np.uint8], list[str]]], classes: tuple[str, ...]) -> Image.Image:
    font = ImageFont.load_default(LINE - 2)
    pictures = [[_shown(image) for image in images] for images, _ in columns]
    width, height = pictures[0][0].size
    across, down = max(width, CELL) + GAP, height + 2 * LINE + GAP
    count = len(pictures[0])
    more = f"{len(classes) - count} more classes are not shown" if len(classes) > count else ""
    sheet = Image.new("RGB", (GAP + across * len(columns), GAP + down * count + (LINE + GAP if more else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (_, captions) in enumerate(columns):
        for row, caption in enumerate(captions):
            x, y = GAP + column * across, GAP + row * down
            if column == 0:
                draw.text((x, y), classes[row], "black", font)
            sheet.paste(pictures[column][row], (x, y + LINE))
            draw.text((x, y + LINE + height), _fitted(caption, font, across - 2), "#555555", font)
    draw.text((GAP, GAP + down * count), more, "#555555", font)
    return sheet


def _shown(image: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    side = max(picture.size)
    if side <= CELL:
        return picture.resize(
            (picture.width * (CELL // side), picture.height * (CELL // side)), Image.Resampling.NEAREST
        )
    return picture.resize(
        (max(1, picture.width * CELL // side), max(1, picture.height * CELL // side)), Image.Resampling.BOX
    )


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
