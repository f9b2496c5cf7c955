"""The live loop: frames in, views out.

One frame goes through these stages; each is timed.

1. `grab`: reading it from the source, in the grabber's own thread, beside the loop;
2. `detect`: finding boxes, where this frame cannot be shown without; `redetect`: finding them again in a thread beside
   the loop while it goes on, every so many frames (`edgewise.live.track` says which and when);
3. `track`: carrying the boxes on from the frame before;
4. `crop`: what is in the boxes, through the one preprocessing;
5. `classify`: all crops in one batch.

Where the source gives nothing (unplugged, stalled, black, frozen), the view says "no signal", and nothing that was seen
before is shown as if it were there. Tracks and averages start anew afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.live.aside import Aside
from edgewise.live.base import Box, Detector, Seen, Source, View
from edgewise.live.classify import Classifier, whole
from edgewise.live.grab import BACK_OFF_S, Grabber, Over, Policy, Quiet, Taken
from edgewise.live.smooth import Smoother
from edgewise.live.track import Tracker
from edgewise.live.watch import Watch

Decide = Callable[[Sequence[float], int], tuple[str | None, float]]
"""(probabilities, track) -> label or None for unknown, and confidence. Called once for each seen crop of a frame."""


@dataclass(frozen=True)
class LoopOptions:
    """How the loop runs.

    `every`: the detector runs at least every so many frames. `smooth`: probabilities are averaged over so many frames
    of a track. `frames`: end after so many views of frames, None for never. `policy`: None takes `newest` for live
    sources and `every` for others. `silence_s`: without a frame for so long there is no signal. `still_s`: black or
    frozen for so long, neither.
    """

    every: int = 10
    smooth: int = 1
    frames: int | None = None
    policy: Policy | None = None
    silence_s: float = 1.0
    still_s: float = 2.0
    back_off: tuple[float, ...] = BACK_OFF_S


def run(
    source: Source,
    classifier: Classifier,
    detector: Detector | None = None,
    options: LoopOptions | None = None,
    *,
    decide: Decide | None = None,
    reopen: Callable[[], Source] | None = None,
) -> Generator[View, None, None]:
    """Views of a source, one for each frame that was taken, and one a second while there is no signal.

    The source is closed when the iterator ends or is closed.

    Args:
        source: opened.
        classifier: see `edgewise.live.classify.open_classifier`.
        detector: None classifies whole frames.
        options: see there.
        decide: turns probabilities into a label; default: the most probable class.
        reopen: opens the source again when it is lost; without it, its error is raised.

    Yields:
        Views; the last one has the state "ended", unless `options.frames` ended the loop.

    Raises:
        UnavailableError: the source is lost for good.
    """
    options = options or LoopOptions()
    policy = options.policy or ("newest" if source.live else "every")
    lag = None if policy == "newest" else 3 * options.every // 4
    eyes = _Eyes(classifier, detector, options, decide or most_probable(classifier.labels), lag)
    watch = Watch(options.still_s) if source.live else None
    grabber = Grabber(source, policy, reopen, options.back_off)
    shown, said = 0, -np.inf
    try:
        while options.frames is None or shown < options.frames:
            got = grabber.take(options.silence_s)
            if isinstance(got, Over):
                if got.problem is not None:
                    raise got.problem
                yield View("ended")
                return
            if isinstance(got, Quiet) and not source.live:
                continue  # a file that takes its time is no camera that is gone
            note = got.note if isinstance(got, Quiet) else watch.see(got.frame) if watch else ""
            if isinstance(got, Taken) and not note:
                shown += 1
                yield eyes.look(got)
                continue
            eyes.forget()
            if isinstance(got, Quiet) or time.perf_counter() - said >= options.silence_s:
                said = time.perf_counter()
                yield View("no signal", note=note if isinstance(got, Quiet) else f"{source.name}: {note}")
    finally:
        grabber.close()
        eyes.close()


def most_probable(labels: Sequence[str]) -> Decide:
    """The decision rule of a bundle without thresholds: the most probable class, whatever its probability."""

    def decide(probabilities: Sequence[float], track: int) -> tuple[str | None, float]:  # noqa: ARG001 - see `Decide`
        confidence = max(probabilities)
        return labels[probabilities.index(confidence)], confidence

    return decide


class _Eyes:
    """What the loop does with one frame, and what it remembers from frame to frame."""

    def __init__(
        self,
        classifier: Classifier,
        detector: Detector | None,
        options: LoopOptions,
        decide: Decide,
        lag: int | None,
    ) -> None:
        self._classifier = classifier
        self._finder = _Finder(Aside(detector, lag), Tracker(options.every)) if detector else None
        self._smoother = Smoother(options.smooth)
        self._decide = decide

    def forget(self) -> None:
        """Start anew: what comes next has nothing to do with what was."""
        if self._finder:
            self._finder.forget()
        self._smoother.forget()

    def close(self) -> None:
        """End the detector's thread."""
        if self._finder:
            self._finder.close()

    def look(self, got: Taken) -> View:
        """See one frame."""
        stages = {"grab": got.grab_ms}
        if self._finder:
            tracks, detected = self._finder.find(got.frame.pixels, stages)
        else:
            tracks, detected = [(0, whole(got.frame.pixels))], False
        found: list[NDArray[np.float32]] = []
        if tracks:
            started = time.perf_counter()
            batch = self._classifier.crops(got.frame.pixels, [box for _, box in tracks])
            cropped = time.perf_counter()
            found = list(self._classifier.probabilities(batch))
            stages["crop"] = (cropped - started) * 1e3
            stages["classify"] = (time.perf_counter() - cropped) * 1e3
        smooth = self._smoother.smooth({track: one for (track, _), one in zip(tracks, found, strict=True)})
        seen = tuple(self._seen(track, box, smooth[track]) for track, box in tracks)
        age = (time.perf_counter() - got.frame.taken) * 1e3
        return View("live", got.frame, seen, stages, age, got.dropped, detected, got.note)

    def _seen(self, track: int, box: Box, probabilities: NDArray[np.float32]) -> Seen:
        values = tuple(probabilities.tolist())
        label, confidence = self._decide(values, track)
        return Seen(track, box, label, confidence, values)


class _Finder:
    """Boxes for each frame: from the detector, or followed from the frame before."""

    def __init__(self, aside: Aside, tracker: Tracker) -> None:
        self._aside = aside
        self._tracker = tracker

    def find(self, pixels: Pixels, stages: dict[str, float]) -> tuple[list[tuple[int, Box]], bool]:
        """(track, box) of this frame, and whether the detector has had its say; `stages` gets what took how long."""
        started = time.perf_counter()
        due = self._tracker.follow(pixels)
        followed = time.perf_counter()
        answered = None
        if due == "now":
            found = self._aside.now(pixels)
            detected = time.perf_counter()
            stages["detect"] = (detected - followed) * 1e3
            self._tracker.correct(found)
        else:
            answered = self._aside.answer()
            detected = time.perf_counter()
            if answered is not None:
                mark, late = answered
                stages["redetect"] = late.ms
                stages["detect"] = (detected - followed) * 1e3  # waiting for it
                self._tracker.correct(late.boxes, mark)
            if due == "soon" and not self._aside.busy:
                self._aside.later(pixels, self._tracker.mark())
        stages["track"] = (time.perf_counter() - detected + followed - started) * 1e3
        return self._tracker.tracks(), due == "now" or answered is not None

    def forget(self) -> None:
        """Drop all boxes, those that are still to come included."""
        self._aside.forget()
        self._tracker.forget()

    def close(self) -> None:
        """End the detector's thread."""
        self._aside.close()
