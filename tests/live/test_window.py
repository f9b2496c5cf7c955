"""The window: what is shown, and the keys that end it. PyPI's headless OpenCV has none, so OpenCV is played here."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from edgewise.live import window


class Gui:
    """The part of OpenCV that a window needs."""

    WINDOW_AUTOSIZE, WND_PROP_VISIBLE = cv2.WINDOW_AUTOSIZE, cv2.WND_PROP_VISIBLE
    COLOR_RGB2BGR = cv2.COLOR_RGB2BGR
    cvtColor = staticmethod(cv2.cvtColor)

    def __init__(self, key: int = -1, visible: float = 1.0) -> None:
        self.key, self.visible = key, visible
        self.calls: list[Any] = []

    def namedWindow(self, title: str, flags: int) -> None:
        self.calls.append(title)

    def imshow(self, title: str, picture: np.ndarray) -> None:
        self.calls.append(picture)

    def waitKey(self, ms: int) -> int:
        return self.key

    def getWindowProperty(self, title: str, which: int) -> float:
        return self.visible

    def destroyWindow(self, title: str) -> None:
        self.calls.append("destroyed")


@pytest.mark.parametrize(
    ("key", "visible", "goes_on"),
    [(-1, 1.0, True), (ord("x"), 1.0, True), (ord("q"), 1.0, False), (27, 1.0, False), (-1, 0.0, False)],
)
def test_q_escape_and_the_close_button_end_it(key: int, visible: float, goes_on: bool) -> None:
    gui = Gui(key, visible)
    shown = window.Window(gui)
    assert shown.show(np.full((4, 4, 3), (1, 2, 3), np.uint8)) is goes_on
    assert gui.calls[1][0, 0].tolist() == [3, 2, 1]
    shown.close()
    assert gui.calls[-1] == "destroyed"


def test_why_there_is_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "opencv-python-headless" in window.why_no_window()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert window.why_no_window() == "there is no display"
    monkeypatch.setenv("DISPLAY", ":1")
    assert window.why_no_window() == ""
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI: \n    GTK+: NO\n")
    assert "without windows" in window.why_no_window()
