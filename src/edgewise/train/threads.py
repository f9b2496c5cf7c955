"""How many CPU threads a training uses."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator

import torch


def faster_threads(module: torch.nn.Module, batch: torch.Tensor) -> int:
    """The thread count, 1 or all, that takes forward and backward of a batch in less time on this machine."""
    available = torch.get_num_threads()
    if batch.device.type != "cpu" or available == 1:
        return available
    trial = copy.deepcopy(module).train()
    taken: dict[int, float] = {}
    for threads in (1, available, 1, available):
        with threads_set(threads):
            for warm in (True, False):
                started = time.perf_counter()
                torch.autograd.backward(trial(batch).sum())
                if not warm:
                    taken[threads] = min(taken.get(threads, math.inf), time.perf_counter() - started)
    return min(taken, key=lambda threads: taken[threads])


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """So many threads of torch inside the block, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
