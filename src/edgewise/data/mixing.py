"""Parts of images blanked, and images mixed with each other together with their labels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Targets = NDArray[np.float32]

ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = 10 / 3


def cutout(images: Images, share: float, fill: NDArray[np.uint8], random: np.random.Generator) -> None:
    """Blank one square in each image, in place (DeVries, Taylor 2017, arXiv:1708.04552).

    The middle of the square is any pixel of the image, so that a part of it may lie outside.

    Args:
        images: (N, height, width, channels).
        share: side of the square, as a share of the shorter side.
        fill: (channels,), the value it gets.
        random: the source of the places.
    """
    count, height, width, _ = images.shape
    side = np.full(count, round(share * min(height, width)))
    for image, rows, columns in _boxes(images, side, side, random):
        image[rows, columns] = fill


def erase(images: Images, chance: float, random: np.random.Generator) -> None:
    """Fill a rectangle with uniform noise, in place (random erasing: Zhong et al. 2017, arXiv:1708.04896).

    Its area is 2 to 33 % of the image and its aspect 3:10 to 10:3. It lies inside the image; where it would be longer
    than the image it is cut.

    Args:
        images: (N, height, width, channels).
        chance: probability for each image.
        random: the source of the rectangles.
    """
    chosen = np.flatnonzero(random.random(len(images)) < chance)
    height, width, channels = images.shape[1:]
    area = random.uniform(*ERASED_AREA, len(chosen)) * height * width
    stretch = np.exp(random.uniform(-math.log(ERASED_ASPECT), math.log(ERASED_ASPECT), len(chosen)) / 2)
    tall = np.clip(np.rint(np.sqrt(area) * stretch), 1, height).astype(np.int64)
    wide = np.clip(np.rint(np.sqrt(area) / stretch), 1, width).astype(np.int64)
    top, left = random.integers(0, height - tall + 1), random.integers(0, width - wide + 1)
    for row, y, x, h, w in zip(chosen, top, left, tall, wide, strict=True):
        images[row, y : y + h, x : x + w] = random.integers(0, 256, (h, w, channels), dtype=np.uint8)


def mixup(images: Images, targets: Targets, alpha: float, random: np.random.Generator) -> tuple[Images, Targets]:
    """Blend each image and its target with another of the batch (Zhang et al. 2017, arXiv:1710.09412).

    The share of each image is drawn from Beta(alpha, alpha) and rounded to 256ths, in pixels and target alike.

    Args:
        images: (N, height, width, channels).
        targets: (N, classes), shares that add up to 1.
        alpha: of the distribution; small values leave most images nearly alone.
        random: the source of shares and partners.

    Returns:
        New images and targets.
    """
    partner = random.permutation(len(images))
    parts = np.rint(random.beta(alpha, alpha, len(images)) * 256).astype(np.uint16)
    mixed = np.empty_like(images)
    for row, (other, part) in enumerate(zip(partner, parts, strict=True)):
        # 255 * 256 + 128 still fits into 16 bits.
        total = images[row] * part + images[other] * np.uint16(256 - part) + np.uint16(128)
        mixed[row] = total >> 8
    return mixed, _shared(targets, targets[partner], parts / 256)


def cutmix(images: Images, targets: Targets, alpha: float, random: np.random.Generator) -> tuple[Images, Targets]:
    """Replace a rectangle of each image by that of another of the batch (Yun et al. 2019, arXiv:1905.04899).

    The kept share of the area is drawn from Beta(alpha, alpha), the middle of the rectangle is any pixel, and the
    shares of the target are those of the pixels that are left inside the image.

    Args:
        images: (N, height, width, channels).
        targets: (N, classes), shares that add up to 1.
        alpha: of the distribution; 1 makes all shares equally likely.
        random: the source of rectangles and partners.

    Returns:
        New images and targets.
    """
    count, height, width, _ = images.shape
    partner = random.permutation(count)
    cut = np.sqrt(1 - random.beta(alpha, alpha, count))
    tall, wide = np.rint(cut * height).astype(np.int64), np.rint(cut * width).astype(np.int64)
    mixed = images.copy()
    kept = np.empty(count)
    for row, (image, rows, columns) in enumerate(_boxes(mixed, tall, wide, random)):
        image[rows, columns] = images[partner[row], rows, columns]
        kept[row] = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, _shared(targets, targets[partner], kept)


def one_hot(labels: NDArray[np.int64], classes: int) -> Targets:
    """Float32 (N, classes), 1 at each label."""
    return np.eye(classes, dtype=np.float32)[labels]


def _shared(own: Targets, other: Targets, share: NDArray[np.float64]) -> Targets:
    part = share[:, None]
    return (own * part + other * (1 - part)).astype(np.float32)


def _boxes(
    images: Images, tall: NDArray[np.int64], wide: NDArray[np.int64], random: np.random.Generator
) -> Iterator[tuple[Images, slice, slice]]:
    """Each image with the rows and columns of a box around a random pixel, cut at the border of the image."""
    count, height, width, _ = images.shape
    top = random.integers(0, height, count) - tall // 2
    left = random.integers(0, width, count) - wide // 2
    for image, y, x, h, w in zip(images, top.tolist(), left.tolist(), tall.tolist(), wide.tolist(), strict=True):
        yield image, slice(max(y, 0), max(min(y + h, height), 0)), slice(max(x, 0), max(min(x + w, width), 0))
