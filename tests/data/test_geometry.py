"""Placing images: against Pillow, torchvision, numpy, and whole-pixel copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from edgewise.data.geometry import Placement, draw_placement, lookup, move, resamples, warp
from edgewise.recipe import AugmentOptions


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """One picture of slow waves, so that a pixel's neighbours are alike; (1, height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 5 + y / 9 + phase) for phase in (0, 1, 2)]
    return np.stack(waves, -1).astype(np.uint8)[None]


def placement(count: int = 1, **fields: Any) -> Placement:
    plain = {
        "flip": np.ones((count, 2)),
        "shift": np.zeros((count, 2), dtype=np.int64),
        "window": np.ones((count, 2)),
        "corner": np.zeros((count, 2)),
        "angle": np.zeros(count),
    }
    return Placement(**{**plain, **fields})


def warped(images: np.ndarray, place: Placement) -> np.ndarray:
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
    positions = lookup(place, *images.shape[1:3])
    return warp(planes, positions, slice(0, len(images))).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("sides", [(33, 33), (24, 40), (40, 25)])
@pytest.mark.parametrize("degrees", [-170.0, -31.0, 3.0, 15.0, 90.0, 133.7])
def test_rotation_is_torchvisions(degrees: float, sides: tuple[int, int]) -> None:
    images = pictures(1, *sides)
    got = warped(images, placement(angle=np.array([math.radians(degrees)])))
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = tv.rotate(planes, degrees, InterpolationMode.BILINEAR).permute(0, 2, 3, 1).numpy()
    assert np.allclose(got, expected, atol=0.05)


@pytest.mark.parametrize("degrees", [-31.0, 15.0, 77.0])
def test_rotation_is_pillows_away_from_the_border(degrees: float) -> None:
    images = smooth(48, 48)
    got = warped(images, placement(angle=np.array([math.radians(degrees)])))
    expected = np.asarray(Image.fromarray(images[0]).rotate(degrees, Image.Resampling.BILINEAR))
    assert np.abs(got[0] - expected)[14:-14, 14:-14].max() < 1.01
    assert np.abs(got[0] - images[0])[14:-14, 14:-14].max() > 20, "the picture was not turned at all"


def test_a_quarter_turn_is_exact() -> None:
    images = pictures(1, 17, 17)
    assert np.allclose(warped(images, placement(angle=np.array([math.pi / 2])))[0], np.rot90(images[0]), atol=0.02)


moves = st.tuples(st.integers(-12, 12), st.integers(-12, 12), st.booleans(), st.booleans())


@settings(deadline=None)
@given(st.lists(moves, min_size=1, max_size=4), st.integers(5, 11), st.integers(5, 11))
def test_move_is_flip_then_shift_and_warp_does_the_same(
    wanted: list[tuple[int, int, bool, bool]], height: int, width: int
) -> None:
    images = pictures(len(wanted), height, width)
    place = placement(
        len(wanted),
        flip=np.array([[1 - 2 * across, 1 - 2 * down] for _, _, across, down in wanted], dtype=np.float64),
        shift=np.array([[x, y] for x, y, _, _ in wanted]),
    )
    expected = []
    for image, (x, y, across, down) in zip(images, wanted, strict=True):
        flipped = image[:: -1 if down else 1, :: -1 if across else 1]
        padded = np.pad(flipped, ((12, 12), (12, 12), (0, 0)))
        expected.append(padded[12 - y : 12 - y + height, 12 - x : 12 - x + width])
    got = move(images, place)
    assert np.array_equal(got, np.stack(expected))
    assert np.allclose(warped(images, place), got, atol=0.02)


def test_a_padded_crop_reaches_every_window_and_no_other() -> None:
    options = AugmentOptions(crop=1)
    place = draw_placement(options, 6, 6, 400, np.random.default_rng(0))
    image = pictures(1, 6, 6)
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
    windows = {padded[y : y + 6, x : x + 6].tobytes() for y in range(3) for x in range(3)}
    assert {moved.tobytes() for moved in move(np.repeat(image, 400, 0), place)} == windows
    assert not resamples(options)


def test_translation_stays_below_its_share_of_each_side() -> None:
    place = draw_placement(AugmentOptions(translate=0.2), 10, 40, 2000, np.random.default_rng(0))
    assert set(place.shift[:, 0].tolist()) == set(range(-8, 9))
    assert set(place.shift[:, 1].tolist()) == {-2, -1, 0, 1, 2}


def test_flips_are_even_and_independent() -> None:
    place = draw_placement(AugmentOptions(version=1), 10, 10, 4000, np.random.default_rng(0))
    down = place.flip[:, 1] < 0
    assert (place.flip[:, 0] < 0).mean() == pytest.approx(0.5, abs=0.04)
    assert ((place.flip[:, 0] < 0) == down).mean() == pytest.approx(0.5, abs=0.04)
    only = draw_placement(AugmentOptions(horizontal_flip=True), 10, 10, 100, np.random.default_rng(0))
    assert (only.flip[:, 1] == 1).all()


def test_angles_fill_their_range() -> None:
    degrees = np.degrees(draw_placement(AugmentOptions(rotation=30), 9, 9, 4000, np.random.default_rng(0)).angle)
    assert -30 <= degrees.min() < -29
    assert 29 < degrees.max() <= 30
    assert degrees.mean() == pytest.approx(0, abs=1)


def test_a_resized_crop_has_its_area_and_stays_inside() -> None:
    place = draw_placement(AugmentOptions(crop_scale=(0.25, 0.5)), 32, 48, 500, np.random.default_rng(0))
    area, aspect = place.window.prod(axis=1), place.window[:, 0] / place.window[:, 1]
    assert area.min() >= 0.25
    assert area.max() <= 0.5
    assert area.mean() == pytest.approx(0.375, abs=0.01)
    assert 0.75 <= aspect.min() < 0.78
    assert 1.28 < aspect.max() <= 4 / 3 + 1e-9
    flat = np.full((500, 32, 48, 3), 200, dtype=np.uint8)
    assert np.allclose(warped(flat, place), 200, atol=0.02), "something from outside came in"


def test_a_resized_crop_enlarges_what_it_shows() -> None:
    """On a ramp the slope falls by the side of the window, and the middle shows where the window lies."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (1, 64, 64, 3))
    got = warped(np.ascontiguousarray(ramp), placement(window=np.array([[0.5, 1.0]]), corner=np.array([[10.0, 0.0]])))
    assert np.allclose(np.diff(got[0, 20, :, 0]), 0.5, atol=1e-3)
    assert got[0, 20, 31:33, 0].mean() == pytest.approx(31.5 + 10, abs=1e-3)
