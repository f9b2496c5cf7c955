"""Several processes that train one net: how they meet, agree, wait for each other, and notice that one is gone.

Torchrun or `accelerate launch` starts them; with a single process all of this does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import distributed, nn

from edgewise import ranks
from edgewise.errors import ConfigError, UnavailableError

STEP_WAIT = timedelta(minutes=10)
"""Longest wait for another process within a step."""
LONG_WAIT = timedelta(hours=6)
"""Longest wait while process 0 decodes images, validates or writes."""


class World:
    """One of `size` processes that train the same net on their shares of each batch.

    Gradients are averaged by torch's DistributedDataParallel; only the process of rank 0 writes files and speaks. What
    the processes agree on goes over gloo on the CPU, so that a GPU is never waited for and long waits are allowed.
    """

    def __init__(self) -> None:
        self.rank, self.size = ranks.rank(), ranks.size()
        self._accelerator: Any = None
        self._step_group: Any = None
        self._long_group: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def join(self, wish: str) -> None:
        """Meet the other processes; `wish` is the device that was asked for. The backend is gloo on CPUs.

        Raises:
            ConfigError: C51, the launcher was asked for several processes and started one.
        """
        if self.size == 1 and ranks.left_alone():
            raise ConfigError(
                "the launcher started one process only",
                code="C51",
                why="`accelerate launch --cpu` starts several with MPI alone, and says nothing of it",
                fix="torchrun --nproc-per-node N -m edgewise train ..., or accelerate launch --multi_gpu (which also "
                "works without a GPU) --num_processes N -m edgewise train ... --set train.device=cpu",
            )
        if self.size > 1 and self._accelerator is None:
            from accelerate import Accelerator
            from accelerate.utils import InitProcessGroupKwargs

            with _answering():
                self._accelerator = Accelerator(
                    cpu=wish == "cpu" or not torch.cuda.is_available(),
                    mixed_precision="no",  # the recipe says it, not the launcher
                    kwargs_handlers=[InitProcessGroupKwargs(timeout=STEP_WAIT)],
                )
                self._step_group = distributed.new_group(backend="gloo", timeout=STEP_WAIT)
                self._long_group = distributed.new_group(backend="gloo", timeout=LONG_WAIT)

    def device(self, one: torch.device) -> torch.device:
        """The device of this process; `one` where there is a single process."""
        return one if self._accelerator is None else torch.device(self._accelerator.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all processes."""
        if self._accelerator is None:
            return module
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def gather(self, *values: float) -> list[list[float]]:
        """The values of each process, by rank, in every process."""
        if self._accelerator is None:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        with _answering():
            distributed.all_gather(everyone, mine, group=self._step_group)
        return [row.tolist() for row in everyone]

    def largest(self, value: float) -> float:
        """The largest value of all processes."""
        return max(row[0] for row in self.gather(value))

    def same(self, value: Any) -> Any:
        """What rank 0 holds, in every process."""
        if self._accelerator is None:
            return value
        held = [value]
        with _answering():
            distributed.broadcast_object_list(held, src=0, group=self._long_group)
        return held[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self._accelerator is not None:
            with _answering():
                distributed.barrier(group=self._long_group)

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Rank 0 does what is in the block, then the others do; when it fails they end with E70."""
        if not self.main and not self.same(None):
            raise lost("process 0 could not prepare the training")
        done = False
        try:
            yield
            done = True
        finally:
            if self.main:
                with contextlib.nullcontext() if done else contextlib.suppress(UnavailableError):
                    self.same(done)


def explained(problem: RuntimeError) -> Exception:
    """What an error of torch means: E70 where it comes from the connection, else the error itself."""
    text = str(problem)
    if isinstance(problem, distributed.DistError) or any(word in text for word in ("gloo", "Gloo", "NCCL")):
        return lost((text.splitlines() or [""])[0])
    return problem


def lost(why: str) -> UnavailableError:
    """The error that another process is gone."""
    return UnavailableError(
        "another process of this training is gone or does not answer",
        code="E70",
        why=why,
        fix="see what that process said; then go on from the last checkpoint with --resume",
    )


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:
        raise explained(problem) from problem
