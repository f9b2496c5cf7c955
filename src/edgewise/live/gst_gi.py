"""A GStreamer pipeline in this process, by PyGObject."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any

import numpy as np

from edgewise.device import Pixels
from edgewise.errors import UnavailableError
from edgewise.live.base import Source
from edgewise.live.gst_child import pipeline_failed, tail
from edgewise.live.wanted import Wanted

PULL_S = 5.0
"""Without a frame for so long, a pipeline counts as lost."""


class GiSource:
    """A playing pipeline that ends in an appsink; see `edgewise.live.base.Source`."""

    def __init__(self, gst: Any, pipeline: str, name: str, wanted: Wanted, live: bool) -> None:
        self.name = name
        self.live = live
        self.fps = wanted.fps or None
        self._gst = gst
        sink = "appsink name=edgewise sync=false max-buffers=1 drop=" + ("true" if live else "false")
        try:
            self._pipeline = gst.parse_launch(" ".join([pipeline, *tail(wanted), "!", sink]))
        except Exception as problem:  # noqa: BLE001 - GLib.Error, which has no name before gi is imported
            raise pipeline_failed(name, str(problem)) from None
        self._sink = self._pipeline.get_by_name("edgewise")
        self._pipeline.set_state(gst.State.PLAYING)
        self._closed = False
        self._ahead: Pixels | None = None

    def begin(self) -> None:
        """Wait for the first frame, which the first `read` will give."""
        self._ahead = self.read()

    def read(self) -> Pixels | None:
        """The next frame; None at the end of the stream.

        Raises:
            UnavailableError: L07, the pipeline failed or gives nothing.
        """
        if self._ahead is not None and not self._closed:
            first, self._ahead = self._ahead, None
            return first
        if self._closed:
            return None
        sample = self._pull()
        if sample is None:
            return None
        size = sample.get_caps().get_structure(0)
        width, height = size.get_value("width"), size.get_value("height")
        data: bytes = sample.get_buffer().extract_dup(0, sample.get_buffer().get_size())
        row = len(data) // height  # rows are padded to four bytes
        return np.frombuffer(data, np.uint8).reshape(height, row)[:, : 3 * width].reshape(height, width, 3)

    def _pull(self) -> Any:
        """The next sample; None when it was closed, or at the end of a file."""
        deadline = time.monotonic() + PULL_S
        while True:
            sample = self._sink.emit("try-pull-sample", self._gst.SECOND // 20)
            if self._closed:
                return None
            if sample is not None:
                return sample
            told = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
            if told is not None:
                raise pipeline_failed(self.name, str(told.parse_error()[0]))
            ended = self._sink.get_property("eos")
            if ended and not self.live:
                return None
            if ended or time.monotonic() > deadline:
                raise pipeline_failed(self.name, "the stream ended" if ended else "no frame came")

    def close(self) -> None:
        """Stop the pipeline."""
        if not self._closed:
            self._closed = True
            self._pipeline.set_state(self._gst.State.NULL)


def has_gi() -> bool:
    """Whether PyGObject with GStreamer can be imported."""
    try:
        return _gst() is not None
    except (ImportError, ValueError):
        return False


def open_gi(pipeline: str, name: str, wanted: Wanted, live: bool) -> Source:
    """Start a pipeline in this process, and wait for its first frame: a pipeline that cannot run says so then."""
    source = GiSource(_gst(), pipeline, name, wanted, live)
    try:
        source.begin()
    except UnavailableError:
        source.close()
        raise
    return source


def _gst() -> Any:
    if importlib.util.find_spec("gi") is None:
        raise ImportError("no gi")
    gi = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gst = importlib.import_module("gi.repository.Gst")
    gst.init(None)
    return gst
