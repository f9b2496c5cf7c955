"""Case 24: a loss that is NaN or infinite. The loop's part is in tests/train/test_resume.py; here, the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgewise.train.checkpoint import load_newest
from tests.faults.command import SMALL, facts, left_over, train


@pytest.mark.slow
def test_a_learning_rate_that_blows_up_ends_in_one_message(shapes: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    blow_up = ("--set", "train.lr=10", "--set", "train.optimizer=sgd", "--set", "train.weight_decay=1.0")
    more = ("--set", "train.momentum=0.99", "--set", "train.warmup_epochs=0", "--model", "flatnet(64, hidden=64)")
    done = train(str(shapes()), *SMALL, *more, *blow_up, "--epochs", "40", "--out", str(run))
    assert done.returncode == 1, done.stderr
    assert "error[T01]" in done.stderr
    assert "learning rate" in done.stderr
    assert "with half the learning rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert facts(run)["status"] == "failed"
    assert not left_over(run)
    found = load_newest(run / "checkpoints/base/last.safetensors")
    assert found is not None
    assert all(torch.isfinite(value).all() for value in found[0].values() if value.is_floating_point())
