"""A window with what a camera sees, where OpenCV can open one."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewise.device import Pixels

ENDS = (ord("q"), 27)
"""Keys that end it: q and Escape."""


class Preview:
    """A window that shows pictures; `problem` says why there is none: "" while there is."""

    def __init__(self, title: str) -> None:
        """Open it. `opencv-python-headless`, which edgewise installs, has no windows; a system's OpenCV mostly has."""
        self.problem = ""
        self._title = title
        self._cv2: Any = None
        try:
            import cv2
        except ImportError:
            self.problem = "OpenCV is not installed"
            return
        try:
            cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE)
        except cv2.error:
            self.problem = "this OpenCV opens no windows here"
        else:
            self._cv2 = cv2

    def show(self, pixels: Pixels, words: str) -> bool:
        """Show a picture, uint8 (height, width, 3) RGB, with a line of text; False once the user has ended it."""
        if self._cv2 is None:
            return True
        cv2 = self._cv2
        picture = np.ascontiguousarray(pixels[..., ::-1])
        place = (8, picture.shape[0] - 10)
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        cv2.imshow(self._title, picture)
        key = cv2.waitKey(1) & 0xFF
        return key not in ENDS and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Close it; may be called twice."""
        if self._cv2 is not None:
            self._cv2.destroyWindow(self._title)
            self._cv2 = None
