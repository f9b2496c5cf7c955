"""What is said of a track: the class, or unknown; slow to change its mind.

A classifier's answers to the frames of one face flicker. The loop can average them (`edgewise.live.smooth`); two more
things calm them here, each by itself and both of them shown:

- **hysteresis**: a class is named from a confidence of `enter` on and is given up only below `leave`, which is lower,
  so that a confidence that wavers about one limit does not switch the label with every frame;
- **patience**: the label changes only when the same other answer has come `patience` frames in a row.

With `Rule(enter=t)` alone, every frame is decided by itself: the class where its confidence is at least t, else
unknown, as `runner.py` does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgewise.bundle import Manifest, threshold_of

TRACKS = 256
"""Tracks that are remembered; those not seen for longest are forgotten first."""

LOWER = 0.9
"""`leave` as a share of `enter`, where it is not given."""


@dataclass(frozen=True)
class Rule:
    """How an answer becomes a label.

    enter: least confidence, 0..1, at which a class is named. leave: the named class is kept down to this confidence.
    patience: so many frames in a row have to say the same other thing before the label changes.

    Raises:
        ValueError: leave above enter, or a figure out of range.
    """

    enter: float = 0.0
    leave: float | None = None
    patience: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.enter <= 1 or not 0 <= self.lower <= self.enter:
            raise ValueError(f"0 <= leave <= enter <= 1, not enter {self.enter} and leave {self.leave}")
        if self.patience < 1:
            raise ValueError(f"patience is 1 or more, not {self.patience}")

    @property
    def lower(self) -> float:
        """The confidence below which the named class is given up."""
        return self.enter if self.leave is None else self.leave

    def words(self) -> str:
        """The rule in words, to be shown beside the labels that it makes."""
        said = [f"unknown below {self.enter:.3g}" if self.enter else "never unknown"]
        if self.lower < self.enter:
            said.append(f"kept down to {self.lower:.3g}")
        if self.patience > 1:
            said.append(f"changes after {self.patience} frames")
        return ", ".join(said)


def steady(manifest: Manifest, *, frames: int = 1, patience: int = 1, threshold: float | None = None) -> Rule:
    """The rule of a bundle: its threshold (0, which names every picture, where it has none), with what calms it.

    With smoothing or patience the class is kept down to `LOWER` times the threshold; the precision that the threshold
    was chosen for holds for single frames that are at or above it.

    Args:
        manifest: of the bundle.
        frames: that the loop averages over.
        patience: frames that have to agree before the label changes.
        threshold: in place of the bundle's.
    """
    enter = threshold if threshold is not None else threshold_of(manifest) or 0.0
    calmed = frames > 1 or patience > 1
    return Rule(enter, LOWER * enter if calmed else None, patience)


@dataclass
class _Track:
    """What is remembered of a track: the label said last, what other answer came last and how often in a row."""

    label: str | None = None
    rival: str | None = None
    repeats: int = 0
    started: bool = False


@dataclass
class Decider:
    """Decides frame by frame: `decider(probabilities, track)` gives (label or None for unknown, its confidence).

    Not for several threads at once. Two tracks never influence each other.
    """

    labels: Sequence[str]
    rule: Rule
    _tracks: OrderedDict[int, _Track] = field(default_factory=OrderedDict)

    def __call__(self, probabilities: Sequence[float], track: int = 0) -> tuple[str | None, float]:
        """Take one frame's probabilities, in the order of the labels, and say what the track is.

        The confidence is that of the label, and of the likeliest class where the label is unknown. The first frame of
        a track is answered at once.

        Raises:
            ValueError: not as many probabilities as labels.
        """
        if len(probabilities) != len(self.labels):
            raise ValueError(f"{len(probabilities)} probabilities for {len(self.labels)} labels")
        known = self._track(track)
        shares = tuple(map(float, probabilities))
        answer = self._answer(known, shares)
        if not known.started or answer == known.label:
            known.label, known.rival, known.repeats, known.started = answer, None, 0, True
        else:
            known.repeats = known.repeats + 1 if known.repeats and answer == known.rival else 1
            known.rival = answer
            if known.repeats >= self.rule.patience:
                known.label, known.repeats = answer, 0
        if known.label is None:
            return None, max(shares)
        return known.label, shares[self.labels.index(known.label)]

    def forget(self, track: int | None = None) -> None:
        """Drop what is known of a track that has ended, so that its number can be used again; of all with None."""
        for one in list(self._tracks) if track is None else [track]:
            self._tracks.pop(one, None)

    def _track(self, track: int) -> _Track:
        known = self._tracks.get(track)
        if known is None:
            known = self._tracks[track] = _Track()
            if len(self._tracks) > TRACKS:
                self._tracks.popitem(last=False)
        self._tracks.move_to_end(track)
        return known

    def _answer(self, known: _Track, shares: tuple[float, ...]) -> str | None:
        """What this frame says: the likeliest class from `enter` on, else the named one down to `leave`, else None."""
        best = max(range(len(shares)), key=shares.__getitem__)
        if shares[best] >= self.rule.enter:
            return self.labels[best]
        kept = known.label
        return kept if kept is not None and shares[self.labels.index(kept)] >= self.rule.lower else None
