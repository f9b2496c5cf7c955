"""What augmentation costs beside a training step: ``python -m benchmarks.augment [SIDE] [CHANNELS]``.

One thread, batches of 64. Every setting is timed once a round, the training step too, and the figures are medians over
the rounds, so that a slow moment of the machine falls on all alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from edgewise.bundle import InputSpec
from edgewise.data.augment import Augment
from edgewise.models import create_model
from edgewise.recipe import AugmentOptions

BATCH = 64
ROUNDS = 7
SETTINGS: dict[str, dict[str, Any]] = {
    "horizontal flip, crop 4": {"horizontal_flip": True, "crop": 4},
    "version 1": {"version": 1},
    "version 2": {"version": 2},
    "version 3": {"version": 3},
    "policy trivial": {"policy": "trivial"},
    "policy rand": {"policy": "rand"},
    "policy auto": {"policy": "auto"},
    "cutout 0.5": {"cutout": 0.5},
    "erase 0.5": {"erase": 0.5},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
}


def main(side: int = 128, channels: Literal[1, 3] = 3) -> None:
    """Print a Markdown table: microseconds per image, and share of a training step of two nets."""
    torch.set_num_threads(1)
    spec = InputSpec(side, side, channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, side, side, channels), dtype=np.uint8)
    labels = np.arange(BATCH) % 8
    work: dict[str, Callable[[], object]] = {}
    for name, options in SETTINGS.items():
        augment = Augment(AugmentOptions(**options), spec, labels, 8)
        work[name] = lambda augment=augment: augment(images, labels, random)
    nets = ("convnet(32,64,128)", "convnet(8,16,32)")
    for net in nets:
        work[net] = _step(net, spec)
    taken: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(ROUNDS + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            if turn:  # the first round warms up
                taken[name].append((time.perf_counter() - started) / BATCH * 1e6)
    median = {name: statistics.median(values) for name, values in taken.items()}
    print(f"| {side} x {side} x {channels} | µs per image | of a step of {nets[0]} | of a step of {nets[1]} |")
    print("|---|---|---|---|")
    for name in SETTINGS:
        print(
            f"| {name} | {median[name]:.0f} | " + " | ".join(f"{median[name] / median[net]:.3f}" for net in nets) + " |"
        )


def _step(net: str, spec: InputSpec) -> Callable[[], object]:
    """Forward and backward of one batch."""
    module = create_model(net, labels=[str(label) for label in range(8)], input=spec).module.train()
    module = module.to(memory_format=torch.channels_last)
    pixels = torch.randn(BATCH, spec.channels, spec.height, spec.width).to(memory_format=torch.channels_last)
    return lambda: torch.autograd.backward(module(pixels).sum())


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
