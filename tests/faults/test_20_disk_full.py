"""Case 20: the disk is full while a checkpoint, the log or a report is written."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgewise import runs
from edgewise.errors import UnavailableError
from edgewise.train.checkpoint import load_newest, save_checkpoint
from tests.faults.command import SMALL, facts, left_over, train

KB = 1024


@pytest.mark.slow
def test_the_old_checkpoint_stays_and_the_message_counts_bytes(shapes: Callable[..., Path], tmp_path: Path) -> None:
    """A limit on the size of files: the first checkpoint (no moments yet) fits, the second does not."""
    images, run = shapes(), tmp_path / "run"
    small = tmp_path / "small"
    assert train(str(images), *SMALL, "--epochs", "1", "--out", str(small)).returncode == 0
    sizes = [(small / "checkpoints/base" / f"last{part}.safetensors").stat().st_size for part in (".previous", "")]
    limit = sum(sizes) // 2
    assert sizes[0] < limit < sizes[1]
    done = train(
        str(images),
        *SMALL,
        "--epochs",
        "4",
        "--out",
        str(run),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 4, done.stderr
    assert "error[E03]" in done.stderr
    assert "last.safetensors" in done.stderr
    assert f"{sizes[1]:,} bytes needed" in done.stderr or "bytes needed" in done.stderr
    assert "free" in done.stderr
    assert "Traceback" not in done.stderr
    assert facts(run)["status"] == "failed"
    assert not left_over(run)
    assert load_newest(run / "checkpoints/base/last.safetensors") is not None
    resumed = train("--resume", str(run))
    assert resumed.returncode == 0, resumed.stderr


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_no_space_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"weight": torch.ones(3)}, {"epoch": 1})
    full(monkeypatch)
    with pytest.raises(UnavailableError, match=r"No space left on device; [\d,]+ bytes needed, [\d,]+ free"):
        save_checkpoint(path, {"weight": torch.zeros(3)}, {"epoch": 2})
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]
    assert (load_newest(path) or ("", {}))[1] == {"epoch": 1}


def test_metrics_wait_for_space_and_are_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path.open

    def no_space(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if self.name == "metrics.jsonl" and blocked:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", no_space)
    blocked = False
    with runs.create_run(tmp_path / "a") as run:
        run.log_metrics({"epoch": 1})
        blocked = True
        run.log_metrics({"epoch": 2})
        run.log_metrics({"epoch": 3})
        blocked = False
        run.log_metrics({"epoch": 4})
        blocked = True
        run.log_metrics({"epoch": 5})
    blocked = False
    lines = [json.loads(line)["epoch"] for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4]
    assert '{"epoch": 5}' in capsys.readouterr().err


def test_little_space_is_told_before_training(
    shapes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise import load_recipe, train_model
    from edgewise.progress import Silent

    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(runs, "free_bytes", lambda folder: 10 * KB)
    recipe = load_recipe(
        None,
        {"data.source": str(shapes()), "data.size": 16, "model": "convnet(8)", "train.epochs": 1, "train.threads": 1},
    )
    train_model(recipe, tmp_path / "run", progress=Said())
    assert any("10,240 bytes are free" in line for line in said)
