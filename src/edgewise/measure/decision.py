"""From which confidence on an answer is given: the threshold below which a picture is `unknown`.

What is asked for is the precision of the answers: of the pictures that get a label, the share whose label is right. The
threshold is the lowest at which validation images show that precision, so that as many pictures as can be are answered.

Looking at many thresholds and taking the best-looking one is optimistic. Here they are tested as hypotheses, after
Angelopoulos, Bates, Candes, Jordan and Lei, *Learn then Test* (arXiv:2110.01052): "above this confidence the precision
is no more than asked". The number of wrong answers among those above a threshold is binomial, so that the exact tail of
that distribution is a p-value (the test behind Clopper and Pearson's interval, 1934; Geifman and El-Yaniv, *Selective
Classification for Deep Neural Networks*, NIPS 2017, bound the same risk). The thresholds are tested from the surest
answers down, each at the full level, and the first that is not refuted ends the search: so all tests together err no
more often than one (fixed-sequence testing). Which ranks of the confidence are looked at depends on nothing but the
number of images and the precision asked for.

What the bound takes for granted: images like those of the validation split; that of sure and less sure answers the sure
ones are not the worse; and the net and its temperature as given. Both were found with the same validation images (the
temperature is one number, the epoch one of some tens), which the bound does not count. Therefore precision and coverage
are measured again on test images, by which nothing was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.device.preprocess import softmax
from edgewise.measure.intervals import wilson
from edgewise.results import Answered, Decision

RISK = 0.05
"""How often at most, over validation sets, a threshold is chosen whose true precision is below the one asked for."""

ROOM, FIRST = 4, 0.2
"""The first test forgives up to so many wrong answers, as long as it needs no more than this share of the images: with
room for none luck decides whether it passes, and a test of too many answers misses the nets that are sure of few."""

_GROWTH = 1.05
"""From test to test the number of forgiven errors grows by this factor, and by one at least."""

Confidences = NDArray[np.float32]
Verdicts = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """The confidence of each image's answer, float32 (N,), 0..1, and whether it is right, bool (N,)."""

    confidence: Confidences
    right: Verdicts

    @classmethod
    def of(cls, logits: NDArray[np.floating], labels: NDArray[np.int64], temperature: float) -> Answers:
        """The answers that a file's logits, float (N, classes), give to images of these classes, int64 (N,).

        The confidence is that of the runner: the softmax of logits / temperature, in the same arithmetic.
        """
        return cls(softmax(logits, temperature).max(axis=1), logits.argmax(axis=1) == labels)


def decide(validation: Answers, test: Answers, asked: float) -> Decision:
    """Choose the threshold on validation images and measure on test images what came of it.

    Args:
        validation: N >= 1 answers, by which the threshold is chosen.
        test: M >= 1 answers; nothing is chosen by them.
        asked: the precision of the answers that is wanted, above 0 and below 1.
    """
    threshold, note = choose(validation, asked)
    if threshold is None:
        return Decision(asked, None, note, None, None)
    return Decision(asked, threshold, note, answered(validation, threshold), answered(test, threshold))


def choose(answers: Answers, asked: float, risk: float = RISK) -> tuple[float | None, str]:
    """The lowest confidence at which the answers show the precision asked for.

    Returns:
        The threshold, 0 where everything can be answered; None, with the reason, where none can be shown to do.
    """
    order = np.argsort(-answers.confidence, kind="stable")
    sure = answers.confidence[order].astype(np.float64)
    wrong = np.cumsum(~answers.right[order])
    count = len(order)
    least = enough(0, asked, risk)
    if least > count:
        return None, (
            f"no threshold: {count} validation images are too few to show {asked:.1%}; it takes {least} answers "
            "without a mistake"
        )
    chosen: float | None = None
    for rank in _ranks(count, asked, risk):
        last = int(np.searchsorted(-sure, -sure[rank - 1], side="right"))  # those of equal confidence go together
        if tail(int(wrong[last - 1]), last, 1 - asked) > risk:
            if chosen is None:
                return None, (
                    f"no threshold: of the {last} surest answers to validation images {int(wrong[last - 1])} are "
                    f"wrong, which does not show {asked:.1%}"
                )
            break
        chosen = _between(sure[last - 1], sure[last]) if last < count else 0.0
    return chosen, ""


def answered(answers: Answers, threshold: float) -> Answered:
    """How many images are answered at a threshold and how many of the answers are right, with Wilson's intervals."""
    given = answers.confidence.astype(np.float64) >= threshold  # in float32 the threshold would be rounded
    count = int(given.sum())
    right = int(answers.right[given].sum())
    return Answered(wilson(count, len(given)), wilson(right, count) if count else None)


def enough(errors: int, asked: float, risk: float = RISK) -> int:
    """The least number of answers that show a precision above `asked` although so many of them are wrong."""
    low, high = errors + 1, errors + 1
    while tail(errors, high, 1 - asked) > risk:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        if tail(errors, middle, 1 - asked) > risk:
            low = middle + 1
        else:
            high = middle
    return high


def tail(errors: int, count: int, rate: float) -> float:
    """The probability of at most so many errors in `count` answers of which each is wrong with this probability."""
    if errors >= count:
        return 1.0
    logs = (
        math.lgamma(count + 1)
        - math.lgamma(wrong + 1)
        - math.lgamma(count - wrong + 1)
        + wrong * math.log(rate)
        + (count - wrong) * math.log1p(-rate)
        for wrong in range(errors + 1)
    )
    return math.fsum(math.exp(one) for one in logs)


def _ranks(count: int, asked: float, risk: float) -> Iterator[int]:
    """Numbers of surest answers that are tested, growing, the last `count`; each is the least for its errors."""
    errors = next(room for room in range(ROOM, -1, -1) if room == 0 or enough(room, asked, risk) <= FIRST * count)
    rank = enough(errors, asked, risk)
    while rank < count:
        yield rank
        errors = max(errors + 1, int(errors * _GROWTH))
        rank = enough(errors, asked, risk)
    yield count


def _between(above: float, below: float) -> float:
    """A threshold between two confidences, so that the last digits of a runtime do not matter."""
    middle = (above + below) / 2
    return float(middle if middle > below else above)
