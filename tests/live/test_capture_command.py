"""`edgewise capture` as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.data.check import check_data
from edgewise.recipe import DataOptions
from tests.live.test_sources import write_video

pytestmark = pytest.mark.slow


def capture(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgewise", "capture", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_synthetic_source_fills_a_class_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = capture(data, "--source", "synthetic:64x48@0", "--class", "apple", "--count", "5", "--every", "0")
    assert done.returncode == 0, done.stderr
    pictures = sorted((data / "apple").iterdir())
    assert len(pictures) == 5
    assert all(Image.open(path).size == (64, 48) for path in pictures)
    assert f"pictures: {data / 'apple'}  (5 of " in done.stdout
    assert f"next: edgewise data check {data}" in done.stdout
    assert "no window: " in done.stderr


def test_two_classes_of_a_video_make_a_folder_that_data_check_opens(tmp_path: Path) -> None:
    data, video = tmp_path / "my data", write_video(tmp_path / "in.avi", (64, 48))
    first = capture(data, "--source", video, "--class", "apple", "--headless", "--difference", "0")
    again = capture(data, "--source", video, "--class", "pear", "--headless", "--difference", "0", "--json")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    told = json.loads(again.stdout)
    assert (told["class"], told["ended"], told["frames"]) == ("pear", "end", len(told["written"]))
    assert sorted(path.name for path in (data / "pear").iterdir()) == told["written"]
    assert f"next: edgewise data check '{data}'" in again.stderr
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    assert capture(data, "--source", video, "--class", "pear", "--headless", "--count", "1").returncode == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    labels = {row["label"] for row in check_data(DataOptions(source=str(data))).as_dict()["images"]}
    assert labels == {"apple", "pear"}


def test_a_still_picture_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "still"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(folder / f"{number}.png")
    done = capture(tmp_path / "data", "--source", folder, "--class", "wall", "--headless", "--json")
    told = json.loads(done.stdout)
    assert (len(told["written"]), told["frames"], told["alike"]) == (1, 4, 3)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--class", "a/b", "--source", "synthetic"), 2, "Q13"),
        (("--class", "a", "--source", "usb:99"), 4, "L0"),
        (("--class", "a", "--source", "synthetic", "--count", "0"), 2, "C03"),
        (("--source", "synthetic"), 2, "C03"),
    ],
)
def test_errors_leave_nothing_behind(words: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    done = capture(tmp_path / "data", *words, "--headless")
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
