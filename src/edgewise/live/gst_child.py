"""A GStreamer pipeline in a process of its own that writes raw RGB frames into a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from typing import IO

import numpy as np

from edgewise.device import Pixels
from edgewise.errors import UnavailableError
from edgewise.live.base import Source
from edgewise.live.wanted import Wanted

MAX_WORDS = 2000
"""Of what the child has to say, so many characters are told."""


class ChildSource:
    """A running `gst-launch-1.0`; see `edgewise.live.base.Source`. The child ends with `close`."""

    def __init__(self, pipeline: str, name: str, wanted: Wanted, live: bool) -> None:
        self.name = name
        self.live = live
        self.fps = wanted.fps or None
        self._shape = wanted.height, wanted.width, 3
        self._row = (3 * wanted.width + 3) // 4 * 4  # GStreamer pads rows of RGB to four bytes
        self._closing = threading.Lock()
        self._closed = False
        self._ahead: Pixels | None = None
        self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._child = subprocess.Popen(
            ["gst-launch-1.0", "-q", *shlex.split(pipeline), *tail(wanted), "!", "fdsink", "fd=1", "sync=false"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,  # Ctrl-C is for the loop, which then ends the child
        )

    def begin(self) -> None:
        """Wait for the first frame, which the first `read` will give."""
        self._ahead = self.read()

    def read(self) -> Pixels | None:
        """The next frame; None at the end of the stream.

        Raises:
            UnavailableError: L07, the pipeline failed; the child's own words are in it.
        """
        if self._ahead is not None and not self._closed:
            first, self._ahead = self._ahead, None
            return first
        assert self._child.stdout is not None
        height, width, _ = self._shape
        rows = np.empty((height, self._row), np.uint8)
        left = rows.data.cast("B")
        while left:
            try:
                count = self._child.stdout.readinto(left)  # type: ignore[attr-defined]
            except ValueError:  # closed meanwhile by another thread
                count = 0
            if not count:
                return self._ended()
            left = left[count:]
        return np.ascontiguousarray(rows[:, : 3 * width]).reshape(self._shape)

    def close(self) -> None:
        """End the child and wait for it."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            end_child(self._child)
            if self._child.stdout is not None:
                with contextlib.suppress(ValueError, OSError):
                    self._child.stdout.close()
            self._words.close()

    def _ended(self) -> Pixels | None:
        with self._closing:
            if self._closed:
                return None
            code = self._child.wait()
            self._words.seek(0)
            words = self._words.read(MAX_WORDS).decode(errors="replace").strip()
        if code == 0 and not self.live:
            return None
        raise pipeline_failed(self.name, words or f"gst-launch-1.0 ended with {code}")


def open_child(pipeline: str, name: str, wanted: Wanted, live: bool) -> Source:
    """Start a pipeline as a child process, and wait for its first frame: a pipeline that cannot run says so then."""
    source = ChildSource(pipeline, name, wanted, live)
    try:
        source.begin()
    except UnavailableError:
        source.close()
        raise
    return source


def tail(wanted: Wanted) -> list[str]:
    """The words that end every pipeline in RGB frames of the wanted size. `videorate` is not among them: a camera's
    rate is its own."""
    caps = f"video/x-raw,format=RGB,width={wanted.width},height={wanted.height},pixel-aspect-ratio=1/1"
    return ["!", "videoconvert", "!", "videoscale", "add-borders=true", "!", caps]


def end_child(child: subprocess.Popen[bytes], seconds: float = 2.0) -> None:
    """Ask a child (and its process group) to end, and make it end.

    Its pipe is emptied meanwhile: a child that waits for room in it does not hear that it shall end.
    """
    for number in (signal.SIGINT, signal.SIGKILL):
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        deadline = time.monotonic() + seconds
        while child.poll() is None and time.monotonic() < deadline:
            if child.stdout is not None and select.select([child.stdout], [], [], 0.02)[0]:
                os.read(child.stdout.fileno(), 1 << 20)
    child.wait()


def pipeline_failed(name: str, why: str) -> UnavailableError:
    """The error of a pipeline that does not run, or does not go on."""
    return UnavailableError(
        f"{name}: the pipeline does not run",
        code="L07",
        why=why,
        fix="try it alone: gst-launch-1.0 PIPELINE ! fakesink; `gst-inspect-1.0 ELEMENT` tells what is missing",
    )
