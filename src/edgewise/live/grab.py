"""The thread that takes frames from a source, so that the loop always has the newest one.

Two policies. `newest`: the loop gets the last frame that came; those before it are dropped and counted. Live sources
are read so, because a queue in front of a slow loop would show the past. `every`: no frame is dropped, the source
waits. Files are read so.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgewise.errors import DataError, UnavailableError
from edgewise.live.base import Frame, Source

Policy = Literal["newest", "every"]
AHEAD = 2
"""Frames that are read ahead of the loop under `every`."""
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before a lost source is opened again; the last one goes on for ever."""
JOIN_S = 2.0


@dataclass(frozen=True)
class Taken:
    """A frame, what reading it cost in ms, how many were dropped before it, and what is to be said of the source."""

    frame: Frame
    grab_ms: float
    dropped: int
    note: str


@dataclass(frozen=True)
class Quiet:
    """No frame; why."""

    note: str


@dataclass(frozen=True)
class Over:
    """No more frames; the error that ended them, None at the end of a file."""

    problem: Exception | None


class Grabber:
    """Reads a source in a thread of its own until it is closed.

    Args:
        source: is closed by `close`.
        policy: see above.
        reopen: opens the source again after it was lost; without it, a lost source ends the frames with its error.
        back_off: seconds to wait before each attempt.
    """

    def __init__(
        self,
        source: Source,
        policy: Policy,
        reopen: Callable[[], Source] | None = None,
        back_off: tuple[float, ...] = BACK_OFF_S,
    ) -> None:
        self._source = source
        self._room = 1 if policy == "newest" else AHEAD
        self._policy = policy
        self._reopen = reopen
        self._back_off = back_off
        self._change = threading.Condition()
        self._frames: deque[tuple[Frame, float]] = deque()
        self._dropped = 0
        self._note = ""
        self._lost = self._told = ""
        self._over: Over | None = None
        self._stop = threading.Event()
        self._number = 0
        self._thread = threading.Thread(target=self._work, name="edgewise-grab", daemon=True)
        self._thread.start()

    def take(self, timeout: float) -> Taken | Quiet | Over:
        """The next frame; `Quiet` at once on news of a lost source, and after `timeout` seconds without a frame."""
        with self._change:
            self._change.wait_for(
                lambda: bool(self._frames or self._over) or (self._lost != "" and self._lost != self._told), timeout
            )
            if self._frames:
                self._told = ""
                frame, grab_ms = self._frames.popleft()
                dropped, self._dropped = self._dropped, 0
                note, self._note = self._note, ""
                self._change.notify_all()
                return Taken(frame, grab_ms, dropped, note)
            if self._over:
                return self._over
            if self._lost:
                self._told = self._lost
                return Quiet(self._lost)
            return Quiet(f"{self._source.name} has given no frame for {timeout:g} s")

    def close(self) -> None:
        """Stop the thread and give the device back; may be called twice."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        self._source.close()
        self._thread.join(JOIN_S)

    def _work(self) -> None:
        try:
            while not self._stop.is_set() and self._one():
                pass
        except Exception as problem:  # noqa: BLE001 - it is raised again in the thread of the loop
            self._end(problem)
        finally:
            self._source.close()

    def _one(self) -> bool:
        """Read one frame; False at the end."""
        started = time.perf_counter()
        try:
            pixels = self._source.read()
        except DataError as problem:  # one damaged picture among others
            with self._change:
                self._note = f"{self._note}; {problem.what}" if self._note else f"skipped {problem.what}"
            return True
        except UnavailableError as problem:
            if self._stop.is_set():
                return False
            if self._reopen is None or not self._source.live:
                raise
            return self._open_again(problem, self._reopen)
        taken = time.perf_counter()
        if pixels is None:
            self._end(None)
            return False
        self._put(Frame(self._number, taken, pixels), (taken - started) * 1e3)
        self._number += 1
        return True

    def _put(self, frame: Frame, grab_ms: float) -> None:
        with self._change:
            self._lost = ""
            if self._policy == "newest":
                self._dropped += len(self._frames)
                self._frames.clear()
            self._frames.append((frame, grab_ms))
            self._change.notify_all()
            self._change.wait_for(
                lambda: self._policy == "newest" or len(self._frames) < self._room or self._stop.is_set()
            )

    def _open_again(self, problem: UnavailableError, reopen: Callable[[], Source]) -> bool:
        """Try to open the lost source until it comes back (True) or the loop ends (False)."""
        self._source.close()
        attempt = 0
        while not self._stop.is_set():
            wait = self._back_off[min(attempt, len(self._back_off) - 1)]
            why = f" ({problem.why})" if problem.why else ""
            with self._change:
                self._dropped += len(self._frames)
                self._frames.clear()  # from before the loss: no longer what the camera sees
                self._lost = f"{problem.what}{why}, trying again in {wait:g} s"
                self._change.notify_all()
            if self._stop.wait(wait):
                break
            attempt += 1
            try:
                self._source = reopen()
            except UnavailableError as still:
                problem = still
                continue
            if self._stop.is_set():
                break
            return True
        return False

    def _end(self, problem: Exception | None) -> None:
        with self._change:
            self._over = Over(problem)
            self._change.notify_all()
