"""From decoded pixels to the batches of an epoch, each a function of (seed, epoch, step, rank) and nothing else.

Images stay decoded as uint8 (N, height, width, channels), which *is* channels_last memory for torch: a batch is one
gather, the augmentation, one cast and one multiply-add away from the net.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.bundle import InputSpec
from edgewise.data import Split
from edgewise.data.pages import release_pages
from edgewise.data.sampling import epoch_rows
from edgewise.train.losses import Batch

Augmentation = Callable[
    [NDArray[np.uint8], NDArray[np.int64], np.random.Generator], tuple[NDArray[np.uint8], NDArray[np.float32] | None]
]
"""Images and labels -> augmented images, and soft targets (N, classes) where images were mixed."""

RELEASE_BYTES = 256 * 2**20
"""Pages of a mapped pixel file are let go of after so many bytes of images."""


class Pixels:
    """Brings uint8 pixels to a device as normalised float32 (N, channels, height, width) in channels_last memory."""

    def __init__(self, spec: InputSpec, device: torch.device) -> None:
        self.device = device
        std = torch.tensor(spec.std, dtype=torch.float32)
        mean = torch.tensor(spec.mean, dtype=torch.float32)
        self._scale = (1 / (255 * std)).view(1, -1, 1, 1).to(device)
        self._shift = (-mean / std).view(1, -1, 1, 1).to(device)

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Normalise a batch; `images` is uint8 (N, height, width, channels)."""
        batch = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        return torch.addcmul(self._shift, batch.permute(0, 3, 1, 2).float(), self._scale)


@dataclass(frozen=True)
class Feed:
    """The training batches of one process.

    split: the training images. pixels: how they reach the device. size: images per step, over all processes.
    seed: of order and augmentation. sampling: what an epoch is made of, see `edgewise.data.sampling`. augment: None
    leaves images as they are. rank, processes: which of how many processes this is; each takes its share of a batch.
    """

    split: Split
    pixels: Pixels
    size: int
    seed: int
    sampling: Literal["natural", "balanced"] = "natural"
    augment: Augmentation | None = None
    rank: int = 0
    processes: int = 1

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.split) / self.size)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (counted from 1), without the first `skip`.

        Torch's generators are seeded for each step before its batch is handed out, so that dropout depends on the step
        alone. The caller has forked them.
        """
        order = epoch_rows(self.split.labels, self.sampling, np.random.default_rng([self.seed, epoch]))
        read = 0
        for step in range(skip, self.steps):
            rows = self._share(order[step * self.size : (step + 1) * self.size], order)
            draw = np.random.SeedSequence([self.seed, epoch, step, self.rank])
            torch.manual_seed(int(draw.generate_state(1, np.uint64)[0] >> 1))
            yield self._batch(rows, np.random.default_rng(draw))
            read += len(rows) * self.split.images[0].nbytes
            if read > RELEASE_BYTES:
                release_pages(self.split.images)
                read = 0

    def _share(self, rows: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's part: equally many for each, at least two (batch norm cannot train on one image)."""
        count = max(2 if len(order) > 1 else 1, math.ceil(len(rows) / self.processes))
        return np.resize(rows if len(rows) > 1 else order[-2:], count * self.processes)[self.rank :: self.processes]

    def _batch(self, rows: NDArray[np.int64], random: np.random.Generator) -> Batch:
        images, labels = self.split.images[rows], self.split.labels[rows]
        targets = None
        if self.augment:
            images, mixed = self.augment(images, labels, random)
            targets = None if mixed is None else torch.from_numpy(mixed).to(self.pixels.device)
        device = self.pixels.device
        return Batch(
            self.pixels(images), torch.from_numpy(labels).to(device), torch.from_numpy(rows).to(device), targets
        )
