"""Where the time of the live loop goes: a budget of its stages, the bottleneck, and what to change.

Stages are milliseconds of those frames in which they ran; `share` is their part of the loop's busy time over all
frames, so that a detector of 20 ms on each tenth frame counts as 2 ms a frame. `grab` and `redetect` run beside the
loop and take no part of it. Percentiles follow `edgewise.measure`: a p90 needs 44 samples.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgewise.live.base import BESIDE, STAGES, View
from edgewise.measure.intervals import P90_RUNS

KEPT = 4096
"""Samples of each stage that are kept: the last ones, so that a loop that runs for weeks does not grow."""
WAITING = 0.2
"""Share of the time without work above which the source is the bottleneck."""


@dataclass(frozen=True)
class Stage:
    """One line of the budget; `ms_per_frame` is its time over all frames, `share` of the loop's busy time (0..1)."""

    name: str
    n: int
    p50_ms: float
    p90_ms: float | None
    ms_per_frame: float
    share: float | None


@dataclass(frozen=True)
class Budget:
    """What `--profile` prints. Rates are per second of wall time, `cpu` in percent of one core, all threads together.

    `age` is the time from the taking of a frame to its showing.
    """

    frames: int
    fps: float
    stages: tuple[Stage, ...]
    age_p50_ms: float | None
    age_p90_ms: float | None
    dropped: int
    detections: int
    faces: float
    cpu: float
    idle: float
    bottleneck: str
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Settings:
    """What the advice depends on."""

    detector: str
    every: int
    detector_width: int
    format: str
    threads: int
    live: bool
    window: bool


class Profile:
    """Collects views; `clock` and `cpu_clock` give seconds."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._cpu_clock = cpu_clock or _cpu_seconds
        self._samples: dict[str, deque[float]] = {name: deque(maxlen=KEPT) for name in (*STAGES, "age")}
        self._sums = dict.fromkeys(STAGES, 0.0)
        self._counts = dict.fromkeys(STAGES, 0)
        self._frames = self._dropped = self._detections = self._seen = 0
        self._start: float | None = None
        self._cpu_start = self._cpu_end = self._end = 0.0

    def add(self, view: View, draw_ms: float | None = None) -> None:
        """Count a view; those without a frame are left out. The clock starts with the first frame.

        Args:
            view: of the loop.
            draw_ms: what showing it took, when it was shown.
        """
        if view.frame is None:
            return
        self._end, self._cpu_end = self._clock(), self._cpu_clock()
        if self._start is None:  # the first frame has the warming up of everything in it
            self._start, self._cpu_start = self._end, self._cpu_end
            return
        self._frames += 1
        self._dropped += view.dropped
        self._detections += view.detected
        self._seen += len(view.seen)
        stages = view.stages if draw_ms is None else {**view.stages, "draw": draw_ms}
        for name, ms in stages.items():
            self._samples[name].append(ms)
            self._sums[name] += ms
            self._counts[name] += 1
        self._samples["age"].append(view.age_ms + (draw_ms or 0.0))

    def budget(self) -> Budget | None:
        """The budget of what was added; None before the second frame."""
        if not self._frames or self._start is None:
            return None
        wall = max(1e-9, self._end - self._start)
        busy = sum(ms for name, ms in self._sums.items() if name not in BESIDE) / 1e3
        idle = min(1.0, max(0.0, 1 - busy / wall))
        stages = tuple(self._stage(name, busy) for name in STAGES if self._counts[name])
        bottleneck = self._bottleneck(stages, idle)
        age = self._samples["age"]
        fps = self._frames / wall
        return Budget(
            frames=self._frames,
            fps=fps,
            stages=stages,
            age_p50_ms=_percentile(age, 50),
            age_p90_ms=_percentile(age, 90),
            dropped=self._dropped,
            detections=self._detections,
            faces=self._seen / self._frames,
            cpu=100 * (self._cpu_end - self._cpu_start) / wall,
            idle=idle,
            bottleneck=bottleneck,
            advice=tuple(advise(bottleneck, stages, self._settings, self._frames / max(1e-9, busy))),
        )

    def _stage(self, name: str, busy: float) -> Stage:
        samples = self._samples[name]
        median = _percentile(samples, 50) or 0.0
        mean = self._sums[name] / self._frames
        share = None if name in BESIDE else self._sums[name] / 1e3 / max(1e-9, busy)
        return Stage(name, self._counts[name], median, _percentile(samples, 90), mean, share)

    def _bottleneck(self, stages: tuple[Stage, ...], idle: float) -> str:
        work = [stage for stage in stages if stage.name not in BESIDE]
        if not work or (idle > WAITING and any(stage.name == "grab" for stage in stages)):
            return "source"
        return max(work, key=lambda stage: stage.ms_per_frame).name


def advise(bottleneck: str, stages: tuple[Stage, ...], settings: Settings, could: float) -> list[str]:
    """What to change, the most promising first; `could` is the rate of the loop if frames were always there."""
    by_name = {stage.name: stage for stage in stages}
    if bottleneck == "source":
        words = [f"the source gives the pace: the loop alone could do {could:.0f} frames a second"]
        if settings.live:
            return [*words, "nothing to change, or ask the camera for more: --camera 640x480@60"]
        return [*words, "decoding takes the time: smaller pictures, or a codec that decodes faster (MJPEG in .avi)"]
    stage = by_name[bottleneck]
    saved = {
        "detect": _detect_advice(stage, settings),
        "track": ["fewer things to follow: a detector with fewer false alarms (yunet:FILE), or --detector none"],
        "crop": ["the frame is large: --camera 640x480; or train for smaller pictures: --set data.size=64"],
        "classify": _classify_advice(settings),
        "draw": ["drawing: --headless, or no --record"],
    }
    return saved[bottleneck]


def _detect_advice(stage: Stage, settings: Settings) -> list[str]:
    saves = stage.ms_per_frame / 2
    words = [f"--every {2 * settings.every} saves about {saves:.1f} ms a frame; a new face is found that much later"]
    if settings.detector_width != 160 and settings.detector.startswith(("haar", "lbp", "yunet")):
        half = max(160, (settings.detector_width or 640) // 2)
        smallest = f"; faces narrower than a {half // 24}th of the frame are then missed"
        words.append(f"--detector-width {half} saves up to three quarters of a detection{smallest}")
    if settings.detector.startswith("haar"):
        words.append("--detector lbp, or yunet:FILE, is another detector: look at what it finds before you trust it")
    return words


def _classify_advice(settings: Settings) -> list[str]:
    words = []
    if settings.format in ("onnx", "packed"):
        words.append("another format or int8: edgewise export RUN --to auto --precision fp32,int8 times them here")
    if settings.threads == 1:
        words.append("--threads 2, where a core is idle")
    return [*words, "a smaller net: edgewise run ... --plan 'prune(0.5)'"]


def lines(budget: Budget) -> list[str]:
    """The budget as a table for people."""
    rows = ["stage       runs      p50 ms    p90 ms   ms/frame   share"]
    for stage in budget.stages:
        share = "beside" if stage.share is None else f"{stage.share:.0%}"
        p90 = f"{stage.p90_ms:9.2f}" if stage.p90_ms is not None else "   (n<44)"
        rows.append(f"{stage.name:9}{stage.n:7}{stage.p50_ms:12.2f} {p90}{stage.ms_per_frame:11.2f}{share:>8}")
    age = f"{budget.age_p50_ms:.1f} ms p50" if budget.age_p50_ms is not None else "unknown"
    age += f", {budget.age_p90_ms:.1f} ms p90" if budget.age_p90_ms is not None else ""
    rows += [
        f"{budget.frames} frames, {budget.fps:.1f} a second, {budget.dropped} dropped; "
        f"{budget.detections} detections; {budget.faces:.2f} seen a frame",
        f"frame to result: {age}; CPU {budget.cpu:.0f} % of a core; the loop waits {budget.idle:.0%} of the time",
        f"bottleneck: {budget.bottleneck}",
        *(f"  - {words}" for words in budget.advice),
    ]
    return rows


def _percentile(samples: deque[float], share: int) -> float | None:
    if not samples or (share == 90 and len(samples) < P90_RUNS):
        return None
    return float(np.percentile(samples, share, method="inverted_cdf" if share != 50 else "linear"))


def _cpu_seconds() -> float:
    """CPU time of this process, all threads, user and system."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime
