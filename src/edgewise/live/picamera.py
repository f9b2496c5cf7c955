"""The camera of a Raspberry Pi through picamera2, the Pi's own library."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from edgewise.device import Pixels
from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.base import Source
from edgewise.live.pixels import to_rgb
from edgewise.live.wanted import Wanted

INSTALL = "on Raspberry Pi OS: sudo apt install python3-picamera2, then python3 -m venv --system-site-packages ai"


class PicameraSource:
    """A started Picamera2; see `edgewise.live.base.Source`."""

    live = True

    def __init__(self, camera: Any, name: str, fps: float) -> None:
        self._camera = camera
        self.name = name
        self.fps = fps
        self._closed = False

    def read(self) -> Pixels | None:
        """The next picture of the sensor.

        Raises:
            UnavailableError: L05, the camera stopped; L08, its pixels are of another format.
        """
        if self._closed:
            return None
        try:
            # picamera2 names formats by their order in a little-endian word: its "BGR888" is R, G, B in memory.
            frame = np.asarray(self._camera.capture_array("main"))
        except (RuntimeError, OSError) as problem:
            raise UnavailableError(
                f"{self.name} is lost", code="L05", why=str(problem), fix="check the ribbon cable; see `dmesg`"
            ) from problem
        return to_rgb(frame, self.name, "RGB")

    def close(self) -> None:
        """Stop it."""
        if not self._closed:
            self._closed = True
            self._camera.stop()
            self._camera.close()


def open_picamera(text: str, wanted: Wanted) -> Source:
    """`picamera` or `picamera:1`.

    Raises:
        ConfigError: L01, not a number.
        UnavailableError: L06, picamera2 is not installed; L02 or L04, no such camera, or it cannot be used.
    """
    if text and not text.isdigit():
        raise ConfigError(f'not a camera: "picamera:{text}"', code="L01", fix="picamera, or picamera:1 for the second")
    number = int(text or 0)
    try:
        picamera2: Any = importlib.import_module("picamera2")
    except ImportError as problem:
        raise UnavailableError(
            "picamera needs picamera2", code="L06", why=str(problem), fix=f"{INSTALL}; or use --source csi:0"
        ) from None
    found = picamera2.Picamera2.global_camera_info()
    if number >= len(found):
        raise UnavailableError(
            f"no camera picamera:{number}",
            code="L02",
            why="found: " + (", ".join(f"{at}: {one.get('Model', '?')}" for at, one in enumerate(found)) or "none"),
            fix="is the ribbon cable in? `rpicam-hello --list-cameras` lists what the Pi sees",
        )
    try:
        camera = picamera2.Picamera2(number)
        main = {"size": (wanted.width, wanted.height), "format": "BGR888"}
        camera.configure(camera.create_video_configuration(main=main, controls={"FrameRate": wanted.fps}))
        camera.start()
    except (RuntimeError, OSError, IndexError) as problem:
        raise UnavailableError(
            f"picamera:{number} cannot be opened",
            code="L04",
            why=str(problem),
            fix="end the program that uses it (`sudo fuser -v /dev/media*`), then try again",
        ) from problem
    return PicameraSource(camera, f"picamera:{number}", wanted.fps)
