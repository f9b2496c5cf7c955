"""Case 23: loader processes that die or hang, and a small /dev/shm: there are no loader processes and no shared memory.

Images are decoded once before training, in threads; batches are made in the training process itself. What is left of
the case is a file whose reading stands still, which `tests/faults/test_23_reading.py` covers.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.models import create_model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit
from tests.train.conftest import CLASSES, SPEC, make_dataset


def children() -> set[str]:
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def shared() -> set[Path]:
    return set(Path("/dev/shm").iterdir())


def test_training_starts_no_process_and_takes_no_shared_memory(tmp_path: Path) -> None:
    processes, memory = children(), shared()
    threads = {thread.name for thread in threading.enumerate()}
    seen: list[tuple[set[str], set[Path], set[str]]] = []

    def look(
        images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], None]:
        seen.append((children(), shared(), {thread.name for thread in threading.enumerate()}))
        return images, None

    model = create_model("convnet(8)", labels=CLASSES, input=SPEC)
    setup = Setup(TrainOptions(epochs=2, batch_size=32, threads=1), 0, tmp_path, augment=look)
    fit(model, make_dataset(train=120), setup)
    assert len(seen) == 8
    for during in seen:
        assert during == (processes, memory, threads)
