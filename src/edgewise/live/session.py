"""`edgewise live` as one call: open everything, run the loop, show, record, count, and say how it went."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgewise.interrupt import Interrupted
from edgewise.live.base import Detector, Source, View
from edgewise.live.classify import Classifier, open_classifier
from edgewise.live.decide import Decider, Rule, steady
from edgewise.live.detect import open_detector
from edgewise.live.draw import draw
from edgewise.live.loop import LoopOptions, run
from edgewise.live.profile import Budget, Profile, Settings, lines
from edgewise.live.record import Recorder
from edgewise.live.sources import open_source
from edgewise.live.uncertain import UncertainSaver
from edgewise.live.wanted import Wanted, frame_rate, parse_wanted
from edgewise.live.window import Window, keys, open_window, why_no_window

FILE_FPS = 30.0
"""The rate of a recording of pictures, which have none."""


@dataclass(frozen=True)
class Session:
    """What was asked for on the command line; see `edgewise live --help`. `json_lines`: a line a view on stdout."""

    bundle: Path
    source: str
    detector: str = "none"
    every: int = 10
    detector_width: int = 320
    smooth: int = 1
    record: Path | None = None
    headless: bool = False
    profile: bool = False
    frames: int | None = None
    threads: int = 1
    camera: str = "640x480@30"
    json_lines: bool = False
    threshold: float | None = None
    patience: int = 1
    save_uncertain: Path | None = None


@dataclass(frozen=True)
class Ending:
    """The closing words, and whether standard output carried JSON lines."""

    words: tuple[str, ...]
    json_lines: bool


def run_session(asked: Session) -> Ending:
    """Run until the source ends, `frames` are shown, or q is pressed.

    Raises:
        UntrustedError: the bundle or the detector's file is refused; nothing is opened then.
        ConfigError, UnavailableError, DataError: as `open_source`, `open_detector` and `Recorder` say.
    """
    wanted = parse_wanted(asked.camera)
    classifier = open_classifier(asked.bundle, asked.threads)
    detector = open_detector(asked.detector, asked.detector_width)
    why = "" if asked.headless else why_no_window()
    if why:
        _say(f"no window: {why}; going on headless (`edgewise serve {asked.bundle}` shows a page instead)")
    headless = asked.headless or bool(why)
    saver = UncertainSaver(asked.save_uncertain, classifier.labels) if asked.save_uncertain else None
    rule = steady(classifier.manifest, frames=asked.smooth, patience=asked.patience, threshold=asked.threshold)
    source = open_source(asked.source, wanted)
    _say(_introduction(asked, classifier, detector, source, rule))
    settings = Settings(
        detector=asked.detector,
        every=asked.every,
        detector_width=asked.detector_width,
        format=classifier.manifest.format,
        threads=asked.threads,
        live=source.live,
        window=not headless,
    )
    profile = Profile(settings)
    sink = _Sink(asked, headless, _recorder(asked, source, wanted), profile)
    options = LoopOptions(every=asked.every, smooth=asked.smooth, frames=asked.frames)
    decider = Decider(classifier.labels, rule)
    reopen = functools.partial(open_source, asked.source, wanted)
    views = run(source, classifier, detector, options, decide=decider, reopen=reopen)
    try:
        with contextlib.closing(sink), contextlib.closing(views), keys() as quit_pressed:
            for view in views:
                if view.state != "live":
                    decider.forget()  # what comes next has nothing to do with what was
                if saver:
                    saver.take(view)
                if not sink.take(view) or quit_pressed():
                    break
    except Interrupted:
        for words in _last_words(sink, profile, saver):
            _say(words)
        raise
    return Ending(tuple(_last_words(sink, profile, saver)), sink.lines)


def _last_words(sink: _Sink, profile: Profile, saver: UncertainSaver | None) -> list[str]:
    words = sink.last_words(profile.budget())
    return [*words[:-1], saver.kept().words(), words[-1]] if saver else words


class _Sink:
    """Where views go: window, recording, JSON lines, profile."""

    def __init__(self, asked: Session, headless: bool, recorder: Recorder | None, profile: Profile) -> None:
        self._asked = asked
        self._recorder = recorder
        self._profile = profile
        self.lines = asked.json_lines or headless
        self._window: Window | None = None if headless else open_window()
        self._size = 640, 480
        self._told = "", ""
        self._frames = 0

    def take(self, view: View) -> bool:
        """Show, record, print and count a view; False when the window says that this is the end."""
        goes_on, draw_ms = True, None
        if view.state != "ended" and (self._window or self._recorder):
            started = time.perf_counter()
            words = [f"smooth {self._asked.smooth}"] if self._asked.smooth > 1 else []
            picture = draw(view, words, self._size)
            self._size = picture.shape[1], picture.shape[0]
            if self._recorder:
                self._recorder.add(picture, time.perf_counter())
            if self._window:
                goes_on = self._window.show(picture)
            draw_ms = (time.perf_counter() - started) * 1e3
        self._profile.add(view, draw_ms)
        self._frames += view.frame is not None
        self._tell(view)
        return goes_on and not (self.lines and not _put(line(view, self._asked.smooth)))

    def _tell(self, view: View) -> None:
        """Say news of the source to a person."""
        if view.note and (view.state, view.note) != self._told:
            _say(f"{view.state}: {view.note}")
        elif view.state == "live" and self._told[0] == "no signal":
            _say("live again")
        self._told = view.state, view.note

    def close(self) -> None:
        """Finish the recording and take the window away."""
        if self._recorder:
            self._recorder.close()
            if self._recorder.written:
                _say(f"recorded: {self._asked.record}  ({self._recorder.written} frames)")
        if self._window:
            self._window.close()

    def last_words(self, budget: Budget | None) -> list[str]:
        """The profile and the next command to try."""
        if budget is None:
            return [f"{self._frames} frames: too few to say how long they take"]
        if self.lines and self._asked.profile:
            _put({"profile": asdict(budget)})
        words = lines(budget) if self._asked.profile else [f"{self._frames} frames, {budget.fps:.1f} a second"]
        command = f"edgewise live {shlex.quote(str(self._asked.bundle))} --source {shlex.quote(self._asked.source)}"
        return [*words, f"next: {command} " + ("--record out.mp4" if self._asked.profile else "--profile")]


def line(view: View, smooth: int) -> dict[str, Any]:
    """A view as one JSON object; see docs/live.md."""
    found: dict[str, Any] = {"state": view.state}
    if view.note:
        found["note"] = view.note
    if view.frame is not None:
        found |= {
            "frame": view.frame.number,
            "seen": [
                {
                    "track": seen.track,
                    "label": seen.label,
                    "confidence": round(seen.confidence, 6),
                    "box": [round(getattr(seen.box, side), 1) for side in ("left", "top", "width", "height")],
                }
                for seen in view.seen
            ],
            "detected": view.detected,
            "smooth": smooth,
            "dropped": view.dropped,
            "age_ms": round(view.age_ms, 3),
            "stages_ms": {name: round(ms, 3) for name, ms in view.stages.items()},
        }
    return found


def _introduction(asked: Session, classifier: Classifier, detector: Detector | None, source: Source, rule: Rule) -> str:
    facts = classifier.facts
    words = (
        f"{classifier.manifest.name} ({facts['precision']}, {facts['runtime']} {facts['version']}) on {source.name}; "
    )
    words += f"detector {detector.name}, at least every {asked.every} frames" if detector else "whole frames"
    words += f"; smooth {asked.smooth}" if asked.smooth > 1 else ""
    return f"{words}; {rule.words()}; q or Ctrl-C ends it"


def _recorder(asked: Session, source: Source, wanted: Wanted) -> Recorder | None:
    if asked.record is None:
        return None
    rate = frame_rate(source) or (wanted.fps if source.live else FILE_FPS)
    return Recorder(asked.record, rate, paced=source.live)


def _put(row: dict[str, Any]) -> bool:
    """Write a JSON line to standard output; False when nobody reads it any more."""
    try:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
