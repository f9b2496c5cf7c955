"""Which training images an epoch is made of, and how much each class weighs. No torch here."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def epoch_rows(labels: Rows, how: Literal["natural", "balanced"], random: np.random.Generator) -> Rows:
    """The rows of one epoch in random order.

    Args:
        labels: int64 (N,), classes of the training images.
        how: "natural" takes each image once. "balanced" takes as many of each class that occurs: N / classes, one more
            for some classes that are drawn where this is no whole number. All images of a class are used before one is
            used again, so that those of a small class come equally often within one, and a large class gives another
            part of itself each time.
        random: the source of order and choice.

    Returns:
        int64 (N,), indices into `labels`.
    """
    if how == "natural":
        return random.permutation(len(labels))
    present = random.permutation(np.unique(labels))
    share, left = divmod(len(labels), len(present))
    chosen = []
    for place, label in enumerate(present):
        rows = np.flatnonzero(labels == label)
        whole, part = divmod(share + (place < left), len(rows))
        chosen += [np.tile(rows, whole), random.permutation(rows)[:part]]
    return random.permutation(np.concatenate(chosen))


def class_weights(labels: Rows, classes: int) -> NDArray[np.float32]:
    """Weights by which rare classes count as much as frequent ones: images / (classes * images of the class).

    The mean weight of an image is 1 (King, Zeng 2001, Logistic Regression in Rare Events Data).

    Args:
        labels: int64 (N,), 0..classes-1.
        classes: number of classes.

    Returns:
        float32 (classes,).

    Raises:
        ValueError: a class has no image.
    """
    counts = np.bincount(labels, minlength=classes)
    if counts.min() == 0:
        raise ValueError(f"class {int(counts.argmin())} has no image")
    return (len(labels) / (classes * counts)).astype(np.float32)
