"""Which pictures of a stream are new."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from edgewise.live.looks import REMEMBERED, Looks


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:480, :480])


def test_noise_and_light_do_not_make_a_picture_new(photo: np.ndarray) -> None:
    looks = Looks()
    assert looks.is_new(photo)
    looks.remember(photo)
    assert not looks.is_new(photo)
    noise = np.random.default_rng(0).normal(0, 12, photo.shape)
    assert not looks.is_new(np.clip(photo + noise, 0, 255).astype(np.uint8))
    assert not looks.is_new((photo * 0.8).astype(np.uint8))


def test_another_place_and_the_mirror_image_are_new(photo: np.ndarray) -> None:
    looks = Looks()
    looks.remember(photo)
    assert looks.is_new(photo[:, ::-1].copy())
    assert looks.is_new(np.roll(photo, 60, axis=1))
    assert looks.is_new(255 - photo)


def test_blank_pictures_are_all_alike_and_unlike_others(photo: np.ndarray) -> None:
    looks = Looks()
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)
    looks.remember(black)
    assert not looks.is_new(white)
    assert looks.is_new(photo)
    looks.remember(photo)
    assert not looks.is_new(photo)


def test_without_a_difference_everything_is_new(photo: np.ndarray) -> None:
    looks = Looks(0)
    looks.remember(photo)
    assert looks.is_new(photo)


def test_what_is_remembered_is_limited(photo: np.ndarray) -> None:
    looks = Looks()
    looks.remember(photo)
    random = np.random.default_rng(1)
    for _ in range(REMEMBERED):
        looks.remember(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert looks._units.shape == (REMEMBERED, 256)
    assert looks.is_new(photo)
