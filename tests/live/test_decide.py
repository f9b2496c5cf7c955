"""The rule that turns probabilities into labels: what it must never do, whatever the frames are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.bundle import InputSpec, Manifest
from edgewise.live.decide import LOWER, TRACKS, Decider, Rule, steady

LABELS = ("cat", "dog", "owl")
Shares = tuple[float, ...]


def shares() -> st.SearchStrategy[Shares]:
    weights = st.lists(st.floats(0.001, 1), min_size=len(LABELS), max_size=len(LABELS))
    return weights.map(lambda found: tuple(one / sum(found) for one in found))


def rules() -> st.SearchStrategy[Rule]:
    def rule(enter: float, share: float, patience: int) -> Rule:
        return Rule(enter, enter * share, patience)

    return st.builds(rule, st.floats(0, 1), st.floats(0, 1), st.integers(1, 4))


FILM = st.lists(shares(), min_size=1, max_size=40)


def said(rule: Rule, film: Sequence[Shares]) -> list[str | None]:
    decider = Decider(LABELS, rule)
    return [decider(frame)[0] for frame in film]


def flips(labels: Sequence[str | None]) -> int:
    return sum(one != other for one, other in itertools.pairwise(labels))


@given(rules(), FILM)
def test_it_never_flips_more_often_than_the_bare_threshold(rule: Rule, film: list[Shares]) -> None:
    """Hysteresis and patience only ever take flips away."""
    assert flips(said(rule, film)) <= flips(said(Rule(rule.enter), film))


@given(st.floats(0.34, 1), FILM)
def test_more_patience_never_flips_more_often_than_none(enter: float, film: list[Shares]) -> None:
    plain = flips(said(Rule(enter), film))
    assert all(flips(said(Rule(enter, patience=patience), film)) <= plain for patience in (2, 3, 5))


@given(rules(), FILM)
def test_unknown_where_every_confidence_is_below(rule: Rule, film: list[Shares]) -> None:
    """The first answer is unknown where it is below `enter`; what was never at `enter` is never named."""
    enter = max(max(frame) for frame in film) + 1e-6
    if enter <= 1:
        strict = Rule(enter, rule.lower * enter, rule.patience)
        assert set(said(strict, film)) == {None}


@given(rules(), FILM)
def test_a_named_class_was_at_enter_and_since_then_never_below_leave(rule: Rule, film: list[Shares]) -> None:
    decider, entered = Decider(LABELS, rule), False
    before: str | None = None
    for frame in film:
        label, confidence = decider(frame)
        if label is not None and label != before:
            assert confidence == frame[LABELS.index(label)] >= rule.enter
        if label is not None and label == before and rule.patience == 1:
            assert confidence >= rule.lower
        before = label
        entered = entered or label is not None
        assert 0 <= confidence <= 1 + 1e-9
        assert label is not None or confidence == max(frame)


@given(st.floats(0, 1), FILM)
def test_alone_it_is_the_threshold_of_the_runner(enter: float, film: list[Shares]) -> None:
    for frame, label in zip(film, said(Rule(enter), film), strict=True):
        best = max(range(len(frame)), key=frame.__getitem__)
        assert label == (LABELS[best] if frame[best] >= enter else None)


@given(rules(), FILM, FILM)
def test_tracks_do_not_influence_each_other(rule: Rule, one: list[Shares], other: list[Shares]) -> None:
    both = Decider(LABELS, rule)
    mixed: dict[int, list[str | None]] = {1: [], 2: []}
    for index in range(max(len(one), len(other))):
        for track, film in ((1, one), (2, other)):
            if index < len(film):
                mixed[track].append(both(film[index], track)[0])
    assert mixed == {1: said(rule, one), 2: said(rule, other)}


def test_hysteresis_keeps_a_class_down_to_leave_and_no_further() -> None:
    film = [(0.9, 0.1), (0.75, 0.25), (0.65, 0.35), (0.75, 0.25), (0.85, 0.15)]
    decider = Decider(("a", "b"), Rule(enter=0.8, leave=0.7))
    assert [decider(frame)[0] for frame in film] == ["a", "a", None, None, "a"]


def test_patience_asks_for_the_same_answer_in_a_row() -> None:
    a, b, none = (0.9, 0.1), (0.1, 0.9), (0.5, 0.5)
    film = [a, b, b, a, b, none, b, b, b, a]
    decider = Decider(("a", "b"), Rule(enter=0.8, patience=3))
    assert [decider(frame)[0] for frame in film] == ["a"] * 8 + ["b", "b"]


def test_ended_tracks_can_be_forgotten_and_old_ones_are() -> None:
    decider = Decider(("a", "b"), Rule(enter=0.8, patience=3))
    decider((0.9, 0.1), 7)
    assert decider((0.1, 0.9), 7)[0] == "a"
    decider.forget(7)
    assert decider((0.1, 0.9), 7)[0] == "b"
    decider.forget()
    assert decider((0.9, 0.1), 7)[0] == "a"
    for track in range(100, 100 + TRACKS):
        decider((0.9, 0.1), track)
    assert decider((0.1, 0.9), 7)[0] == "b", "the track that was not seen for longest is remembered"
    assert decider((0.1, 0.9), 100 + TRACKS - 1)[0] == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        {"enter": 1.1},
        {"enter": 0.5, "leave": 0.6},
        {"leave": -0.1},
        {"patience": 0},
        {"enter": float("nan")},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"enter|patience"):
        Rule(**wrong)  # type: ignore[arg-type]


def test_probabilities_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="2 probabilities for 3 labels"):
        Decider(LABELS, Rule())((0.5, 0.5))


def test_the_rule_of_a_bundle_is_its_threshold() -> None:
    facts = ("tiny", "onnx", "fp32", "", "model.onnx", InputSpec(8, 8), list(LABELS))
    assert steady(Manifest(*facts)) == Rule(0.0)
    known = Manifest(*facts, thresholds={"temperature": 1.3, "unknown": 0.8})
    assert steady(known) == Rule(0.8)
    assert steady(known, threshold=0.5) == Rule(0.5)
    calm = steady(known, frames=5, patience=2)
    assert calm == Rule(0.8, LOWER * 0.8, 2)
    assert calm.words() == "unknown below 0.8, kept down to 0.72, changes after 2 frames"
