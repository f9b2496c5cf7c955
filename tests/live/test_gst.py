"""GStreamer pipelines, run by the real GStreamer of Debian, by each way that is here."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.base import Source
from edgewise.live.gst import BOARDS, board, csi_pipeline, open_pipeline
from edgewise.live.gst_child import ChildSource
from edgewise.live.sources import open_source
from edgewise.live.wanted import Wanted

SMALL = Wanted(64, 48, 30)


def drain(source: Source) -> None:
    while source.read() is not None:
        pass


def test_a_test_picture_comes_in_rgb_through_the_child() -> None:
    source = open_pipeline("videotestsrc pattern=red", SMALL, "child")
    assert source.live
    for _ in range(3):
        frame = source.read()
        assert frame is not None
        assert frame.shape == (48, 64, 3)
        assert (frame == (255, 0, 0)).all()
    source.close()
    assert isinstance(source, ChildSource)
    assert source._child.poll() is not None
    assert source.read() is None


def test_rows_that_gstreamer_pads_come_unpadded() -> None:
    source = open_pipeline("videotestsrc pattern=blue", Wanted(67, 31, 30), "child")
    for _ in range(2):
        frame = source.read()
        assert frame is not None
        assert frame.shape == (31, 67, 3)
        assert (frame == (0, 0, 255)).all()
    source.close()


def test_files_are_read_whole_and_end(tmp_path: Path) -> None:
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{number}.png")
    words = f'multifilesrc location="{tmp_path}/%d.png" caps="image/png,framerate=30/1" ! pngdec'
    source = open_source(f"gst:{words}", SMALL)
    assert not source.live
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame[24, 32].tolist())
    assert frames == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    source.close()


def test_a_pipeline_that_does_not_run_says_what_gstreamer_said() -> None:
    for words, told in (
        ("nosuchelement", "no element"),
        ("filesrc location=/nowhere ! decodebin", "/nowhere"),
        ("videotestsrc num-buffers=2", "ended with 0"),  # a camera does not end
    ):
        with pytest.raises(UnavailableError) as caught:
            drain(open_pipeline(words, SMALL, "child"))
        assert caught.value.code == "L07"
        assert told in str(caught.value)


def test_closing_ends_a_child_that_another_thread_waits_for() -> None:
    import threading

    source = open_pipeline("videotestsrc is-live=true ! video/x-raw,framerate=1/30", SMALL, "child")
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.extend(source.read() for _ in range(2)), daemon=True)
    thread.start()
    thread.join(0.5)
    source.close()
    thread.join(5)
    assert not thread.is_alive()
    assert got[-1] is None


def test_pygobject_gives_the_pixels_of_the_child() -> None:
    """The `gi` of Debian is made for the system's Python 3.11; it loads into this one, in a process of its own."""
    code = textwrap.dedent("""
        import sys
        sys.path.append("/usr/lib/python3/dist-packages")
        import numpy as np
        from edgewise.errors import UnavailableError
        from edgewise.live import gst
        from edgewise.live.wanted import Wanted
        assert gst.WAYS["gi"][0](), "no PyGObject with GStreamer"
        for size in (Wanted(64, 48, 30), Wanted(67, 31, 30)):
            frames = []
            for way in ("gi", "child"):
                source = gst.open_pipeline("videotestsrc pattern=smpte75", size, way)
                frames.append(source.read())
                source.close()
                assert source.read() is None
            assert frames[0].shape == (size.height, size.width, 3)
            # the lower right corner of that pattern is noise
            np.testing.assert_array_equal(*(frame[: size.height // 2] for frame in frames))
        ended = gst.open_pipeline("filesrc location=/dev/null ! rawvideoparse width=8 height=8", size, "gi")
        assert ended.read() is None
        ended.close()
        for words in ("nosuchelement", "filesrc location=/nowhere ! decodebin"):
            try:
                gst.open_pipeline(words, size, "gi").read()
            except UnavailableError as problem:
                print(problem.code, problem.why)
        # without a way being named, PyGObject goes before the child
        source = gst.open_pipeline("videotestsrc", size)
        print(type(source).__name__)
        source.close()
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, kind = done.stdout.splitlines()
    assert first.startswith("L07 ")
    assert 'no element "nosuchelement"' in first
    assert second.startswith("L07 ")
    assert kind == "GiSource"


def test_a_jetson_s_pipeline_is_the_known_one_and_runs_with_what_is_here() -> None:
    pipeline = csi_pipeline("jetson", 1, Wanted(640, 480, 29.97))
    assert pipeline == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=640,height=480,framerate=30/1,format=NV12 ! "
        "nvvidconv ! video/x-raw,format=BGRx"
    )
    here = pipeline.replace("nvarguscamerasrc sensor-id=1", "videotestsrc pattern=green").replace("(memory:NVMM)", "")
    source = open_pipeline(here.replace("nvvidconv", "videoconvert"), SMALL, "child")
    frame = source.read()
    source.close()
    assert frame is not None
    assert np.abs(frame.reshape(-1, 3).mean(0) - (0, 255, 0)).max() < 8


def test_a_raspberry_pi_s_pipeline_runs_with_what_is_here() -> None:
    pipeline = csi_pipeline("raspberry", 0, Wanted(64, 48, 30))
    assert pipeline == "libcamerasrc ! video/x-raw,width=64,height=48,framerate=30/1"
    source = open_pipeline(pipeline.replace("libcamerasrc", "videotestsrc pattern=white"), SMALL, "child")
    frame = source.read()
    source.close()
    assert frame is not None
    assert (frame == 255).all()
    with pytest.raises(ConfigError, match="chooses its cameras by name"):
        csi_pipeline("raspberry", 1, SMALL)


@pytest.mark.parametrize(
    ("model", "known"),
    [
        (b"NVIDIA Jetson Nano Developer Kit\0", "jetson"),
        (b"Raspberry Pi 5 Model B Rev 1.0\0", "raspberry"),
        (b"Some board\0", None),
    ],
)
def test_boards_are_known_by_their_device_tree(model: bytes, known: str | None, tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_bytes(model)
    assert board(tmp_path) == known
    assert known is None or known in BOARDS
    assert board(tmp_path / "elsewhere") is None


def test_csi_on_another_machine_says_so() -> None:
    with pytest.raises(UnavailableError, match="neither a Jetson nor a Raspberry Pi"):
        open_source("csi:0")
