"""Case 27: two processes on one run folder, and the lock of one that was killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.command import SMALL, epochs, facts, metrics, start, train, wait_for


@pytest.mark.slow
def test_the_second_is_refused_and_a_killed_one_leaves_no_lock(shapes: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = (str(shapes()), *SMALL, "--epochs", "10000", "--patience", "0", "--out", str(run))
    with start(*words) as first:
        wait_for(lambda: epochs(run) >= 1, first)
        for second in (train("--resume", str(run)), train(*words, "--force")):
            assert second.returncode == 4, second.stderr
            assert "another process is using this run folder" in second.stderr
            assert f"pid {first.pid}@" in second.stderr
            assert " since 20" in second.stderr
        assert facts(run)["status"] == "running"
        first.send_signal(signal.SIGKILL)
        first.wait()
    done = epochs(run)
    assert [line["epoch"] for line in metrics(run)] == list(range(1, done + 1))  # nobody else wrote into it
    resumed = train("--resume", str(run), "--epochs", str(done + 1))
    assert resumed.returncode == 0, resumed.stderr
