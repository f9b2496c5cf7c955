"""Case 38: cameras that are absent, in use, forbidden, unplugged, black, frozen, silent, strange; networks that fail.

No camera can be had here. Devices are files in a made-up /dev whose owners, holders and modes are real; streams are a
fake camera, a real GStreamer child that dies, and a real RTSP server that goes away and comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edgewise.errors import UnavailableError
from edgewise.live import devices
from edgewise.live.classify import Classifier, open_classifier
from edgewise.live.draw import draw
from edgewise.live.fake import Act, FakeSource
from edgewise.live.loop import LoopOptions, run
from edgewise.live.session import line
from edgewise.live.sources import open_source
from edgewise.live.wanted import Wanted

from .rtsp import Server

FAST = LoopOptions(silence_s=0.2, still_s=0.2, back_off=(0.05, 0.1))


@pytest.fixture
def classifier(bundle: Path) -> Classifier:
    return open_classifier(bundle)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /dev with two cameras."""
    root = tmp_path / "machine"
    for number, name in ((0, "HD Webcam C525"), (2, "USB 2.0 Camera")):
        (root / "dev").mkdir(parents=True, exist_ok=True)
        (root / f"dev/video{number}").touch(mode=0o660)
        named = root / f"sys/class/video4linux/video{number}/name"
        named.parent.mkdir(parents=True)
        named.write_text(name + "\n")
    (root / "proc").symlink_to("/proc")
    monkeypatch.setattr(devices, "ROOT", root)
    return root


def refusal(words: str) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        open_source(words)
    assert caught.value.exit_code == 4
    return caught.value


def test_no_such_camera_names_those_that_are_there(machine: Path) -> None:
    problem = refusal("usb:7")
    assert problem.code == "L02"
    assert problem.why == "cameras here: /dev/video0 (HD Webcam C525), /dev/video2 (USB 2.0 Camera)"
    assert "--source usb:0" in problem.fix


def test_no_camera_at_all_offers_a_file_or_the_sample(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgewise", "live", str(bundle), "--source", "usb:63"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "error[L02]: no camera /dev/video63" in done.stderr
    assert "--source synthetic, a video file or a folder of pictures" in done.stderr
    assert "Traceback" not in done.stderr


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, where the tests have them."""
    if os.geteuid():
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_no_permission_names_the_group_to_join(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import grp
    import tempfile

    with tempfile.TemporaryDirectory() as folder:  # one that nobody may enter
        root = Path(folder)
        root.chmod(0o755)
        (root / "dev").mkdir()
        device = root / "dev/video0"
        device.touch()
        if os.geteuid() == 0:
            os.chown(device, 0, grp.getgrnam("video").gr_gid)
            device.chmod(0o660)
        else:
            device.chmod(0)
        monkeypatch.setattr(devices, "ROOT", root)
        with as_nobody():
            problem = refusal("usb:0")
    assert problem.code == "L03"
    assert "sudo usermod -aG " in problem.fix
    if os.geteuid() == 0:
        assert problem.why == "it belongs to root:video, mode 660"
        assert "sudo usermod -aG video $USER" in problem.fix


def test_a_camera_in_use_names_who_holds_it(machine: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys; f = open(sys.argv[1]); print(flush=True); sys.stdin.read()",
         str(machine / "dev/video2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        problem = refusal("usb:2")
    finally:
        holder.communicate()
    assert problem.code == "L04"
    assert problem.what == "/dev/video2 is in use"
    assert f"(process {holder.pid})" in problem.why
    assert "held by python" in problem.why
    assert refusal("usb:2").what == "/dev/video2 gives no picture"


def test_the_own_process_is_no_holder(machine: Path) -> None:
    with (machine / "dev/video0").open():
        assert devices.holders("/dev/video0", machine) == []


def told(acts: list[Act], classifier: Classifier) -> tuple[list[str], list[str]]:
    """States in a row, and the notes of those without a signal; nothing is ever claimed without one."""
    source = FakeSource([Act("moving", 8), *acts, Act("moving", 8)], fps=100)
    states: list[str] = []
    notes: list[str] = []
    shown = 0
    for view in run(source, classifier, options=FAST, reopen=source.reopen):
        states += [view.state] if not states or view.state != states[-1] else []
        if view.state == "live":
            shown += 1
            assert len(view.seen) == 1
            continue
        notes.append(view.note)
        assert view.frame is None
        assert view.seen == ()
        assert "seen" not in line(view, 1)
        assert draw(view).shape == (480, 640, 3)
    assert shown >= 10
    return states, [note for note in notes if note]


@pytest.mark.parametrize(
    ("acts", "note"),
    [
        ([Act("lost")], "fake is lost (unplugged), trying again in 0.05 s"),
        ([Act("lost"), Act("absent", 4)], "no camera fake (cameras here: none), trying again in 0.1 s"),
        ([Act("stall", seconds=0.7)], "fake has given no frame for 0.2 s"),
        ([Act("black", 60)], "fake: black frames for"),
        ([Act("frozen", 60)], "fake: the same frame for"),
        ([Act("yuv")], "fake gives another pixel format"),
    ],
)
def test_a_fault_is_no_signal_until_frames_come_again(acts: list[Act], note: str, classifier: Classifier) -> None:
    states, notes = told(acts, classifier)
    assert states == ["live", "no signal", "live", "ended"]
    assert any(note in one for one in notes), notes


def test_a_camera_that_never_gives_a_frame_is_no_signal_from_the_start(classifier: Classifier) -> None:
    source = FakeSource([Act("stall", seconds=30)])
    views = run(source, classifier, options=FAST)
    for _ in range(3):
        view = next(views)
        assert (view.state, view.seen) == ("no signal", ())
    start = time.monotonic()
    views.close()
    assert time.monotonic() - start < 20  # not the 30 s of the stall


def test_a_pipeline_that_dies_is_started_again(classifier: Classifier) -> None:
    words, wanted = "gst:videotestsrc pattern=snow is-live=true num-buffers=12", Wanted(64, 48, 30)
    states: list[str] = []
    notes = []
    views = run(open_source(words, wanted), classifier, options=FAST, reopen=lambda: open_source(words, wanted))
    for view in views:
        states += [view.state] if not states or view.state != states[-1] else []
        notes.append(view.note)
        if states.count("live") == 3:
            break
    views.close()
    assert states == ["live", "no signal", "live", "no signal", "live"]
    assert any("the pipeline does not run" in note and "trying again" in note for note in notes)


def test_an_rtsp_camera_that_goes_away_is_no_signal_and_comes_back(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewise.live.capture.NETWORK_TIMEOUT_MS", 1500)
    with Server() as server:
        url = server.url
        source = open_source(url)
        assert source.live
        states: list[str] = []
        deadline = time.monotonic() + 60
        for view in run(source, classifier, options=FAST, reopen=lambda: open_source(url)):
            assert time.monotonic() < deadline, states
            if not states or view.state != states[-1]:
                states.append(view.state)
                if states == ["live"]:
                    assert view.frame is not None
                    assert view.frame.pixels.shape == (48, 64, 3)
                    server.stop()
                elif states == ["live", "no signal"]:
                    server.start()
                elif states == ["live", "no signal", "live"]:
                    break
    assert states == ["live", "no signal", "live"]


def test_ctrl_c_while_there_is_no_signal_ends_it(bundle: Path) -> None:
    words = [str(bundle), "--headless", "--camera", "64x48@30"]
    words += ["--source", "gst:videotestsrc is-live=true num-buffers=5 pattern=snow"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewise", "live", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["state"] != "no signal":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "no signal: gst:videotestsrc" in said


def test_opencv_here_has_the_backends_that_are_asked_for() -> None:
    names = {cv2.videoio_registry.getBackendName(one) for one in cv2.videoio_registry.getBackends()}
    assert {"FFMPEG", "V4L2"} <= names
