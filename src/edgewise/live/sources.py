"""Where frames come from: one table of kinds, and `open_source`, which reads the words of `--source`.

::

    usb:0                      the USB camera /dev/video0, by OpenCV
    csi:0                      a camera on the ribbon cable of a Jetson or Raspberry Pi, by GStreamer
    picamera                   the camera of a Raspberry Pi, by picamera2
    rtsp://host/path           a network camera, by OpenCV
    gst:videotestsrc           any GStreamer pipeline, without its end
    synthetic                  a moving test picture; synthetic:320x240@60, and @0 for as fast as it is read
    clip.mp4                   a video file, by OpenCV
    pictures/                  the pictures of a folder in the order of their names, or one picture
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgewise.errors import ConfigError, DataError, nearest
from edgewise.live.base import Source
from edgewise.live.capture import open_network, open_usb, open_video
from edgewise.live.gst import open_csi, open_pipeline
from edgewise.live.picamera import open_picamera
from edgewise.live.pictures import PICTURES, open_folder, open_synthetic
from edgewise.live.wanted import Wanted

Opener = Callable[[str, Wanted], Source]

SOURCES: dict[str, Opener] = {
    "usb": open_usb,
    "csi": open_csi,
    "picamera": open_picamera,
    "rtsp": open_network,
    "rtsps": open_network,
    "gst": open_pipeline,
    "synthetic": open_synthetic,
}
"""Kind -> what opens it, given the words behind the colon. A new kind is its file and one line here."""


def open_source(text: str, wanted: Wanted | None = None) -> Source:
    """Open what `--source` names, and make sure that it gives pictures where that can be known.

    Args:
        text: see the top of this file.
        wanted: size and rate to ask a camera for; files and pictures come as they are.

    Raises:
        ConfigError: L01, not a source.
        UnavailableError: L02 to L09, there is no such camera, or it cannot be used.
        DataError: L10, no such file, or it holds no pictures.
    """
    wanted = wanted or Wanted()
    kind, colon, what = text.partition(":")
    if kind in SOURCES:
        return SOURCES[kind](text if what.startswith("//") else what, wanted)
    path = Path(text)
    if path.is_dir() or path.suffix.lower() in PICTURES:
        return open_folder(path)
    if path.is_file():
        return open_video(path)
    if colon or not path.suffix:
        raise ConfigError(
            f'no source "{text}"',
            code="L01",
            why=nearest(kind, SOURCES),
            fix="usb:0, csi:0, picamera, rtsp://HOST/PATH, gst:PIPELINE, synthetic, a video file or a folder",
        )
    raise DataError("no such file", code="L10", where={"source": text}, fix="--source synthetic needs no file")
