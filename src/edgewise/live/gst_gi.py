"""A GStreamer pipeline in this process, by PyGObject."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np

from edgewise.device import Pixels
from edgewise.live.base import Source
from edgewise.live.gst_child import pipeline_failed, tail
from edgewise.live.wanted import Wanted

PULL_NS = 5_000_000_000
"""Without a frame for so long, a live pipeline counts as lost."""


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

    def read(self) -> Pixels | None:
        """The next frame; None at the end of the stream.

        Raises:
            UnavailableError: L07, the pipeline failed or gives nothing.
        """
        if self._closed:
            return None
        sample = self._sink.emit("try-pull-sample", PULL_NS)
        if self._closed:
            return None
        if sample is None:
            kinds = self._gst.MessageType.ERROR
            told = self._pipeline.get_bus().pop_filtered(kinds)
            if told is not None:
                raise pipeline_failed(self.name, str(told.parse_error()[0]))
            if self.live or not self._sink.get_property("eos"):
                raise pipeline_failed(self.name, "no frame came")
            return None
        size = sample.get_caps().get_structure(0)
        width, height = size.get_value("width"), size.get_value("height")
        data: bytes = sample.get_buffer().extract_dup(0, sample.get_buffer().get_size())
        row = len(data) // height  # rows are padded to four bytes
        return np.frombuffer(data, np.uint8).reshape(height, row)[:, : 3 * width].reshape(height, width, 3)

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
    """Start a pipeline in this process."""
    return GiSource(_gst(), pipeline, name, wanted, live)


def _gst() -> Any:
    if importlib.util.find_spec("gi") is None:
        raise ImportError("no gi")
    gi = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gst = importlib.import_module("gi.repository.Gst")
    gst.init(None)
    return gst
