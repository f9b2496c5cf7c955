"""Case 18: kill -9 at any moment, and at every file operation of a save."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.train.checkpoint import load_newest, save_checkpoint
from tests.faults.command import SMALL, epochs, facts, left_over, metrics, start, train, wait_for, weights

OPERATIONS = [
    (os, "replace"),
    (os, "link"),
    (os, "fsync"),
    (os, "open"),
    (Path, "unlink"),
    (Path, "write_bytes"),
    (Path, "replace"),
    (Path, "chmod"),
    (Path, "mkdir"),
]


class Killed(BaseException):
    """Stands for the end of the process: nothing of the program handles it, and what it would clean up stays."""


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Iterator[int]]:
    """Lets the process die before file operation `at`; yields a counter of the operations that were reached."""

    def arm(at: int) -> Any:
        reached = [0]

        def wrap(home: Any, name: str) -> None:
            real = getattr(home, name)

            def operation(*args: Any, **kwargs: Any) -> Any:
                reached[0] += 1
                if reached[0] >= at:  # what comes after is the clean-up that a dead process does not do
                    raise Killed
                return real(*args, **kwargs)

            monkeypatch.setattr(home, name, operation)

        for home, name in OPERATIONS:
            wrap(home, name)
        return reached

    return arm


def test_a_save_that_dies_at_any_file_operation_leaves_a_checkpoint(
    tmp_path: Path, deadly: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    seen = set()
    at = 1
    while True:
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        for generation in (1.0, 2.0):
            save_checkpoint(path, {"weight": torch.full((3,), generation)}, {"generation": generation})
        reached = deadly(at)
        try:
            save_checkpoint(path, {"weight": torch.full((3,), 3.0)}, {"generation": 3.0})
        except Killed:
            monkeypatch.undo()
        else:
            monkeypatch.undo()
            break
        assert reached[0] >= at
        found = load_newest(path)
        assert found is not None
        assert found[0]["weight"].tolist() == [found[1]["generation"]] * 3
        assert found[1]["generation"] in (2.0, 3.0)
        seen.add(found[1]["generation"])
        at += 1
    assert at > 6  # it did die at several places
    assert seen == {2.0, 3.0}  # before and after the file took its place


@pytest.mark.slow
def test_killed_trainings_end_as_the_one_that_was_not(shapes: Callable[..., Path], tmp_path: Path) -> None:
    images = shapes(per_class=16)
    words = (str(images), *SMALL, "--epochs", "8", "--set", "train.checkpoint_minutes=0.0001")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train(*words, "--out", str(straight)).returncode == 0
    with start(*words, "--out", str(killed)) as process:
        wait_for(lambda: epochs(killed) >= 2, process)
        process.kill()
    assert facts(killed)["status"] == "running"  # nobody was left to say otherwise
    with start("--resume", str(killed)) as process:
        wait_for(lambda: epochs(killed) >= 4, process)
        process.kill()
    done = train("--resume", str(killed))
    assert done.returncode == 0, done.stderr
    assert facts(killed)["status"] == "complete"
    assert weights(killed) == weights(straight)
    assert metrics(killed) == metrics(straight)
    again = train("--resume", str(killed))
    assert again.returncode == 2
    assert "this run is complete" in again.stderr
    assert not left_over(straight)
