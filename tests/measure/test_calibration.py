"""Calibration against hand computations, formulas written otherwise, scipy, and planted truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from edgewise.measure.calibration import COLDEST, calibrate, fit_temperature, log_probabilities, reliability

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def two_classes(confidences: list[float], right: list[bool]) -> tuple[Floats, Labels]:
    """Logits of answers "class 0" with these confidences, and labels that make them right or wrong."""
    logits = np.array([[math.log(share / (1 - share)), 0.0] for share in confidences])
    return logits, np.array([0 if good else 1 for good in right], dtype=np.int64)


def drawn(n: int, classes: int, seed: int, spread: float = 2.5) -> tuple[Floats, Labels]:
    """Logits, and labels drawn by their softmax: calibrated by construction."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (n, classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, np.array([random.choice(classes, p=share) for share in shares], dtype=np.int64)


def ece_otherwise(logits: Floats, labels: Labels, bins: int = 15) -> float:
    """The expected calibration error as torchmetrics writes it (bucketize, scatter), in torch."""
    shares = torch.from_numpy(logits).softmax(dim=1)
    confidence, called = shares.max(dim=1)
    right = (called == torch.from_numpy(labels)).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = torch.bucketize(confidence, edges) - 1
    counts, sure, good = (torch.zeros(bins, dtype=torch.float64) for _ in range(3))
    counts.scatter_add_(0, place, torch.ones_like(confidence))
    sure.scatter_add_(0, place, confidence)
    good.scatter_add_(0, place, right)
    gaps = torch.nan_to_num(sure / counts) - torch.nan_to_num(good / counts)
    return float((gaps.abs() * counts / counts.sum()).sum())


def test_ece_by_hand() -> None:
    # 0.95 and 0.97 lie in (14/15, 1]: mean 0.96, one of two right. 0.62 lies in (9/15, 10/15]: right.
    logits, labels = two_classes([0.95, 0.97, 0.62], [True, False, True])
    found = reliability(logits, labels)
    assert found.ece == pytest.approx((2 * abs(0.96 - 0.5) + 1 * abs(0.62 - 1.0)) / 3)
    assert [(one.n, one.accuracy) for one in found.bins] == [(1, 1.0), (2, 0.5)]
    assert [one.confidence for one in found.bins] == pytest.approx([0.62, 0.96])
    assert [(one.low, one.high) for one in found.bins] == [(9 / 15, 10 / 15), (14 / 15, 1.0)]
    assert found.nll == pytest.approx(-(math.log(0.95) + math.log(0.03) + math.log(0.62)) / 3)
    assert found.gap.value == pytest.approx((0.95 + 0.97 + 0.62) / 3 - 2 / 3)


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 300))
def test_ece_is_that_of_another_implementation(seed: int, classes: int, n: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 3, (n, classes)), random.integers(0, classes, n)
    assert reliability(logits, labels).ece == pytest.approx(ece_otherwise(logits, labels), abs=1e-12)


def test_negative_log_likelihood_is_torchs_cross_entropy() -> None:
    logits, labels = drawn(200, 5, 0)
    for temperature in (0.3, 1.0, 4.0):
        expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits / temperature), torch.from_numpy(labels))
        assert reliability(logits, labels, temperature=temperature).nll == pytest.approx(expected.item())


def test_adaptive_bins_by_hand_and_in_any_order() -> None:
    # 30 images, 15 bins of 2 by rising confidence; every answer is right, so the error is the mean of 1 - confidence.
    confidences = [0.51 + 0.01 * step for step in range(30)]
    found = reliability(*two_classes(confidences, [True] * 30))
    assert found.ece_adaptive == pytest.approx(np.mean([1 - share for share in confidences]))
    # All of one confidence: in whichever order they come, half are right.
    logits, labels = two_classes([0.8] * 40, [True] * 20 + [False] * 20)
    assert reliability(logits, labels).ece_adaptive == pytest.approx(0.3)


@given(st.permutations(range(60)))
def test_no_figure_depends_on_the_order_of_the_images(order: list[int]) -> None:
    logits, labels = drawn(60, 3, 4)
    logits = logits.round(0)  # many equal confidences
    one, other = reliability(logits, labels), reliability(logits[order], labels[order])
    for figure in ("ece", "ece_chance", "ece_adaptive", "nll"):
        assert getattr(one, figure) == pytest.approx(getattr(other, figure), abs=1e-12)


def test_chance_level_holds_for_95_of_100_calibrated_test_sets() -> None:
    """By simulation: calibrated sets stay below their own level in about 95 of 100 cases, over-confident ones never."""
    below = [found.ece <= found.ece_chance for found in (reliability(*drawn(150, 4, seed)) for seed in range(200))]
    assert 0.90 <= np.mean(below) <= 0.99
    spoilt = [reliability(2.5 * logits, labels) for logits, labels in (drawn(150, 4, seed) for seed in range(20))]
    assert all(found.ece > found.ece_chance for found in spoilt)


def test_gap_has_the_sign_of_the_error_and_wilsons_interval() -> None:
    logits, labels = drawn(400, 4, 1)
    over, under = reliability(3 * logits, labels).gap, reliability(logits / 3, labels).gap
    assert over.low > 0 > under.high
    fits = reliability(logits, labels).gap
    assert fits.low < 0 < fits.high
    from edgewise.measure.intervals import wilson

    share = wilson(int((logits.argmax(1) == labels).sum()), 400)
    assert fits.high - fits.low == pytest.approx(share.high - share.low)


@pytest.mark.parametrize("planted", [0.25, 1.0, 1.7, 6.0])
def test_a_planted_temperature_is_recovered(planted: float) -> None:
    logits, labels = drawn(8000, 5, 2)
    temperature, note = fit_temperature((planted * logits).astype(np.float32), labels)
    assert temperature == pytest.approx(planted, rel=0.05)
    assert note == ""


@pytest.mark.parametrize("seed", range(6))
def test_temperature_is_scipys_minimum(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(0, 2, (80, 3)), random.integers(0, 3, 80)
    logits[np.arange(80), labels] += 1

    def loss(inverse: float) -> float:
        return float(-log_probabilities(inverse * logits, labels)[np.arange(80), labels].mean())

    expected = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-12})
    assert 1 / fit_temperature(logits, labels)[0] == pytest.approx(expected.x, rel=1e-5)


@given(st.integers(0, 10_000))
def test_scaling_changes_no_answer_and_never_raises_the_fitted_loss(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 4, (50, 4)).astype(np.float32)
    labels = random.integers(0, 4, 50)
    temperature, _ = fit_temperature(logits, labels)
    assert temperature > 0
    scaled = log_probabilities(logits, labels, temperature)
    assert (scaled.argmax(1) == logits.argmax(1)).all()
    one, other = (reliability(logits, labels, temperature=value).nll for value in (temperature, 1.0))
    assert one <= other + 1e-9


@pytest.mark.parametrize(
    ("logits", "labels", "temperature", "told"),
    [
        ([[3.0, 0.0], [0.0, 0.1]], [0, 1], 1.0, "every validation image is called rightly"),
        ([[1.0, 0.0], [1.0, 0.0]], [1, 1], 1.0, "no more of the validation images than chance"),
        ([[1e-6, 0.0]] * 9 + [[0.0, 1e-7]], [0] * 10, COLDEST, "was held there"),
    ],
)
def test_where_there_is_no_minimum_it_is_said(
    logits: list[list[float]], labels: list[int], temperature: float, told: str
) -> None:
    found, note = fit_temperature(np.array(logits), np.array(labels))
    assert found == temperature
    assert told in note


def test_temperature_is_fitted_on_one_set_and_judged_on_the_other() -> None:
    (val, val_labels), (test, test_labels) = drawn(2000, 4, 5), drawn(1500, 4, 6)
    found = calibrate(2 * val, val_labels, 2 * test, test_labels)
    assert found.temperature == fit_temperature(2 * val, val_labels)[0]
    assert (found.fitted_on, found.before.n, found.after.n) == (2000, 1500, 1500)
    assert found.fitted_errors == int((val.argmax(1) != val_labels).sum())
    assert found.before == reliability(2 * test, test_labels)
    assert found.after == reliability(2 * test, test_labels, temperature=found.temperature)
    assert found.after.ece < found.before.ece / 3
    assert found.after.nll < found.before.nll


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)), (np.zeros((4, 3)), np.zeros(3, dtype=np.int64))],
)
def test_wrong_shapes_are_refused(logits: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match="calibration needs logits"):
        reliability(logits, labels)
