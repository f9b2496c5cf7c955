"""Sources by way of OpenCV: USB cameras, network cameras and video files."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgewise.device import Pixels
from edgewise.errors import ConfigError, DataError, UnavailableError
from edgewise.live import devices
from edgewise.live.base import Source
from edgewise.live.opencv import hushed, load_opencv
from edgewise.live.pixels import to_rgb
from edgewise.live.wanted import Wanted

NETWORK_TIMEOUT_MS = 5000
"""Without a word for so long, a network camera counts as lost."""
CLOSE_S = 1.0
"""How long closing waits for a read that is under way; after that, the reader gives the device back itself."""


class CaptureSource:
    """A `cv2.VideoCapture`; see `edgewise.live.base.Source`.

    Args:
        capture: an opened one.
        name: as `--source` names it.
        live: whether frames pass whether or not they are read.
        lost: makes the error of a camera that gives no more frames.
    """

    def __init__(self, capture: Any, name: str, live: bool, lost: Callable[[], UnavailableError]) -> None:
        self._capture = capture
        self.name = name
        self.live = live
        self._lost = lost
        self._lock = threading.Lock()
        self._closed = False
        self.fps: float | None = capture.get(load_opencv(name).CAP_PROP_FPS) or None

    def read(self) -> Pixels | None:
        """The next frame, RGB; None at the end of a file.

        Raises:
            UnavailableError: L05 or L09, the camera is lost; L08, its pixels are of another format.
        """
        with self._lock:
            there, frame = (False, None) if self._closed else self._capture.read()
            if self._closed:
                self._capture.release()
                return None
        if not there or frame is None:
            if self.live:
                raise self._lost()
            return None
        return to_rgb(frame, self.name, "BGR")

    def close(self) -> None:
        """Give the device back. A `cv2.VideoCapture` must not be released while another thread reads from it."""
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_S):
            try:
                self._capture.release()
            finally:
                self._lock.release()


def open_usb(text: str, wanted: Wanted) -> Source:
    """`usb:0` is /dev/video0. One frame is read to see that the camera gives any.

    Raises:
        ConfigError: L01, not a number.
        UnavailableError: L02 to L04, L06, L08.
    """
    if text and not text.isdigit():
        raise ConfigError(f'not a camera: "usb:{text}"', code="L01", fix="usb:0 is /dev/video0")
    cv2 = load_opencv("a USB camera")
    number = int(text or 0)
    device = f"/dev/video{number}"
    linux = sys.platform.startswith("linux")
    if linux:  # other systems have no device files to ask
        devices.check_device(device, devices.ROOT)
    with hushed(cv2):
        capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
    if not capture.isOpened():
        capture.release()
        raise devices.busy(device, "OpenCV cannot open it", devices.ROOT)
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.width)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.height)
    capture.set(cv2.CAP_PROP_FPS, wanted.fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    source = CaptureSource(capture, f"usb:{number}", True, lambda: _unplugged(device, number))
    try:
        source.read()
    except UnavailableError as problem:
        source.close()
        if problem.code != "L05":
            raise
        raise devices.busy(device, "it was opened and gave no frame", devices.ROOT) from None
    return source


def open_network(url: str, wanted: Wanted) -> Source:  # noqa: ARG001 - a network camera decides what it sends
    """`rtsp://host/path`. A name and password in the address are used and never shown.

    Raises:
        ConfigError: L01, not such an address.
        UnavailableError: L06, L09 it does not answer, or is not a camera.
    """
    if not url.startswith(("rtsp://", "rtsps://")):
        raise ConfigError(f'not an address: "{url}"', code="L01", fix="rtsp://HOST/PATH")
    cv2 = load_opencv("a network camera")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT_MS]
    with hushed(cv2):
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits)
    name = without_password(url)
    if not capture.isOpened():
        capture.release()
        raise _silent(name, "it does not answer")
    return CaptureSource(capture, name, True, lambda: _silent(name, "no frame came"))


def open_video(path: Path) -> Source:
    """A video file, whole, one frame after another.

    Raises:
        DataError: L10, no video that OpenCV can decode.
        UnavailableError: L06.
    """
    cv2 = load_opencv("a video file")
    with hushed(cv2):
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise DataError(
            "not a video that can be decoded",
            code="L10",
            where={"source": path},
            fix="`ffprobe FILE` tells what it is; H.264 in .mp4 and MJPEG in .avi always work",
        )
    return CaptureSource(capture, str(path), False, lambda: _silent(str(path), "no frame came"))


def without_password(url: str) -> str:
    """An address without name and password.

    >>> without_password("rtsp://me:secret@10.0.0.7:554/h264")
    'rtsp://10.0.0.7:554/h264'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _unplugged(device: str, number: int) -> UnavailableError:
    there = device in devices.cameras(devices.ROOT)
    return UnavailableError(
        f"usb:{number} is lost",
        code="L05",
        why="no frame came" if there else f"{device} is gone: unplugged",
        fix="plug it in again; `dmesg` tells more (a weak power supply drops cameras too)",
    )


def _silent(name: str, why: str) -> UnavailableError:
    return UnavailableError(
        f"{name} is lost",
        code="L09",
        why=why,
        fix="is it on, and in this network? `ffplay URL` shows whether address, name and password are right",
    )
