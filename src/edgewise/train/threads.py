"""How a training computes on a CPU: with how many threads, and whether convolutions and products run in bfloat16."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from edgewise.measure.machine import cpu_flags
from edgewise.train.fused import fuse_for_training

WORTH_IT = 1.3
"""How many times as fast bfloat16 must be to be taken: below that, float32 is the safer choice."""
LEAST_STEP_S = 0.03
"""Steps shorter than this in float32 are not tried in bfloat16: converting weights and values eats what it saves, and
so short a time says little."""

Mode = tuple[int, str]
"""Threads and precision: off (float32), bf16 or fp16."""
Timer = Callable[[torch.nn.Module, torch.Tensor, str], float]


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX). Elsewhere bf16 took seven times as long."""
    return "amx_bf16" in cpu_flags()


def choose_mode(
    module: torch.nn.Module,
    batch: torch.Tensor,
    threads: int | None,
    precisions: Sequence[str],
    timer: Timer | None = None,
) -> Mode:
    """The threads, 1 or all, and the precision that take forward and backward of a batch in less time here.

    Args:
        module: the net on the CPU, not fused; it is not changed.
        batch: normalised images (N, channels, height, width).
        threads: how many, where that is settled.
        precisions: the one that is settled, or the one to take and those to try, which must be `WORTH_IT` times as
            fast.
        timer: seconds of one step, for tests.
    """
    available = torch.get_num_threads()
    counts = [threads] if threads else sorted({1, available})
    if batch.device.type != "cpu" or (len(counts) == 1 and len(precisions) == 1):
        return counts[-1], precisions[0]
    timer = timer or _step_seconds
    taken = _times(module, batch, [(count, precisions[0]) for count in counts], timer)
    plain = min(taken, key=lambda mode: min(taken[mode]))
    if len(precisions) > 1 and min(taken[plain]) >= LEAST_STEP_S:
        taken |= _times(module, batch, [(count, precision) for precision in precisions[1:] for count in counts], timer)
        quickest = min(taken, key=lambda mode: min(taken[mode]))
        if min(taken[plain]) >= WORTH_IT * max(taken[quickest]):  # whatever else the machine was doing
            return quickest
    return plain


def _times(
    module: torch.nn.Module, batch: torch.Tensor, modes: Sequence[Mode], timer: Timer
) -> dict[Mode, list[float]]:
    """Two times for each mode, taken in turn, each after a step that does not count."""
    trials = {precision: copy.deepcopy(module).train() for _, precision in modes}
    if "off" in trials:
        fuse_for_training(trials["off"])
    taken: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for threads, precision in (*modes, *modes):
        with threads_set(threads):
            timer(trials[precision], batch, precision)
            taken[threads, precision].append(timer(trials[precision], batch, precision))
    return taken


def _step_seconds(module: torch.nn.Module, batch: torch.Tensor, precision: str) -> float:
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        scores = module(batch)
    torch.autograd.backward(scores.float().sum())
    return time.perf_counter() - started


@contextlib.contextmanager
def threads_set(count: int) -> Iterator[None]:
    """So many threads of torch inside the block, as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
