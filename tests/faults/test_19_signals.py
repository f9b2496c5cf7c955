"""Case 19: Ctrl-C once and twice, SIGTERM, a terminal that hangs up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.interrupt import Interrupted, deferred
from tests.faults.command import SMALL, epochs, facts, left_over, start, train, wait_for

LONG = (*SMALL, "--epochs", "10000", "--patience", "0")


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 75)])
def test_one_signal_finishes_the_step_saves_and_says_how_to_go_on(
    sent: signal.Signals, code: int, shapes: Callable[..., Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with start(str(shapes()), *LONG, "--out", str(run)) as process:
        wait_for(lambda: epochs(run) >= 2, process)
        process.send_signal(sent)
        _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopping after this step" in told
    assert f"go on with: edgewise train --resume {run}" in told
    assert "Traceback" not in told
    assert facts(run)["status"] == "interrupted"
    assert not left_over(run)
    done = epochs(run)
    resumed = train("--resume", str(run), "--epochs", str(done + 1))
    assert resumed.returncode == 0, resumed.stderr
    assert epochs(run) == done + 1


@pytest.mark.slow
def test_twice_stops_at_once_and_the_checkpoint_is_whole(shapes: Callable[..., Path], tmp_path: Path) -> None:
    """The second signal comes while the first is still waiting for its step, which takes for ever here."""
    run = tmp_path / "run"
    code = """
import sys, time
from edgewise.train.trainer import Trainer
step = Trainer._step
def slow(self, batch):
    if self.state.epoch > 2:
        print("in the step", flush=True)
        time.sleep(600)
    return step(self, batch)
Trainer._step = slow
from edgewise.cli import main
main()
"""
    words = ["train", str(shapes()), *LONG, "--out", str(run)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the step\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "once more stops at once" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    resumed = train("--resume", str(run), "--epochs", "3")
    assert resumed.returncode == 0, resumed.stderr
    assert epochs(run) == 3


def test_outside_of_a_training_a_signal_stops_at_once() -> None:
    from edgewise.interrupt import _on_signal

    with pytest.raises(Interrupted):
        _on_signal(signal.SIGINT, None)
    with deferred() as stop:
        assert stop() is None
        _on_signal(signal.SIGTERM, None)
        assert stop() == signal.SIGTERM
        with pytest.raises(Interrupted):
            _on_signal(signal.SIGTERM, None)
    with pytest.raises(Interrupted):
        _on_signal(signal.SIGINT, None)
