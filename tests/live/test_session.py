"""`edgewise live` as a user meets it: lines, profile, recording, q, Ctrl-C, refusals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import make_bundle

from edgewise import cli
from edgewise.live.decide import Decider
from edgewise.live.fake import Act, FakeSource
from edgewise.live.session import Ending, Session, run_session
from edgewise.live.window import why_no_window
from tests.live.test_record import played
from tests.live.test_sources import write_video

COMMAND = [sys.executable, "-m", "edgewise", "live"]


def live(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False, **more)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    folder = tmp_path / "colours"
    folder.mkdir()
    for number, colour in enumerate([(220, 20, 20), (20, 220, 20), (20, 20, 220)]):
        Image.new("RGB", (64, 48), colour).save(folder / f"{number}.png")
    return folder


def test_words_become_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Session] = []

    def run_session(session: Session) -> Ending:
        called.append(session)
        return Ending((), json_lines=False)

    monkeypatch.setattr("edgewise.live.session.run_session", run_session)
    cli.app(["live", "b"], standalone_mode=False)
    words = "live b --source csi:1 --detector haar --every 5 --detector-width 0 --smooth 3 --record o.mp4 --headless"
    cli.app(
        [
            *(*words.split(), "--profile", "--frames", "9", "--threads", "2", "--camera", "320x240@15"),
            *("--threshold", "0.5", "--patience", "2", "--save-uncertain", "new"),
        ],
        standalone_mode=False,
    )
    assert called == [
        Session(Path("b"), "usb:0"),
        Session(
            *(Path("b"), "csi:1", "haar", 5, 0, 3, Path("o.mp4")),
            headless=True,
            profile=True,
            frames=9,
            threads=2,
            camera="320x240@15",
            json_lines=True,
            threshold=0.5,
            patience=2,
            save_uncertain=Path("new"),
        ),
    ]


def test_a_line_for_each_frame_and_the_profile_last(bundle: Path, colours: Path) -> None:
    done = live(str(bundle), "--source", str(colours), "--headless", "--profile")
    assert done.returncode == 0, done.stderr
    *views, ended, last = rows(done.stdout)
    assert [view["seen"][0]["label"] for view in views] == ["red", "green", "blue"]
    assert [view["frame"] for view in views] == [0, 1, 2]
    for view in views:
        assert view["state"] == "live"
        assert view["seen"][0]["box"] == [0, 0, 64, 48]
        assert {"grab", "crop", "classify"} == set(view["stages_ms"])
        assert view["age_ms"] > 0
    assert ended == {"state": "ended"}
    assert last["profile"]["frames"] == 2
    assert last["profile"]["bottleneck"]
    assert "tiny (fp32, onnxruntime" in done.stderr
    assert "bottleneck: " in done.stderr
    assert f"next: edgewise live {bundle}" in done.stderr


def test_below_the_threshold_of_the_bundle_it_says_unknown_and_keeps_the_pictures(
    colours: Path, tmp_path: Path
) -> None:
    """The logit of each colour is 400 / 255 above the others; over temperature 2 that gives 0.523, below 0.6."""
    bundle = make_bundle(tmp_path / "strict", thresholds={"temperature": 2.0, "unknown": 0.6})
    kept = tmp_path / "kept"
    done = live(str(bundle), "--source", str(colours), "--headless", "--save-uncertain", str(kept))
    assert done.returncode == 0, done.stderr
    views = [view["seen"][0] for view in rows(done.stdout) if view.get("seen")]
    assert [view["label"] for view in views] == [None] * 3
    assert views[0]["confidence"] == pytest.approx(1 / (1 + 2 * np.exp(-200 / 255)), abs=1e-6)
    assert "unknown below 0.6" in done.stderr
    assert "1 uncertain pictures kept in" in done.stderr  # the others come sooner than two seconds after it
    (picture,) = (kept / "unsorted").rglob("*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(colours / "0.png")))
    again = live(str(bundle), "--source", str(colours), "--headless", "--threshold", "0")
    assert [view["seen"][0]["label"] for view in rows(again.stdout) if view.get("seen")] == ["red", "green", "blue"]


def test_a_label_is_not_kept_over_a_lost_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise patience would carry what was seen before over to what is seen after it."""
    bundle = make_bundle(tmp_path / "made")
    source = FakeSource((Act("moving", 2), Act("stall", seconds=1.6), Act("moving", 2)), fps=20)
    monkeypatch.setattr("edgewise.live.session.open_source", lambda *arguments: source)
    forgotten: list[int | None] = []
    monkeypatch.setattr(Decider, "forget", lambda self, track=None: forgotten.append(track))
    ending = run_session(Session(bundle, "fake", headless=True, json_lines=True, patience=99))
    assert len(forgotten) >= 2  # no signal, and the end
    assert set(forgotten) == {None}
    assert "4 frames" in ending.words[0]


def test_what_is_shown_is_recorded_at_the_rate_of_the_file(bundle: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.avi", (128, 96))
    out = tmp_path / "out.mp4"
    words = ["--source", str(video), "--detector", "haar", "--record", str(out), "--smooth", "2", "--headless"]
    done = live(str(bundle), *words)
    assert done.returncode == 0, done.stderr
    assert [frame.shape for frame in played(out)] == [(96, 128, 3)] * 4
    assert f"recorded: {out}  (4 frames)" in done.stderr
    assert all(row.get("smooth", 2) == 2 for row in rows(done.stdout))
    assert "smooth 2" in done.stderr


def test_without_a_window_it_says_why_and_goes_on_headless(bundle: Path, colours: Path) -> None:
    why = why_no_window()
    assert "opencv-python-headless" in why
    done = live(str(bundle), "--source", str(colours))
    assert done.returncode == 0
    assert f"no window: {why}; going on headless (`edgewise serve" in done.stderr
    assert len(rows(done.stdout)) == 4


def test_a_changed_bundle_is_refused_before_a_camera_is_opened(bundle: Path) -> None:
    (bundle / "labels.txt").write_text("others\n")
    done = live(str(bundle), "--source", "usb:77", "--json")
    assert done.returncode == 6
    assert json.loads(done.stdout)["error"] == "U03"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--source", "nowhere.mp4"), 3, "error[L10]: no such file"),
        (("--source", "synthetic", "--detector", "harr"), 2, 'did you mean "haar"?'),
        (("--source", "synthetic", "--camera", "big"), 2, "error[L01]: not a size"),
        (("--source", "synthetic", "--record", "out.gif"), 2, "error[L15]"),
        (("--source", "synthetic", "--every", "0"), 2, "error[C03]"),
        (("--source", "gst:nosuchelement"), 4, "no element"),
    ],
)
def test_errors(words: tuple[str, ...], code: int, told: str, bundle: Path, tmp_path: Path) -> None:
    done = live(str(bundle), *words, cwd=tmp_path)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_was_recorded(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "videos" / "out.mp4"
    words = [str(bundle), "--source", "synthetic:64x48@60", "--headless", "--record", str(out), "--profile"]
    with subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(30):
            assert json.loads(process.stdout.readline())["state"] == "live"
        assert not out.exists()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert f"recorded: {out}" in said
    assert "bottleneck: source" in said
    assert [path.name for path in out.parent.iterdir()] == ["out.mp4"]
    assert len(played(out)) >= 20


def test_q_in_the_terminal_ends_it(bundle: Path) -> None:
    ours, theirs = pty.openpty()
    words = [str(bundle), "--source", "synthetic:64x48@60", "--headless", "--profile"]
    with subprocess.Popen([*COMMAND, *words], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        assert process.stdout is not None
        for _ in range(60):
            process.stdout.readline()
        os.write(ours, b"q")
        out, said = process.communicate(timeout=30)
    os.close(ours)
    assert process.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["profile"]["frames"] >= 50
    assert b"frame to result: " in said


def test_a_reader_that_goes_away_ends_it(bundle: Path) -> None:
    words = [str(bundle), "--source", "synthetic:64x48@60", "--headless"]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.returncode == 0, said
    assert b"Traceback" not in said
