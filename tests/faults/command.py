"""The command line in a process of its own, for faults that end processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

SMALL = (
    "--model",
    "convnet(8,16,dropout=0.2)",
    "--size",
    "16",
    "--batch-size",
    "16",
    "--set",
    "train.threads=1",
    "--set",
    "train.amp=off",
)
"""A training of well under a second per epoch on a handful of pictures."""


def train(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """`edgewise train` with these words, to its end."""
    return subprocess.run([sys.executable, "-m", "edgewise", "train", *words], capture_output=True, text=True, **more)


def start(*words: str, **more: Any) -> subprocess.Popen[str]:
    """`edgewise train` with these words, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "edgewise", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait until something holds; the process must not have ended before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def epochs(run: Path) -> int:
    """Epochs that a run has logged."""
    log = run / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def facts(run: Path) -> dict[str, Any]:
    """The contents of `run.json`."""
    read: dict[str, Any] = json.loads((run / "run.json").read_text())
    return read


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` without their times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(run: Path) -> bytes:
    """All weights of the trained model of a run."""
    with safe_open(run / "model/base/model.safetensors", framework="np") as stored:
        return b"".join(stored.get_tensor(name).tobytes() for name in sorted(stored.keys()))


def left_over(run: Path) -> list[Path]:
    """Temporary files in a run folder."""
    return [path for path in run.rglob("*") if path.suffix == ".tmp"]
