"""Sources by their words: what opens, what it gives, and how wrong words are told."""

from __future__ import annotations

import itertools
import sys
import time
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from edgewise.errors import ConfigError, DataError, UnavailableError
from edgewise.live.base import Source
from edgewise.live.capture import without_password
from edgewise.live.pixels import to_rgb
from edgewise.live.sources import SOURCES, open_source
from edgewise.live.wanted import Wanted, frame_rate, parse_wanted

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]


def every(source: Source) -> list[np.ndarray]:
    frames = []
    while (frame := source.read()) is not None:
        assert frame.dtype == np.uint8
        assert frame.shape[2] == 3
        frames.append(frame)
    source.close()
    source.close()
    return frames


def write_video(path: Path, size: tuple[int, int] = (64, 48), fps: float = 25.0) -> Path:
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), code, fps, size)
    for colour in COLOURS:
        writer.write(np.full((size[1], size[0], 3), colour[::-1], np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("name", ["a.avi", "b.mp4"])
def test_a_video_is_read_whole_in_rgb_with_its_rate(name: str, tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / name)))
    assert not source.live
    assert frame_rate(source) == 25.0
    frames = every(source)
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.reshape(-1, 3).mean(0) - colour).max() < 8


def test_a_folder_is_read_in_the_order_of_its_numbers_and_says_what_it_skips(tmp_path: Path) -> None:
    for number, colour in zip((2, 10, 1), COLOURS, strict=False):
        Image.new("RGB", (5 + number, 4), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "3.jpg").write_bytes(b"\xff\xd8 not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path))
    widths: list[int] = []
    told = ""
    while True:
        try:
            frame = source.read()
        except DataError as problem:
            told = str(problem)
            continue
        if frame is None:
            break
        widths.append(frame.shape[1])
    assert widths == [6, 7, 15]
    assert "error[L17]: 3.jpg: " in told


def test_one_picture_is_a_source_too(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 77).save(tmp_path / "one.png")
    (frame,) = every(open_source(str(tmp_path / "one.png")))
    assert (frame == 77).all()


def test_the_synthetic_picture_moves_keeps_its_size_and_its_rate() -> None:
    source = open_source("synthetic:96x64@50,12")
    assert source.live
    assert frame_rate(source) == 50
    start = time.perf_counter()
    frames = every(source)
    assert time.perf_counter() - start >= 10 / 50
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 12
    assert all((one != other).any() for one, other in itertools.pairwise(frames))


def test_at_rate_0_it_is_as_fast_as_it_is_read_and_not_live() -> None:
    source = open_source("synthetic:@0,3", Wanted(32, 32, 30))
    assert not source.live
    assert len(every(source)) == 3


def test_a_synthetic_source_that_was_not_read_passes_over_what_is_gone() -> None:
    source = open_source("synthetic:32x32@100")
    source.read()
    time.sleep(0.2)
    start = time.perf_counter()
    source.read()
    source.read()
    assert time.perf_counter() - start >= 0.005  # the second one waits for its time: nothing is made up for


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("usbb:0", "L01", 'did you mean "usb"'),
        ("camera", "L01", "usb:0, csi:0, picamera"),
        ("usb:front", "L01", "usb:0 is /dev/video0"),
        ("csi:x", "L01", "csi:0"),
        ("gst:", "L01", "videotestsrc"),
        ("gst:videotestsrc 'half", "L01", "No closing quotation"),
        ("synthetic:8x8", "L01", "WIDTHxHEIGHT@FPS"),
        ("synthetic:,many", "L01", "WIDTHxHEIGHT@FPS"),
        ("nowhere.mp4", "L10", "no such file"),
        ("nowhere.png", "L10", "no such file"),
        ("picamera:left", "L01", "picamera:1"),
        ("rtsp:/etc/passwd", "L01", "rtsp://HOST/PATH"),
        ("rtsp", "L01", "rtsp://HOST/PATH"),
    ],
)
def test_wrong_words_are_told(words: str, code: str, told: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        open_source(words)
    assert caught.value.code == code
    assert told in str(caught.value)


def test_a_file_that_is_no_video_and_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    for words in (str(tmp_path / "a.mp4"), str(tmp_path)):
        with pytest.raises(DataError) as caught:
            open_source(words)
        assert caught.value.code == "L10"


def test_sizes() -> None:
    assert parse_wanted("1280x720@60") == Wanted(1280, 720, 60)
    assert parse_wanted("@15") == Wanted(640, 480, 15)
    assert parse_wanted("320x240", Wanted(fps=5)) == Wanted(320, 240, 5)
    for wrong in ("640", "640x", "9x9", "640*480", "9000x9000", "640x480@-1"):
        with pytest.raises(ConfigError, match="not a size"):
            parse_wanted(wrong)


def test_a_password_is_never_shown() -> None:
    assert without_password("rtsp://me:secret@cam:554/a?b=c") == "rtsp://cam:554/a?b=c"
    with pytest.raises(UnavailableError) as caught:
        open_source("rtsp://me:secret@127.0.0.1:9/none")
    assert caught.value.code == "L09"
    assert "secret" not in str(caught.value)
    assert "rtsp://127.0.0.1:9/none is lost" in str(caught.value)


def test_pixels_of_drivers() -> None:
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(to_rgb(picture, "x", "RGB"), picture)
    np.testing.assert_array_equal(to_rgb(picture, "x", "BGR"), picture[..., ::-1])
    alpha = np.concatenate([picture, picture[..., :1]], axis=2)
    np.testing.assert_array_equal(to_rgb(alpha, "x", "BGR"), picture[..., ::-1])
    np.testing.assert_array_equal(to_rgb(picture[..., 0], "x", "BGR"), np.repeat(picture[..., :1], 3, axis=2))
    for wrong in (picture[..., :2], picture.astype(np.uint16), picture.reshape(1, -1), np.zeros((0, 0), np.uint8)):
        with pytest.raises(UnavailableError, match="another pixel format"):
            to_rgb(wrong, "x", "BGR")


def test_every_kind_is_told_in_the_help() -> None:
    import edgewise.live.sources as module

    assert module.__doc__ is not None
    assert all(kind in module.__doc__ for kind in SOURCES if kind != "rtsps")


class Picamera2:
    """What picamera2 is asked for; it cannot be installed off a Raspberry Pi."""

    started: list[Any] = []  # noqa: RUF012

    def __init__(self, number: int) -> None:
        self.calls: list[Any] = [number]
        Picamera2.started.append(self)

    @staticmethod
    def global_camera_info() -> list[dict[str, str]]:
        return [{"Model": "imx708"}]

    def create_video_configuration(self, **keys: Any) -> dict[str, Any]:
        return keys

    def configure(self, keys: dict[str, Any]) -> None:
        self.calls.append(keys)

    def start(self) -> None:
        self.calls.append("start")

    def capture_array(self, name: str) -> np.ndarray:
        return np.full((48, 64, 3), (9, 8, 7), np.uint8)

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


def test_picamera_asks_for_rgb_in_memory_and_stops_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError) as missing:
        open_source("picamera")
    assert missing.value.code == "L06"
    assert "python3-picamera2" in missing.value.fix
    module = types.ModuleType("picamera2")
    module.Picamera2 = Picamera2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    source = open_source("picamera", Wanted(64, 48, 20))
    frame = source.read()
    assert frame is not None
    assert frame[0, 0].tolist() == [9, 8, 7]
    source.close()
    assert source.read() is None
    number, keys, *calls = Picamera2.started[-1].calls
    assert number == 0
    assert keys == {"main": {"size": (64, 48), "format": "BGR888"}, "controls": {"FrameRate": 20}}
    assert calls == ["start", "stop", "close"]
    with pytest.raises(UnavailableError, match=r"no camera picamera:1[\s\S]*imx708"):
        open_source("picamera:1")


def test_what_is_missing_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "a.avi")
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr("edgewise.live.gst.WAYS", {})
    for words, told in (
        ("usb:0", 'pip install "edgewise[camera]"'),
        ("rtsp://cam/x", 'pip install "edgewise[camera]"'),
        (str(video), 'pip install "edgewise[camera]"'),
        ("gst:videotestsrc", "sudo apt install gstreamer1.0-tools"),
    ):
        with pytest.raises(UnavailableError) as caught:
            open_source(words)
        assert caught.value.code == "L06"
        assert told in caught.value.fix
