"""torchvision's policies with draws of our own: the same pictures as torchvision makes from its global generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from edgewise.data.policies import Policy

THEIRS = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment, "auto": v2.AutoAugment}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", THEIRS)
def test_it_is_torchvisions_with_the_same_seed(name: str, channels: int) -> None:
    images = np.random.default_rng(1).integers(0, 256, (24, 16, 20, channels), dtype=np.uint8)
    got = Policy(name)(images, np.random.default_rng(6))
    seed = int(np.random.default_rng(6).integers(2**63))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = THEIRS[name]()
        pictures = [Image.fromarray(image[:, :, 0] if channels == 1 else image) for image in images]
        expected = np.stack([np.asarray(theirs(picture)).reshape(16, 20, channels) for picture in pictures])
    assert np.array_equal(got, expected)
    assert (got != images).any(axis=(1, 2, 3)).sum() > 12


@pytest.mark.parametrize("name", THEIRS)
def test_the_global_generator_does_not_matter(name: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(Policy(name)(images, np.random.default_rng(0)))
    assert np.array_equal(*made)
