"""The threshold below which an answer is unknown: exact tails, and a promise that is kept over many validation sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from edgewise.device.preprocess import softmax
from edgewise.measure.calibration import fit_temperature
from edgewise.measure.decision import RISK, Answers, answered, choose, decide, enough, tail

ASKED = 0.95
SETS = 200


def answers(confidence: object, right: object) -> Answers:
    return Answers(np.asarray(confidence, np.float32), np.asarray(right, np.bool_))


@pytest.mark.parametrize("count", [1, 5, 59, 400, 5000])
@pytest.mark.parametrize("rate", [0.5, 0.05, 0.001])
def test_the_tail_is_that_of_the_binomial_distribution(count: int, rate: float) -> None:
    for errors in {0, 1, 3, count // 20, count // 2, count}:
        assert tail(min(errors, count), count, rate) == pytest.approx(stats.binom.cdf(errors, count, rate), rel=1e-9)


def test_the_test_is_clopper_and_pearsons_bound() -> None:
    """A p-value of 5 % is where the one-sided 95 % bound of the precision touches the one asked for."""
    for errors in (0, 1, 2, 7, 40):
        least = enough(errors, ASKED)
        bounds = [stats.beta.ppf(RISK, count - errors, errors + 1) for count in (least - 1, least)]
        assert bounds[0] < ASKED <= bounds[1]
    assert [enough(errors, ASKED) for errors in (0, 1, 2)] == [59, 93, 124]


def test_too_few_images_give_no_threshold_and_say_how_many_it_takes() -> None:
    threshold, note = choose(answers(np.linspace(0.5, 1, 58), [True] * 58), ASKED)
    assert threshold is None
    assert "58 validation images are too few to show 95.0%; it takes 59 answers without a mistake" in note
    assert choose(answers(np.linspace(0.5, 1, 59), [True] * 59), ASKED) == (0.0, "")


def test_a_net_that_knows_nothing_gets_no_threshold() -> None:
    right = np.random.default_rng(0).random(1000) < 0.5
    threshold, note = choose(answers(np.linspace(0.1, 1, 1000), right), ASKED)
    assert threshold is None
    assert "surest answers to validation images" in note
    decision = decide(answers(np.linspace(0.1, 1, 1000), right), answers([0.5], [True]), ASKED)
    assert (decision.threshold, decision.validation, decision.test) == (None, None, None)
    assert decision.note == note


def test_where_everything_can_be_answered_nothing_is_unknown() -> None:
    right = np.ones(500, np.bool_)
    right[:10] = False
    assert choose(answers(np.linspace(0.3, 1, 500), right), ASKED) == (0.0, "")


def test_the_threshold_lies_between_two_confidences_and_equal_ones_go_together() -> None:
    """Of 300 answers the surest 200 are right; the others share one confidence and are wrong."""
    confidence = np.concatenate([np.linspace(0.8, 1, 200), np.full(100, 0.6)])
    threshold, _ = choose(answers(confidence, np.arange(300) < 200), ASKED)
    assert threshold is not None
    assert 0.6 < threshold < 1
    given_ = answered(answers(confidence, np.arange(300) < 200), threshold)
    assert given_.precision is not None
    assert given_.precision.value == 1
    mixed = np.concatenate([np.full(200, 0.9), np.full(100, 0.6)])
    threshold, _ = choose(answers(mixed, np.arange(300) < 200), ASKED)
    assert threshold == pytest.approx(0.75)


def test_confidences_that_no_number_lies_between_are_told_apart() -> None:
    low = np.float32(0.9)
    high = np.nextafter(low, np.float32(1))
    confidence = np.concatenate([np.full(200, high), np.full(100, low)])
    found = answers(confidence, np.arange(300) < 200)
    threshold, _ = choose(found, ASKED)
    assert threshold is not None
    assert answered(found, threshold).coverage.value == pytest.approx(2 / 3)


@given(st.data())
def test_the_order_of_the_images_does_not_matter_and_what_is_chosen_is_shown(data: st.DataObject) -> None:
    count = data.draw(st.integers(60, 400))
    seed = data.draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    confidence = np.round(random.random(count), data.draw(st.integers(1, 6)))
    right = random.random(count) < confidence ** data.draw(st.sampled_from([0.1, 0.3, 1.0]))
    order = random.permutation(count)
    threshold, note = choose(answers(confidence, right), 0.9)
    assert choose(answers(confidence[order], right[order]), 0.9) == (threshold, note)
    assert (threshold is None) == bool(note)
    if threshold is not None:
        shown = confidence.astype(np.float32).astype(np.float64) >= threshold
        errors = int((~right[shown]).sum())
        assert stats.binom.cdf(errors, int(shown.sum()), 0.1) <= RISK + 1e-12


def drawn(random: np.random.Generator, count: int, classes: int = 5) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of an over-confident net and labels: the true class is the softmax of a third of the logits."""
    logits = random.normal(0, 4.5, (count, classes))
    shares = softmax(logits)
    labels = (shares.cumsum(axis=1) < random.random((count, 1))).sum(axis=1).clip(0, classes - 1)
    return 3 * logits, labels.astype(np.int64)


@pytest.mark.slow
@pytest.mark.parametrize("images", [150, 600, 2400])
def test_the_promise_is_kept_also_with_a_temperature_fitted_to_the_same_images(images: int) -> None:
    """Over validation sets, the precision at the chosen threshold falls below the one asked for in at most 5 %.

    The precision is that of 20,000 further images. 200 sets with a true rate of 5 % stay at or below 8.5 % with a
    probability of 0.98. The naive choice, the lowest threshold at which the validation images look good enough, fails
    in about half of all sets.
    """
    random = np.random.default_rng(images)
    far = drawn(random, 20_000)
    failed = naive = chosen = 0
    for _ in range(SETS):
        logits, labels = drawn(random, images)
        temperature, _ = fit_temperature(logits, labels)
        seen = Answers.of(logits, labels, temperature)
        threshold, _ = choose(seen, ASKED)
        true = Answers.of(*far, temperature)
        if threshold is not None:
            chosen += 1
            failed += _precision(true, threshold) < ASKED
        order = np.argsort(-seen.confidence)
        shares = np.cumsum(seen.right[order]) / np.arange(1, images + 1)
        good = np.flatnonzero(shares >= ASKED)
        naive += len(good) > 0 and _precision(true, float(seen.confidence[order[good[-1]]])) < ASKED
    assert failed <= 0.085 * SETS, (failed, chosen)
    assert naive > 0.3 * SETS
    assert chosen > (0.95 if images >= 600 else 0.2) * SETS


def _precision(found: Answers, threshold: float) -> float:
    return float(found.right[found.confidence >= threshold].mean())


def test_coverage_and_precision_carry_wilsons_intervals() -> None:
    found = answered(answers([0.9, 0.8, 0.4, 0.3], [True, False, True, False]), 0.5)
    assert (found.coverage.value, found.coverage.n) == (0.5, 4)
    assert found.precision is not None
    assert (found.precision.value, found.precision.n) == (0.5, 2)
    assert found.precision.low < 0.5 < found.precision.high
    assert answered(answers([0.3], [True]), 0.5).precision is None


def test_the_confidence_is_that_of_the_runner() -> None:
    logits = np.array([[3.0, 1.0], [0.5, 0.7]], np.float32)
    found = Answers.of(logits, np.array([0, 0]), 2.0)
    np.testing.assert_array_equal(found.confidence, softmax(logits, 2.0).max(axis=1))
    np.testing.assert_allclose(found.confidence[0], 1 / (1 + np.exp(-1)), rtol=1e-6)
    assert found.right.tolist() == [True, False]
