"""How well a classifier decides, and how much better than another on the same images; each figure with its interval.

Shares (accuracy, recall) have Wilson intervals. Macro F1 has no closed form, so its interval is a percentile bootstrap
over images: drawing n images with replacement is drawing the confusion matrix from a multinomial, which needs no loop
over images. Two models are compared on the same images, so their difference is bootstrapped over the distinct triples
(label, this model's answer, the other's), which keeps the pairing and makes the interval as narrow as it truly is.

Macro F1 is the plain mean of the F1 of the classes **that occur in the labels**; a class with no image has no recall
and is left out, and what is wrongly called that class still counts against the classes it was taken from. It equals
``sklearn.metrics.f1_score(labels, predicted, average="macro", labels=numpy.unique(labels), zero_division=0)``.

Where there is no error at all (or, for a difference, no image on which just one of the two is right), every resample is
alike and the bootstrap would claim certainty. There the interval is Wilson's for 0 events, taken at the effective
number of images of a macro average over K classes, ``K^2 / sum(1 / n_k)``, which is n when the classes are balanced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgewise.measure.intervals import RESAMPLES, percentile_bounds, wilson, wilson_bounds
from edgewise.results import Difference, Estimate, Quality

__all__ = ["confusion_matrix", "difference", "macro_f1", "quality", "quality_of_part", "wilson"]

Indices = NDArray[np.int64]

_CHUNK = 2_000_000
"""Resampled counts held at a time: 16 MB."""


def quality(predicted: Indices, labels: Indices, classes: Sequence[str], *, seed: int = 0) -> Quality:
    """Accuracy, macro F1, recall of each class and the confusion matrix, with 95 % intervals.

    Args:
        predicted: int64 (N,), the class each image was called, 0..classes-1.
        labels: int64 (N,), the true class.
        classes: class names in the order of the indices.
        seed: of the bootstrap.

    Raises:
        ValueError: no images, unequal lengths, or an index that is not a class.
    """
    count = len(classes)
    confusion = confusion_matrix(predicted, labels, count)
    correct, support, n = np.diagonal(confusion), confusion.sum(axis=1), len(labels)
    cells = np.argwhere(confusion)
    if int(correct.sum()) == n:
        bounds = (wilson_bounds(1.0, _effective(support))[0], 1.0)
    else:
        f1 = _MacroF1(cells[:, 0], cells[:, 1], count)
        bounds = percentile_bounds(_resample(confusion[tuple(cells.T)], seed, f1))
    recall = {
        name: wilson(int(hits), int(images)) if images else None
        for name, hits, images in zip(classes, correct, support, strict=True)
    }
    return Quality(
        n=n,
        accuracy=wilson(int(correct.sum()), n),
        macro_f1=Estimate(macro_f1(confusion), *bounds, n=n),
        recall=recall,
        confusion=confusion.tolist(),
    )


def quality_of_part(
    predicted: Indices, labels: Indices, classes: Sequence[str], part: NDArray[np.bool_] | None, *, seed: int = 0
) -> Quality | None:
    """`quality` on the images for which `part`, bool (N,), is True; None where that is all or none of them."""
    if part is None or part.all() or not part.any():
        return None
    return quality(predicted[part], labels[part], classes, seed=seed)


def difference(
    predicted: Indices,
    reference_predicted: Indices,
    labels: Indices,
    classes: Sequence[str],
    *,
    reference: str,
    seed: int = 0,
) -> Difference:
    """Accuracy and macro F1 of one model minus those of another, on the same images, with paired 95 % intervals.

    Args:
        predicted: int64 (N,), this model's answers.
        reference_predicted: int64 (N,), the other's.
        labels: int64 (N,), the true classes.
        classes: class names in the order of the indices.
        reference: name of the other model, for the record.
        seed: of the bootstrap.

    Raises:
        ValueError: no images, unequal lengths, or an index that is not a class.
    """
    count, n = len(classes), len(labels)
    f1 = macro_f1(confusion_matrix(predicted, labels, count))
    f1 -= macro_f1(confusion_matrix(reference_predicted, labels, count))
    triples, counts = np.unique(np.stack([labels, predicted, reference_predicted]), axis=1, return_counts=True)
    true, mine, other = triples
    gain = (mine == true).astype(np.int64) - (other == true)
    accuracy = float(gain @ counts) / n
    if not gain.any():
        spread = wilson_bounds(0.0, n)[1]
        macro_spread = wilson_bounds(0.0, _effective(np.bincount(labels)))[1]
        accuracy_bounds = (-spread, spread)
        macro_bounds = (f1 - macro_spread, f1 + macro_spread)
    else:
        of_mine, of_other = _MacroF1(true, mine, count), _MacroF1(true, other, count)

        def both(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
            return np.stack([drawn @ gain / n, of_mine(drawn) - of_other(drawn)], axis=1)

        drawn = _resample(counts, seed, both)
        accuracy_bounds, macro_bounds = percentile_bounds(drawn[:, 0]), percentile_bounds(drawn[:, 1])
    return Difference(
        reference=reference,
        accuracy=Estimate(accuracy, *accuracy_bounds, n=n),
        macro_f1=Estimate(f1, *macro_bounds, n=n),
    )


def confusion_matrix(predicted: Indices, labels: Indices, classes: int) -> NDArray[np.int64]:
    """Counts (true class, called class): int64 (classes, classes).

    Raises:
        ValueError: no images, unequal lengths, or an index that is not a class.
    """
    if len(labels) == 0:
        raise ValueError("quality needs at least one labelled image")
    if labels.ndim != 1 or predicted.shape != labels.shape:
        raise ValueError("labels and predictions are one-dimensional and of equal length")
    if min(labels.min(), predicted.min()) < 0 or max(labels.max(), predicted.max()) >= classes:
        raise ValueError(f"a class index lies outside 0..{classes - 1}")
    flat = np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Mean F1 of the classes that occur in the labels, from counts (true class, called class)."""
    support, called = confusion.sum(axis=1), confusion.sum(axis=0)
    present = support > 0
    return float(np.mean(2 * np.diagonal(confusion)[present] / (support + called)[present]))


class _MacroF1:
    """Macro F1 of many resamples at once, from counts of (true, called) cells."""

    def __init__(self, true: Indices, called: Indices, count: int) -> None:
        self._hits = np.flatnonzero(true == called)
        self._true = _Groups(true, count)
        self._called = _Groups(called, count)
        self._right = _Groups(true[self._hits], count)

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64 (resamples,) of int64 counts (resamples, cells)."""
        support = self._true.sums(counts)
        hits = self._right.sums(counts[:, self._hits])
        total = support + self._called.sums(counts)
        f1 = 2 * hits / np.maximum(total, 1)
        present = support > 0
        mean: NDArray[np.float64] = (f1 * present).sum(axis=1) / present.sum(axis=1)
        return mean


class _Groups:
    """Sums columns that belong to the same class."""

    def __init__(self, group: Indices, count: int) -> None:
        self._order = np.argsort(group, kind="stable")
        self._names, self._starts = np.unique(group[self._order], return_index=True)
        self._count = count

    def sums(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (resamples, classes) of int64 counts (resamples, cells)."""
        summed = np.zeros((len(counts), self._count), dtype=np.int64)
        if len(self._names):
            summed[:, self._names] = np.add.reduceat(counts[:, self._order], self._starts, axis=1)
        return summed


def _resample(
    counts: NDArray[np.int64], seed: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The statistic of `RESAMPLES` multinomial draws of the same number of images."""
    random = np.random.default_rng(seed)
    n = int(counts.sum())
    step = max(1, _CHUNK // len(counts))
    parts = [
        statistic(random.multinomial(n, counts / n, size=min(step, RESAMPLES - start)))
        for start in range(0, RESAMPLES, step)
    ]
    return np.concatenate(parts)


def _effective(support: NDArray[np.int64]) -> float:
    """Images that a plain share would need for the variance of a macro average over classes of these sizes."""
    present = support[support > 0]
    return float(len(present) ** 2 / np.sum(1 / present))
