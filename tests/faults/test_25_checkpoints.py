"""Case 25: checkpoints that are damaged, foreign, or hold a program; see tests/train/test_checkpoint.py for more."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.errors import UntrustedError
from edgewise.train.checkpoint import load_newest, previous_of
from tests.faults.command import SMALL, train


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.canary),)


def test_a_payload_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, canary = tmp_path / "last.safetensors", tmp_path / "canary"
    path.write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(UntrustedError, match="cannot use this checkpoint") as caught:
        load_newest(path)
    assert caught.value.exit_code == 6
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - to show that it would have
    assert canary.exists()


@pytest.mark.slow
def test_resume_goes_on_from_the_one_before_and_refuses_when_there_is_none(
    shapes: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(str(shapes()), *SMALL, "--epochs", "2", "--out", str(run)).returncode == 0
    last = run / "checkpoints/base/last.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    resumed = train("--resume", str(run), "--epochs", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert "is damaged" in resumed.stderr
    for path in (last, previous_of(last)):
        path.write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    refused = train("--resume", str(run), "--epochs", "4")
    assert refused.returncode == 6
    assert "error[U05]" in refused.stderr
    assert not (tmp_path / "canary").exists()
