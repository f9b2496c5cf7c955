"""The live source: one thread runs the loop and keeps the newest view; whoever watches is given that one.

Nothing is queued: a slow page skips frames, it does not fall behind. A view that has become old is not given at all,
because a label that stands while the camera is gone is worse than none.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from edgewise.device import Pixels
from edgewise.errors import EdgewiseError
from edgewise.live.base import Seen, View
from edgewise.live.classify import cut
from edgewise.serve.answers import Answer, Opened, answer, told
from edgewise.serve.limits import Limits
from edgewise.serve.metrics import LiveFigures, Metrics

SHOWN_WIDTH = 960
"""Wider pictures are sent scaled down; what is classified is the frame as it came."""
JPEG_QUALITY = 80
FPS_VIEWS = 60
STOP_S = 3.0
"""A source that gives nothing is noticed within a second, and is given two to be closed."""


@dataclass(frozen=True)
class Sight:
    """A view with what the second bundle says of the same crops; `number` counts them, `came` is perf_counter's."""

    number: int
    came: float
    view: View
    beside: tuple[Answer, ...] = ()


class Watch:
    """Runs the loop from `start` to `stop`.

    Args:
        name: of the source.
        views: what the loop yields; iterated, and closed, in the thread.
        bundles: of which the thread may use the models; the first one's answers are in the views, the second is asked
            here.
        limits: of the server.
        metrics: told of the stages.
    """

    def __init__(
        self, name: str, views: Generator[View], bundles: Sequence[Opened], limits: Limits, metrics: Metrics
    ) -> None:
        self.name = name
        self._views, self._bundles = views, bundles
        self._limits, self._metrics = limits, metrics
        self._thread = threading.Thread(target=self._run, name="edgewise-live", daemon=True)
        self._stopping = threading.Event()
        self._newest = Sight(0, time.perf_counter(), View("no signal", note="waiting for the first frame"))
        self._moments: deque[float] = deque(maxlen=FPS_VIEWS)
        self._frames = self._dropped = 0
        self._wakers: set[Callable[[], object]] = set()
        self._wakers_lock = threading.Lock()
        self._encoded: tuple[int, bytes] = (0, b"")
        self._encoding = threading.Lock()
        self.viewers = 0

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self, wait_s: float = STOP_S) -> bool:
        """Have the thread give the source back, and wait for it; False when it does not end in time."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(wait_s)
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""
        return self._stopping.is_set() or self._newest.view.state == "ended"

    def newest(self) -> Sight:
        """The newest view; "no signal" where that is too old to be shown."""
        sight = self._newest
        if sight.view.state == "live" and time.perf_counter() - sight.came > self._limits.stale_s:
            note = sight.view.note or f"no new frame for {self._limits.stale_s:g} s"
            return Sight(sight.number, sight.came, View("no signal", note=note))
        return sight

    async def after(self, number: int, wait_s: float) -> Sight:
        """The newest view as soon as there is one with another number, or after `wait_s` whatever there is."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(arrived.set)

        with self._wakers_lock:
            self._wakers.add(wake)
        try:
            if self._newest.number == number and not self._stopping.is_set():
                async with asyncio.timeout(wait_s):
                    await arrived.wait()
        except TimeoutError:
            pass
        finally:
            with self._wakers_lock:
                self._wakers.discard(wake)
        return self.newest()

    def figures(self) -> LiveFigures:
        """For the metrics."""
        live = self.newest().view.state == "live"
        return LiveFigures(live, self._fps() if live else 0.0, self._frames, self._dropped, self.viewers)

    def message(self, sight: Sight) -> tuple[dict[str, Any], bytes]:
        """What a page is sent of a view: facts, and the picture as JPEG (empty where there is none)."""
        view = sight.view
        facts: dict[str, Any] = {"state": view.state, "note": view.note, "number": sight.number}
        if view.state != "live" or view.frame is None:
            return facts, b""
        height, width = view.frame.pixels.shape[:2]
        facts |= {
            "width": width,
            "height": height,
            "age_ms": round((time.perf_counter() - view.frame.taken) * 1e3, 2),
            "dropped": view.dropped,
            "detected": view.detected,
            "fps": round(self._fps(), 2),
            "stages": {stage: round(ms, 3) for stage, ms in view.stages.items()},
            "beside_ms": [{stage: round(ms, 3) for stage, ms in said.ms.items()} for said in sight.beside],
            "seen": [self._seen(sight, index) for index in range(len(view.seen))],
        }
        return facts, self._jpeg(sight.number, view.frame.pixels)

    def _seen(self, sight: Sight, index: int) -> dict[str, Any]:
        seen = sight.view.seen[index]
        results = [told(self._bundles[0], _answer_of(seen), None) | {"label": seen.label}]
        if sight.beside:
            results.append(told(self._bundles[1], sight.beside[index], None))
        box = seen.box
        return {"track": seen.track, "box": [box.left, box.top, box.width, box.height], "results": results}

    def _jpeg(self, number: int, pixels: Pixels) -> bytes:
        """The frame as JPEG, made once for all who watch."""
        with self._encoding:
            if self._encoded[0] != number:
                image = Image.fromarray(pixels)
                if image.width > SHOWN_WIDTH:
                    size = (SHOWN_WIDTH, max(1, round(image.height * SHOWN_WIDTH / image.width)))
                    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2)
                stream = io.BytesIO()
                image.save(stream, "JPEG", quality=JPEG_QUALITY)
                self._encoded = (number, stream.getvalue())
            return self._encoded[1]

    def _run(self) -> None:
        try:
            with contextlib.closing(self._views):
                for view in self._views:
                    if self._stopping.is_set():
                        break
                    self._take(view)
            note = "the source has ended"
        except EdgewiseError as problem:
            note = "; ".join(part for part in (problem.what, problem.why, problem.fix) if part)
        except Exception as problem:  # noqa: BLE001 - a driver may raise anything; the page must not go on showing a label
            note = f"the live loop failed: {type(problem).__name__}: {problem}"
        self._put(View("ended", note=note), ())

    def _take(self, view: View) -> None:
        beside: tuple[Answer, ...] = ()
        if view.state == "live" and view.frame is not None:
            if len(self._bundles) > 1:
                pixels = view.frame.pixels
                beside = tuple(answer(self._bundles[1], cut(pixels, seen.box)) for seen in view.seen)
                for said in beside:
                    self._metrics.stages("live", self._bundles[1].title, said.ms)
            self._metrics.stages("live", self._bundles[0].title, view.stages)
            self._moments.append(time.perf_counter())
            self._frames += 1
        self._dropped += view.dropped
        self._put(view, beside)

    def _put(self, view: View, beside: tuple[Answer, ...]) -> None:
        self._newest = Sight(self._newest.number + 1, time.perf_counter(), view, beside)
        self._wake()

    def _wake(self) -> None:
        with self._wakers_lock:
            for wake in self._wakers:
                wake()

    def _fps(self) -> float:
        moments = [moment for moment in list(self._moments) if moment > time.perf_counter() - self._limits.stale_s]
        return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


def _answer_of(seen: Seen) -> Answer:
    probabilities = np.asarray(seen.probabilities, np.float32)
    return Answer(probabilities, int(np.argmax(probabilities)), seen.confidence, {})
