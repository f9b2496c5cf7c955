"""Work on many files in threads that are watched: a file that stands still is named, and the command can still end.

The threads are daemons and nobody waits for one that stands still, because a thread that is blocked inside a read of
a dead network mount can be neither interrupted nor joined.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgewise.data.walk import shown
from edgewise.errors import DataError

Content = Path | NDArray[np.uint8]
"""What to decode: an image file, or one gray image (height, width) of a built-in set."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds that one file may take, unless another number is asked for."""

_CHUNK = 64
_LOOK = 0.5
_GRACE = 5.0


def each(
    contents: Sequence[Content], work: Callable[[int], T], progress: Progress | None, patience: float = PATIENCE
) -> list[T]:
    """Results of `work` on every index of `contents`, in order. When it ends early, what has not started is dropped.

    Files are worked on in threads, since reading, hashing and decoding let go of the interpreter lock. Images of a
    built-in set are so small that threads would only wait for each other.

    Raises:
        DataError: D33, a file has been worked on for longer than `patience` seconds.
    """
    in_threads = any(isinstance(content, Path) for content in contents)
    size = _CHUNK if in_threads else _CHUNK * 16
    chunks = [range(start, min(start + size, len(contents))) for start in range(0, len(contents), size)]
    pool = _Pool(chunks, work)
    done = 0
    with warnings.catch_warnings():  # Pillow warns of odd metadata in files that it decodes all the same
        warnings.simplefilter("ignore")
        try:
            pool.start(min(_threads() if in_threads else 1, len(chunks)))
            while done < len(contents):
                done += pool.wait(contents, patience)
                if progress:
                    progress(done, len(contents))
        finally:
            pool.stop(min(_GRACE, patience))
    return [result for chunk in pool.results for result in chunk]


@dataclass
class _Place:
    """Where one thread is: the index it works on, None between chunks, and since when."""

    index: int | None = None
    since: float = 0.0


class _Pool:
    def __init__(self, chunks: Sequence[range], work: Callable[[int], Any]) -> None:
        self.results: list[list[Any]] = [[] for _ in chunks]
        self._chunks = chunks
        self._work = work
        self._todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        self._places: list[_Place] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        for number in range(len(chunks)):
            self._todo.put(number)

    def start(self, threads: int) -> None:
        for number in range(threads):
            place = _Place()
            thread = threading.Thread(target=self._run, args=(place,), name=f"decode-{number}", daemon=True)
            self._places.append(place)
            self._threads.append(thread)
            thread.start()

    def wait(self, contents: Sequence[Content], patience: float) -> int:
        """Wait for the next chunk; how many images it held.

        Raises:
            DataError: D33, a thread stands still.
        """
        while True:
            try:
                number, problem = self._done.get(timeout=min(_LOOK, patience / 2))
            except queue.Empty:
                self._look(contents, patience)
                continue
            if problem is not None:
                raise problem
            return len(self._chunks[number])

    def stop(self, grace: float) -> None:
        """Drop what has not started, and wait so many seconds at most for what runs."""
        self._ended.set()
        end = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _look(self, contents: Sequence[Content], patience: float) -> None:
        now = time.monotonic()
        still = [p.index for p in self._places if p.index is not None and now - p.since > patience]
        if still:
            raise DataError(
                "reading a file stands still",
                code="D33",
                where={"file": "\n".join(_name(contents[index]) for index in still)},
                why=f"no end after {patience:g} s; a network folder or disk that does not answer is the usual cause",
                fix="check the disk or mount, or copy the images to a local folder; for very slow ones raise "
                "--set data.read_seconds=SECONDS",
            )

    def _run(self, place: _Place) -> None:
        while not self._ended.is_set():
            try:
                number = self._todo.get_nowait()
            except queue.Empty:
                return
            problem: BaseException | None = None
            try:
                for index in self._chunks[number]:
                    if self._ended.is_set():
                        return
                    place.index, place.since = index, time.monotonic()
                    self.results[number].append(self._work(index))
            except BaseException as raised:  # noqa: BLE001 - raised again in the thread that waits
                problem = raised
            finally:
                place.index = None
            self._done.put((number, problem))


def _name(content: Content) -> str:
    return shown(str(content)) if isinstance(content, Path) else "an image of a built-in set"


def _threads() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, cpus)
