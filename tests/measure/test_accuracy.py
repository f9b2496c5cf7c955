"""Quality figures against scikit-learn and scipy, and their intervals against simulations with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from edgewise.measure.accuracy import confusion_matrix, difference, macro_f1, quality, quality_of_part, wilson
from edgewise.results import Estimate

CLASSES = ("apple", "cherry", "plum", "tomato")


def draw(n: int, classes: int, right: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and answers of which at least the share `right` is right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    return labels, np.where(random.random(n) < right, labels, random.integers(0, classes, n))


def half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2


# --- Figures ----------------------------------------------------------------------------------------------------

answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def test_quality_of_a_part_is_that_of_its_images_alone() -> None:
    labels, predicted = draw(80, 4, 0.6, seed=5)
    part = np.arange(80) % 3 > 0
    found = quality_of_part(predicted, labels, CLASSES, part)
    assert found is not None
    assert found.n == part.sum()
    expected = metrics.f1_score(labels[part], predicted[part], average="macro")
    assert found.macro_f1.value == pytest.approx(expected)
    for whole in (None, np.ones(80, dtype=bool), np.zeros(80, dtype=bool)):
        assert quality_of_part(predicted, labels, CLASSES, whole) is None


@settings(deadline=None, max_examples=30)
@given(answers)
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    found = quality(predicted, labels, CLASSES)
    present = np.unique(labels)
    expected = metrics.f1_score(labels, predicted, average="macro", labels=present, zero_division=0)
    assert found.n == len(pairs)
    assert found.accuracy.value == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.macro_f1.value == pytest.approx(expected)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=range(4)))
    recalls = metrics.recall_score(labels, predicted, average=None, labels=range(4), zero_division=0)
    for index, name in enumerate(CLASSES):
        recall = found.recall[name]
        if index in present:
            assert recall is not None
            assert recall.value == pytest.approx(recalls[index])
            assert recall.n == int((labels == index).sum())
        else:
            assert recall is None
    for estimate in (found.accuracy, found.macro_f1):
        assert 0 <= estimate.low <= estimate.high <= 1


def test_a_class_that_is_only_predicted_does_not_enter_the_mean_but_still_costs() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert quality(predicted, labels, CLASSES).macro_f1.value == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(confusion_matrix(predicted, labels, 4)) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("labels", "predicted", "why"),
    [
        ([], [], "at least one"),
        ([0, 1], [0], "equal length"),
        ([[0]], [[0]], "one-dimensional"),
        ([4], [0], r"outside 0\.\.3"),
        ([0], [-1], r"outside 0\.\.3"),
    ],
)
def test_impossible_answers_are_refused(labels: list[int], predicted: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        quality(np.array(predicted, np.int64), np.array(labels, np.int64), CLASSES)


# --- Intervals --------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.data())
def test_wilson_is_the_one_of_scipy(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        wilson(successes, n)


def test_the_bootstrap_of_macro_f1_is_the_plain_one_over_images() -> None:
    labels, predicted = draw(300, 4, 0.7, seed=1)
    random = np.random.default_rng(0)
    plain = []
    for _ in range(150):
        drawn = random.integers(0, 300, 300)
        plain.append(metrics.f1_score(labels[drawn], predicted[drawn], average="macro"))
    found = quality(predicted, labels, CLASSES).macro_f1
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.02)


def test_intervals_of_macro_f1_hold_the_truth() -> None:
    recall = 0.8  # the rest spreads evenly over the other classes, so precision and F1 are 0.8 too
    hits = 0
    for seed in range(120):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 4, 400)
        wrong = (labels + random.integers(1, 4, 400)) % 4
        found = quality(np.where(random.random(400) < recall, labels, wrong), labels, CLASSES, seed=seed).macro_f1
        hits += found.low <= recall <= found.high
    assert hits >= 0.9 * 120  # fewer has a probability below 0.02 at 95 %


def test_without_any_error_the_interval_is_not_a_point() -> None:
    labels = np.repeat(np.arange(3), 15)
    perfect = quality(labels, labels, CLASSES)
    assert perfect.macro_f1.value == perfect.macro_f1.high == 1
    assert perfect.macro_f1.low == pytest.approx(wilson(45, 45).low)
    uneven = quality(np.repeat([0, 1], [43, 2]), np.repeat([0, 1], [43, 2]), CLASSES)
    assert uneven.macro_f1.low < perfect.macro_f1.low  # two images of a class say little about half the mean


def test_seed_and_only_seed_moves_the_bootstrap() -> None:
    labels, predicted = draw(200, 4, 0.7, seed=2)
    assert quality(predicted, labels, CLASSES, seed=3) == quality(predicted, labels, CLASSES, seed=3)
    other = quality(predicted, labels, CLASSES, seed=4)
    assert other.macro_f1 != quality(predicted, labels, CLASSES, seed=3).macro_f1
    assert other.accuracy == quality(predicted, labels, CLASSES, seed=3).accuracy


def test_many_classes_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, predicted = draw(500, 50, 0.6, seed=5)
    names = [str(index) for index in range(50)]
    whole = quality(predicted, labels, names)
    monkeypatch.setattr("edgewise.measure.accuracy._CHUNK", 20_000)
    assert quality(predicted, labels, names) == whole


# --- Differences ------------------------------------------------------------------------------------------------


def test_the_difference_is_that_of_the_two_qualities() -> None:
    labels, mine = draw(300, 4, 0.8, seed=1)
    _, other = draw(300, 4, 0.8, seed=1)
    other = np.where(np.arange(300) % 10 == 0, (other + 1) % 4, other)
    found = difference(mine, other, labels, CLASSES, reference="base")
    one, two = quality(mine, labels, CLASSES), quality(other, labels, CLASSES)
    assert found.reference == "base"
    assert found.accuracy.value == pytest.approx(one.accuracy.value - two.accuracy.value)
    assert found.macro_f1.value == pytest.approx(one.macro_f1.value - two.macro_f1.value)


def test_pairing_makes_the_interval_narrower_than_two_separate_ones() -> None:
    labels, mine = draw(1000, 4, 0.7, seed=1)
    other = mine.copy()
    other[:20] = (labels[:20] + 1) % 4
    found = difference(mine, other, labels, CLASSES, reference="base")
    assert found.accuracy.low > 0
    apart = half_width(quality(mine, labels, CLASSES).macro_f1)
    assert half_width(found.macro_f1) < apart / 3


def test_the_paired_interval_is_that_of_the_discordant_pairs() -> None:
    """Newcombe (1998): the standard error of a paired difference is sqrt(b + c - (b - c)^2 / n) / n."""
    labels, mine = draw(2000, 4, 0.7, seed=6)
    _, other = draw(2000, 4, 0.7, seed=7)
    found = difference(mine, other, labels, CLASSES, reference="base").accuracy
    won, lost = ((mine == labels) & (other != labels)).sum(), ((mine != labels) & (other == labels)).sum()
    error = np.sqrt(won + lost - (won - lost) ** 2 / 2000) / 2000
    assert half_width(found) == pytest.approx(1.96 * error, rel=0.06)
    assert found.value == pytest.approx((won - lost) / 2000)


def test_swapping_the_models_flips_the_sign() -> None:
    labels, mine = draw(200, 4, 0.7, seed=8)
    _, other = draw(200, 4, 0.6, seed=9)
    there = difference(mine, other, labels, CLASSES, reference="a")
    back = difference(other, mine, labels, CLASSES, reference="b")
    assert there.macro_f1.value == pytest.approx(-back.macro_f1.value)
    assert there.macro_f1.low == pytest.approx(-back.macro_f1.high, abs=0.02)


def test_equal_answers_do_not_prove_that_two_models_are_equal() -> None:
    labels, mine = draw(100, 4, 0.8, seed=1)
    found = difference(mine, mine, labels, CLASSES, reference="itself")
    limit = stats.binomtest(0, 100).proportion_ci(method="wilson").high
    assert (found.accuracy.value, found.macro_f1.value) == (0, 0)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((-limit, limit))
    assert found.macro_f1.low < -limit
