"""The live loop: frames in, views out.

One frame goes through these stages; each is timed.

1. `grab`: reading it from the source, in the grabber's own thread, beside the loop;
2. `detect`: finding boxes, every so many frames (`edgewise.live.track` says when);
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

from edgewise.live.base import Box, Detector, Frame, Seen, Source, View
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
    eyes = _Eyes(classifier, detector, options, decide or most_probable(classifier.labels))
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


def most_probable(labels: Sequence[str]) -> Decide:
    """The decision rule of a bundle without thresholds: the most probable class, whatever its probability."""

    def decide(probabilities: Sequence[float], track: int) -> tuple[str | None, float]:  # noqa: ARG001 - see `Decide`
        best = int(np.argmax(probabilities))
        return labels[best], float(probabilities[best])

    return decide


class _Eyes:
    """What the loop does with one frame, and what it remembers from frame to frame."""

    def __init__(self, classifier: Classifier, detector: Detector | None, options: LoopOptions, decide: Decide) -> None:
        self._classifier = classifier
        self._detector = detector
        self._tracker = Tracker(options.every) if detector else None
        self._smoother = Smoother(options.smooth)
        self._decide = decide

    def forget(self) -> None:
        """Start anew: what comes next has nothing to do with what was."""
        if self._tracker:
            self._tracker.forget()
        self._smoother.forget()

    def look(self, got: Taken) -> View:
        """See one frame."""
        stages = {"grab": got.grab_ms}
        tracks, detected = self._find(got.frame, stages)
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

    def _find(self, frame: Frame, stages: dict[str, float]) -> tuple[list[tuple[int, Box]], bool]:
        if self._tracker is None or self._detector is None:
            return [(0, whole(frame.pixels))], False
        started = time.perf_counter()
        due = self._tracker.follow(frame.pixels)
        followed = time.perf_counter()
        if due:
            found = self._detector.find(frame.pixels)
            stages["detect"] = (time.perf_counter() - followed) * 1e3
            followed += stages["detect"] / 1e3
            self._tracker.correct(found)
        stages["track"] = (time.perf_counter() - started) * 1e3 - stages.get("detect", 0.0)
        return self._tracker.tracks(), due

    def _seen(self, track: int, box: Box, probabilities: NDArray[np.float32]) -> Seen:
        values = tuple(float(value) for value in probabilities)
        label, confidence = self._decide(values, track)
        return Seen(track, box, label, confidence, values)
