"""Showing pictures in a window, and the key that ends it: in the window or in the terminal."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import Any

from edgewise.device import Pixels

TITLE = "edgewise live (q ends)"
QUIT = ("q", "Q", "\x1b")


class Window:
    """A window of OpenCV."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        cv2.namedWindow(TITLE, cv2.WINDOW_AUTOSIZE)

    def show(self, picture: Pixels) -> bool:
        """Show a picture, uint8 (height, width, 3) RGB; False when q was pressed or the window was closed."""
        cv2 = self._cv2
        cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)
        return chr(key & 0xFF) not in QUIT and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Take it away."""
        self._cv2.destroyWindow(TITLE)


def why_no_window() -> str:
    """Why a window cannot be shown here, "" when it can."""
    if importlib.util.find_spec("cv2") is None:
        return "there is no OpenCV"
    import cv2

    if re.search(r"^\s*GUI:\s*(NONE|NO)?\s*$", cv2.getBuildInformation(), re.M):
        return "this OpenCV was built without windows (opencv-python-headless)"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    return ""


def open_window() -> Window:
    """A window; ask `why_no_window` first."""
    import cv2

    return Window(cv2)


@contextlib.contextmanager
def keys() -> Iterator[Any]:
    """Inside the block, yields what says whether q was pressed in the terminal; never, where there is none."""
    if not sys.stdin.isatty():
        yield lambda: False
        return
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    tty.setcbreak(handle)
    try:
        yield lambda: _pressed(handle)
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _pressed(handle: int) -> bool:
    while select.select([handle], [], [], 0)[0]:
        key = os.read(handle, 1).decode(errors="replace")
        if key in QUIT:
            return True
        if not key:
            return False
    return False
