"""A GStreamer pipeline by an OpenCV that is built with GStreamer: a board's own, not PyPI's."""

from __future__ import annotations

import importlib.util

from edgewise.live.base import Source
from edgewise.live.capture import CaptureSource
from edgewise.live.gst_child import pipeline_failed, tail
from edgewise.live.wanted import Wanted


def has_opencv() -> bool:
    """Whether OpenCV is here, and says that it has GStreamer."""
    if importlib.util.find_spec("cv2") is None:
        return False
    import cv2

    return "GStreamer: YES" in " ".join(cv2.getBuildInformation().split())


def open_opencv(pipeline: str, name: str, wanted: Wanted, live: bool) -> Source:
    """Start a pipeline by OpenCV.

    Raises:
        UnavailableError: L07.
    """
    import cv2

    words = " ".join([pipeline, *tail(wanted)]).replace("format=RGB", "format=BGR")
    drop = " drop=true" if live else ""
    capture = cv2.VideoCapture(f"{words} ! appsink sync=false max-buffers=1{drop}", cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        capture.release()
        raise pipeline_failed(name, "OpenCV cannot open it")
    return CaptureSource(capture, name, live, lambda: pipeline_failed(name, "no frame came"))
