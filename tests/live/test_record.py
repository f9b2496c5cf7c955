"""Recordings: whole when they have their name, kept when the loop is stopped, right in time."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.base import Box, Frame, Seen, View
from edgewise.live.draw import KNOWN, UNKNOWN, draw
from edgewise.live.record import GAP_S, Recorder


def played(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            capture.release()
            return frames
        frames.append(frame[..., ::-1])


def picture(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), (level, 20, 20), np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "b.avi"])
def test_the_name_appears_with_the_whole_video(name: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / name
    recorder = Recorder(out, 10.0, paced=False)
    for level in (40, 120, 200):
        recorder.add(picture(level), 0.0)
    assert not out.exists()
    recorder.close()
    recorder.close()
    assert [path.name for path in out.parent.iterdir()] == [name]
    assert [round(float(frame[..., 0].mean()), -1) for frame in played(out)] == pytest.approx([40, 120, 200], abs=10)


def test_a_camera_s_video_keeps_its_time(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.avi", 10.0, paced=True)
    for now in (5.0, 5.01, 5.5, 5.61):
        recorder.add(picture(90), now)
    recorder.close()
    assert len(played(tmp_path / "a.avi")) == 7  # 0.61 s at 10 a second


def test_a_long_pause_is_not_filled(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.avi", 10.0, paced=True)
    for now in (0.0, GAP_S + 100, GAP_S + 100.1):
        recorder.add(picture(90), now)
    recorder.close()
    assert len(played(tmp_path / "a.avi")) == 3


def test_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.avi", 10.0, paced=False)
    recorder.add(picture(90), 0)
    recorder.add(picture(90, (96, 128)), 0)
    recorder.close()
    assert [frame.shape for frame in played(tmp_path / "a.avi")] == [(48, 64, 3)] * 2


def test_nothing_shown_leaves_nothing(tmp_path: Path) -> None:
    Recorder(tmp_path / "a.mp4", 10.0, paced=False).close()
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Recorder(tmp_path / "a.gif", 10.0, paced=False)
    assert caught.value.code == "L15"
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "a.mp4", 10.0, paced=False)
    with pytest.raises(UnavailableError) as refused:
        recorder.add(picture(1), 0)
    assert refused.value.code == "L14"
    recorder.close()


def view(*seen: Seen) -> View:
    return View("live", Frame(0, 0.0, np.zeros((120, 160, 3), np.uint8)), seen)


def test_boxes_are_drawn_on_a_copy_known_and_unknown_in_their_colours() -> None:
    known, unknown = (
        Seen(1, Box(20, 40, 40, 40), "red", 0.9, (0.9,)),
        Seen(2, Box(90, 40, 40, 40), None, 0.4, (0.4,)),
    )
    shown = view(known, unknown)
    drawn = draw(shown)
    assert shown.frame is not None
    assert not shown.frame.pixels.any()
    assert drawn[60, 20].tolist() == list(KNOWN)
    assert drawn[60, 90].tolist() == list(UNKNOWN)
    assert (drawn[22:40, 20:60] == KNOWN).all(axis=2).any()  # words above the box


def test_whole_frames_get_words_and_no_box() -> None:
    drawn = draw(view(Seen(0, Box(0, 0, 160, 120), "red", 0.9, (0.9,))), ["smooth 5"])
    assert (drawn[:24] == KNOWN).all(axis=2).any()
    assert not drawn[40:90].any()
    assert drawn[96:].any()


def test_no_signal_is_a_card_without_a_label() -> None:
    card = draw(View("no signal", note="usb:0 is lost"), size=(320, 240))
    assert card.shape == (240, 320, 3)
    assert not np.array_equal(card, draw(View("no signal", note="usb:0 is frozen"), size=(320, 240)))
