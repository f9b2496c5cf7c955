"""How many processes train together. One, unless `accelerate launch` (or torchrun) started several."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn


class World:
    """One of `size` processes that train the same net on their shares of each batch.

    Gradients are averaged by torch's DistributedDataParallel; only the process of rank 0 writes files and speaks.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self._accelerator: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def join(self, wish: str) -> None:
        """Meet the other processes; `wish` is the device that was asked for. The backend is gloo on CPUs."""
        if self.size > 1 and self._accelerator is None:
            from accelerate import Accelerator

            self._accelerator = Accelerator(cpu=wish == "cpu" or not torch.cuda.is_available())

    def device(self, one: torch.device) -> torch.device:
        """The device of this process; `one` where there is a single process."""
        return one if self._accelerator is None else torch.device(self._accelerator.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all processes."""
        if self._accelerator is None:
            return module
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def total(self, values: list[float]) -> list[float]:
        """Each value summed over all processes."""
        if self._accelerator is None:
            return values
        summed = self._accelerator.reduce(
            torch.tensor(values, dtype=torch.float64, device=self._accelerator.device), reduction="sum"
        )
        return [float(value) for value in summed]

    def same(self, value: Any) -> Any:
        """What rank 0 holds, in every process."""
        if self._accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        held = [value]
        broadcast_object_list(held)
        return held[0]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
