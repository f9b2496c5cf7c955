"""Published augmentation policies, as torchvision has them, with draws that come from one numpy generator.

The policies draw from torch's global generator. Seeding and restoring it would disturb dropout in another thread, so
each draw is handed a generator of its own on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.overrides import TorchFunctionMode


class Policy:
    """TrivialAugmentWide, RandAugment or AutoAugment (its ImageNet policy) on each image of a batch.

    Müller, Hutter 2021, arXiv:2103.10158; Cubuk et al. 2019, arXiv:1909.13719; Cubuk et al. 2018, arXiv:1805.09501.
    Parameters are torchvision's defaults. Operations on colour leave gray images as they are.

    Args:
        name: trivial, rand or auto.
    """

    def __init__(self, name: str) -> None:
        from torchvision.transforms import v2

        self._transform = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}[name]()

    def __call__(self, images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Changed copies of uint8 (N, height, width, channels)."""
        result = np.empty_like(images)
        with _Draws(random):
            for target, image in zip(result, images, strict=True):
                # Pillow takes half the time of torchvision's tensors for single uint8 images.
                picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
                target[...] = np.asarray(self._transform(picture)).reshape(image.shape)
        return result


class _Draws(TorchFunctionMode):
    """In this thread, lets torch's draws come from a generator seeded by `random`."""

    def __init__(self, random: np.random.Generator) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(int(random.integers(2**63)))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        more = dict(kwargs or {})
        if func in (torch.rand, torch.randint):
            more["generator"] = self._generator
        return func(*args, **more)
