"""The detector in a thread of its own, so that frames go on while it looks at one of them.

A detector is the longest step of the loop by far, and OpenCV and onnxruntime let go of Python while they work: on a
board of two cores or more the loop need not wait for it. All detections go through the one thread, because a cascade
keeps state while it runs.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from edgewise.device import Pixels
from edgewise.live.base import Box, Detector
from edgewise.live.track import Mark


@dataclass(frozen=True)
class Found:
    """What the detector found, and how long it looked for, in ms."""

    boxes: list[Box]
    ms: float


@dataclass
class _Asked:
    mark: Mark
    answer: Future[Found]
    frames: int = 0


class Aside:
    """Asks a detector, for an answer now or later.

    Args:
        detector: only one thread calls it.
        lag: frames after which a later answer is taken, waiting for it where need be, so that a video gives the same
            results each time; None takes it as soon as it is there, as is best for a camera.
    """

    def __init__(self, detector: Detector, lag: int | None) -> None:
        self._detector = detector
        self._lag = lag
        self._thread = ThreadPoolExecutor(1, "edgewise-detect")
        self._asked: _Asked | None = None

    def now(self, pixels: Pixels) -> list[Box]:
        """Look at this picture and wait; an answer that is still to come is no longer wanted."""
        self.forget()
        return self._thread.submit(self._look, pixels).result().boxes

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return self._asked is not None

    def later(self, pixels: Pixels, mark: Mark) -> None:
        """Look at this picture meanwhile; only when no other answer is to come."""
        self._asked = _Asked(mark, self._thread.submit(self._look, pixels))

    def answer(self) -> tuple[Mark, Found] | None:
        """The later answer, if it is due; call it once for each frame."""
        asked = self._asked
        if asked is None:
            return None
        asked.frames += 1
        if asked.frames < self._lag if self._lag is not None else not asked.answer.done():
            return None
        self._asked = None
        return asked.mark, asked.answer.result()

    def forget(self) -> None:
        """Drop an answer that is still to come."""
        if self._asked is not None:
            self._asked.answer.cancel()
            self._asked = None

    def close(self) -> None:
        """End the thread, after the detection it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _look(self, pixels: Pixels) -> Found:
        started = time.perf_counter()
        boxes = self._detector.find(pixels)
        return Found(boxes, (time.perf_counter() - started) * 1e3)
