"""Calibration that never sees a test image, and what an int8 file lost, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels, Scores
from edgewise.errors import ExportError

SHOWN = 3
"""Classes named in a reason."""


def apart(images: Pixels, test: Pixels) -> Pixels:
    """Calibration images without those that are a test image too, pixel for pixel (copies across given splits).

    Raises:
        ExportError: none is left.
    """
    known = {image.tobytes() for image in test}
    kept = [index for index, image in enumerate(images) if image.tobytes() not in known]
    if not kept:
        raise ExportError(
            "every calibration image is a test image",
            code="X61",
            where={"images": str(len(images))},
            why="the training split holds copies of the test split",
            fix="`edgewise data check DATA` lists the copies; remove them, or raise export.calibration_images",
        )
    return images[kept]


def what_was_lost(before: Scores, after: Scores, labels: NDArray[np.int64], classes: Sequence[str]) -> str:
    """In words: whether an int8 file answers with one class, and the recall of the classes that lost most.

    Args:
        before: float32 (N, classes), the fp32 file's logits. after: the same of the int8 file.
        labels: int64 (N,), the true classes.
    """
    was, now = before.argmax(1), after.argmax(1)
    answers = np.bincount(now, minlength=len(classes))
    parts = []
    if answers.max() == len(now) and len(np.unique(was)) > 1:
        parts.append(f'it answers "{classes[int(answers.argmax())]}" to every image')
    there = [index for index in range(len(classes)) if (labels == index).any()]
    recall = {index: [float((said[labels == index] == index).mean()) for said in (was, now)] for index in there}
    worst = sorted(there, key=lambda index: recall[index][1] - recall[index][0])[:SHOWN]
    fell = [f"{classes[i]} {recall[i][0]:.0%} -> {recall[i][1]:.0%}" for i in worst if recall[i][1] < recall[i][0]]
    if fell:
        parts.append("recall fell most for " + ", ".join(fell))
    return "; ".join(parts)
