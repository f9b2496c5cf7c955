"""Whether a confidence means what it says, and the one number that mends it: the temperature.

The confidence of an answer is the largest softmax probability. A model is calibrated when, of the answers given with
90 % confidence, 90 % are right. How far it is from that is told by the expected calibration error (Naeini, Cooper,
Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015) and by its sign, mean confidence
minus accuracy.

Temperature scaling (Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017,
arXiv:1706.04599) divides the logits by one number T > 0, fitted on validation images. No answer changes by it, only the
confidence. The negative log likelihood is convex in 1/T, so that its derivative has one root at most, which Newton's
steps inside a shrinking bracket find.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgewise.measure.intervals import RESAMPLES, wilson
from edgewise.results import Bin, Calibration, Estimate, Reliability

BINS = 15
"""Bins of the expected calibration error, as in Guo et al."""

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures that are looked at."""

_STEPS = 100
_SETTLED = 1e-10

Floats = NDArray[np.float64]


def calibrate(
    fit_logits: NDArray[np.floating],
    fit_labels: NDArray[np.int64],
    logits: NDArray[np.floating],
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
) -> Calibration:
    """Fit a temperature on one set of images and tell the reliability on another, before and after.

    Args:
        fit_logits: float (M, classes), of the validation images.
        fit_labels: int64 (M,), their classes.
        logits: float (N, classes), of the test images; nothing is fitted to them.
        labels: int64 (N,), their classes.
        seed: of the draws behind `ece_chance`.

    Raises:
        ValueError: no images, or shapes that do not fit each other.
    """
    temperature, note = fit_temperature(fit_logits, fit_labels)
    return Calibration(
        temperature=temperature,
        fitted_on=len(fit_labels),
        fitted_errors=int((fit_logits.argmax(axis=1) != fit_labels).sum()),
        note=note,
        before=reliability(logits, labels, seed=seed),
        after=reliability(logits, labels, temperature=temperature, seed=seed),
    )


def reliability(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0, seed: int = 0
) -> Reliability:
    """Calibration error, negative log likelihood and reliability bins of logits divided by a temperature.

    The interval of `gap` is Wilson's of the accuracy, at the confidences given.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).
        temperature: above 0.
        seed: of the draws behind `ece_chance`.

    Raises:
        ValueError: no images, or shapes that do not fit each other.
    """
    logs = log_probabilities(logits, labels, temperature)
    confidence = np.exp(logs.max(axis=1))
    right = logs.argmax(axis=1) == labels
    bins = _bins(confidence, right)
    accuracy, mean = wilson(int(right.sum()), len(right)), float(confidence.mean())
    return Reliability(
        n=len(right),
        ece=float(_error([one.n for one in bins], [one.confidence - one.accuracy for one in bins])),
        ece_chance=_chance(bins, seed),
        ece_adaptive=_adaptive(confidence, right),
        nll=float(-logs[np.arange(len(labels)), labels].mean()),
        gap=Estimate(mean - accuracy.value, mean - accuracy.high, mean - accuracy.low, accuracy.n),
        bins=bins,
    )


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> tuple[float, str]:
    """The temperature of the least negative log likelihood.

    There is none where every image is called rightly (the likelihood grows for ever as T falls), nor where the logits
    say no more than chance (it grows for ever as T rises). The temperature is 1 then.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).

    Returns:
        The temperature, and why it is 1 where it could not be fitted, else "".

    Raises:
        ValueError: no images, or shapes that do not fit each other.
    """
    scores = _checked(logits, labels)
    scores -= scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(labels)), labels]
    low, high = 1 / HOTTEST, 1 / COLDEST
    if not true.any():  # the true class has the largest logit of every image
        return 1.0, "not fitted: every validation image is called rightly"
    if _slope(scores, true, low)[0] >= 0:
        return 1.0, "not fitted: the logits say no more of the validation images than chance"
    if _slope(scores, true, high)[0] <= 0:
        return COLDEST, f"the temperature is below {COLDEST} and was held there"
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = _slope(scores, true, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _SETTLED * inverse:
            break
        inverse = following
    return 1 / inverse, ""


def log_probabilities(logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float = 1.0) -> Floats:
    """The logarithm of the softmax of logits / temperature, float64 (N, classes).

    Raises:
        ValueError: no images, or shapes that do not fit each other.
    """
    scores = _checked(logits, labels) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return scores


def _checked(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"calibration needs logits (N, classes) and labels (N,), not {logits.shape}, {labels.shape}")
    return logits.astype(np.float64)


def _slope(scores: Floats, true: Floats, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log likelihood by 1/T."""
    weights = np.exp(inverse * scores)
    weights /= weights.sum(axis=1, keepdims=True)
    means = (weights * scores).sum(axis=1)
    variances = (weights * scores**2).sum(axis=1) - means**2
    return float((means - true).mean()), float(variances.mean())


def _bins(confidence: Floats, right: NDArray[np.bool_]) -> list[Bin]:
    """The equal-width bins that hold images."""
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    return [
        Bin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            n=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for index in np.unique(place)
        for inside in [place == index]
    ]


def _error(counts: list[int], gaps: list[float] | Floats) -> Floats:
    """The mean of |confidence - accuracy| over images; `gaps` may have further axes in front."""
    mean: Floats = np.abs(np.asarray(gaps)) @ np.asarray(counts) / sum(counts)
    return mean


def _chance(bins: list[Bin], seed: int) -> float:
    """The 95th percentile of the error that a perfectly calibrated model of these confidences shows by chance.

    Consistency resampling (Broecker, Smith: Increasing the Reliability of Reliability Diagrams, 2007): the answers of
    each bin are drawn to be right as often as their mean confidence says.
    """
    counts = np.array([one.n for one in bins])
    confidence = np.clip([one.confidence for one in bins], 0, 1)
    drawn = np.random.default_rng(seed).binomial(counts, confidence, size=(RESAMPLES, len(bins)))
    return float(np.percentile(_error(counts.tolist(), confidence - drawn / counts), 95))


def _adaptive(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """The calibration error over bins of equally many images (Nguyen, O'Connor: EMNLP 2015, arXiv:1508.05154).

    Images of one confidence share their mean correctness, so that the order of the images does not matter.
    """
    _, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    shared = (np.bincount(place, weights=right) / counts)[place]
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [float(confidence[part].mean() - shared[part].mean()) for part in parts]
    return float(_error([len(part) for part in parts], gaps))
