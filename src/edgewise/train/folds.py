"""K-fold cross-validation: cutting train and validation images into folds, and what the figures of the folds say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.data import Dataset, Split
from edgewise.data.split import unite
from edgewise.errors import ConfigError

Indices = NDArray[np.int64]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Spread:
    """What K folds say of a figure: mean, standard deviation (K - 1 degrees of freedom) and the 95 % t interval."""

    mean: float
    sd: float
    low: float
    high: float
    folds: int


def spread(values: Sequence[float]) -> Spread:
    """Sum up a figure of 0..1 over at least two folds; the interval is cut at 0 and 1.

    The folds share most of their training images, so that their figures are not independent and the interval is
    somewhat too narrow (Bengio, Grandvalet: No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004).
    """
    from scipy import stats

    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * sd / len(values) ** 0.5
    return Spread(mean, sd, max(0.0, mean - half), min(1.0, mean + half), len(values))


def assign_folds(labels: Indices, units: Indices, folds: int, seed: int) -> Indices:
    """The fold, 0..folds-1, in which each image is validated.

    Args:
        labels: (N,), class of each image; each class has at least `folds` units.
        units: (N,), images of one unit go to one fold; see `edgewise.data.split.unite`.
        folds: how many, 2 or more.
        seed: of the draw.

    Returns:
        (N,) int64. Where every unit is a single image, each class is within one image of its even share in each fold.
        Larger units are placed greedily by scikit-learn's StratifiedGroupKFold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    alone = len(np.unique(units)) == len(units)
    kind = StratifiedKFold if alone else StratifiedGroupKFold
    result = np.zeros(len(labels), dtype=np.int64)
    cuts = kind(folds, shuffle=True, random_state=seed).split(labels, labels, None if alone else units)
    for number, (_, val) in enumerate(cuts):
        result[val] = number
    return result


def cut_folds(dataset: Dataset, folds: int, seed: int) -> Iterator[Dataset]:
    """The data set of each fold: a share of train and validation images to validate, the others to learn from.

    Copies (exact ones, and near ones where they were looked for) and groups stay in one fold; `test` stays as it is.
    The images of a fold are copied into memory when it is its turn.

    Raises:
        ConfigError: C50, a class has too few images for so many folds; copies and groups count once. Raised before the
            first fold is given.
    """
    train, val = dataset.train, dataset.val
    labels = np.concatenate([train.labels, val.labels])
    copies = [value or None for part in (train, val) for value in part.copies or part.sha256 or ("",) * len(part)]
    groups = [value or None for part in (train, val) for value in part.groups or ("",) * len(part)]
    units = unite(copies, groups)
    for label, name in enumerate(dataset.classes):
        count = len(np.unique(units[labels == label]))
        if count < folds:
            raise _too_few(folds, f'class "{name}" has {count} images for training and validation')
    places = assign_folds(labels, units, folds, seed)
    for number in range(folds):
        if len(np.unique(labels[places != number])) < len(dataset.classes) or number not in places:
            raise _too_few(folds, "large groups leave a fold without images, or without a class to learn from")
    return (
        dataclasses.replace(
            dataset, train=_taken(train, val, places != number), val=_taken(train, val, places == number)
        )
        for number in range(folds)
    )


def _too_few(folds: int, why: str) -> ConfigError:
    return ConfigError(
        f"{folds} folds cannot be cut",
        code="C50",
        where={"key": "train.folds"},
        why=f"{why} (copies and groups count once)",
        fix="choose fewer folds, or add images of that class; each fold needs some to learn from and some to validate",
    )


def _taken(train: Split, val: Split, wanted: NDArray[np.bool_]) -> Split:
    """The wanted images of both splits in one; `wanted` is (train + val,)."""
    cut = len(train)
    rows = np.flatnonzero(wanted).tolist()

    def pick(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
        both = first + second
        return tuple(both[row] for row in rows) if len(both) == len(wanted) else ()

    return Split(
        images=np.concatenate([train.images[wanted[:cut]], val.images[wanted[cut:]]]),
        labels=np.concatenate([train.labels[wanted[:cut]], val.labels[wanted[cut:]]]),
        names=pick(train.names, val.names),
        sha256=pick(train.sha256, val.sha256),
        copies=pick(train.copies, val.copies),
        groups=pick(train.groups, val.groups),
        paths=pick(train.paths, val.paths),
    )
