"""Colour maps against torchvision, colorsys and their own promises; blur against scipy; noise against its strength."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torchvision.transforms.v2 import functional as tv

from edgewise.data.colour import Noise, blur, colour_map, draw_colours, draw_sigmas, recolour
from edgewise.recipe import AugmentOptions

LUMA = np.array([0.299, 0.587, 0.114])
ONE = np.ones(1)
NONE = np.zeros(1)

angles = st.floats(-math.pi, math.pi)
factors = st.floats(0, 2)
pixels = st.tuples(*[st.integers(0, 255)] * 3)


def picture(channels: int = 3, low: int = 80, high: int = 170) -> torch.Tensor:
    """Values far enough from 0 and 255 that nothing is clipped; uint8 (1, channels, 16, 16)."""
    return torch.from_numpy(np.random.default_rng(0).integers(low, high, (1, channels, 16, 16), dtype=np.uint8))


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation"])
def test_each_factor_is_torchvisions(what: str, factor: float, channels: int) -> None:
    values = {"brightness": ONE, "contrast": ONE, "saturation": ONE, what: np.array([factor])}
    got = recolour(picture(channels).float(), colour_map(NONE, channels=channels, **values), slice(0, 1))
    expected = getattr(tv, f"adjust_{what}")(picture(channels), factor).float()
    assert (got - expected).abs().max() < 1.5  # torchvision rounds the gray image and the result down
    assert torch.equal(got.round(), picture(channels).float()) == (factor == 1 or (channels == 1 and what[0] == "s"))


def test_all_at_once_is_one_after_the_other() -> None:
    hue, saturation, brightness, contrast = (np.array([value]) for value in (0.3, 1.2, 0.9, 1.1))
    together = recolour(picture().float(), colour_map(hue, saturation, brightness, contrast, 3), slice(0, 1))
    single = picture().float()
    for maps in (
        colour_map(hue, ONE, ONE, ONE, 3),
        colour_map(NONE, saturation, ONE, ONE, 3),
        colour_map(NONE, ONE, brightness, ONE, 3),
        colour_map(NONE, ONE, ONE, contrast, 3),
    ):
        single = recolour(single, maps, slice(0, 1))
    assert torch.allclose(together, single, atol=1e-3)


@given(pixels, angles, factors)
def test_hue_turns_and_saturation_stretches_the_chroma_plane(
    pixel: tuple[int, int, int], hue: float, saturation: float
) -> None:
    matrix = colour_map(np.array([hue]), np.array([saturation]), ONE, ONE, 3).matrix[0].double().numpy()
    before = np.array(pixel, dtype=np.float64)
    after = matrix @ before
    assert LUMA @ after == pytest.approx(LUMA @ before, abs=1e-3)
    # colorsys has other decimals of the same axes: a small difference is allowed.
    _, i, q = colorsys.rgb_to_yiq(*before)
    _, turned_i, turned_q = colorsys.rgb_to_yiq(*after)
    expected = saturation * complex(i, q) * np.exp(1j * hue)
    assert abs(complex(turned_i, turned_q) - expected) < 0.03 * 255


@given(st.integers(0, 255), angles, factors)
def test_grays_keep_their_value(value: int, hue: float, saturation: float) -> None:
    matrix = colour_map(np.array([hue]), np.array([saturation]), ONE, ONE, 3).matrix[0].double().numpy()
    assert np.allclose(matrix @ np.full(3, value), value, atol=1e-3)


def test_no_saturation_is_gray_and_no_contrast_is_flat() -> None:
    gray = recolour(picture().float(), colour_map(NONE, NONE, ONE, ONE, 3), slice(0, 1))
    assert torch.allclose(gray[:, 0], gray[:, 2], atol=1e-3)
    flat = recolour(picture().float(), colour_map(NONE, ONE, ONE, NONE, 3), slice(0, 1))
    mean = float((picture().float().mean((0, 2, 3)) * torch.tensor(LUMA).float()).sum())
    assert torch.allclose(flat, torch.full_like(flat, mean), atol=1e-2)


def test_each_image_gets_its_own_map() -> None:
    colours = draw_colours(AugmentOptions(version=2), 3, 6, np.random.default_rng(0))
    images = picture().float().repeat(6, 1, 1, 1)
    whole = recolour(images, colours, slice(0, 6))
    assert torch.allclose(whole[2:4], recolour(images[2:4], colours, slice(2, 4)), atol=1e-3)
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 6


def test_factors_fill_their_range() -> None:
    gain = draw_colours(AugmentOptions(brightness=0.4), 1, 5000, np.random.default_rng(0)).matrix[:, 0, 0].numpy()
    assert 0.599 < gain.min() < 0.61
    assert 1.39 < gain.max() < 1.401
    assert gain.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sigmas", [[0.4, 1.1, 0.0, 2.0], [0.3, 0.0, 0.05, 0.0]])
def test_blur_is_scipys(sigmas: list[float]) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (4, 3, 21, 17)).astype(np.float32)
    got = torch.from_numpy(images.copy())
    blur(got, np.array(sigmas))
    radius = max(1, round(3 * max(sigmas)))
    for image, result, sigma in zip(images, got.numpy(), sigmas, strict=True):
        expected = image
        if sigma:
            expected = gaussian_filter(image, sigma, mode="mirror", radius=radius, axes=(1, 2))
        assert np.allclose(result, expected, atol=1e-2)


def test_every_second_image_is_blurred() -> None:
    sigmas = draw_sigmas(2.0, 4000, np.random.default_rng(0))
    assert (sigmas > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert 1.95 < sigmas.max() <= 2.0


def test_noise_has_its_strength_and_no_pattern() -> None:
    noise = Noise(3 * 64 * 64)
    planes = torch.full((3, 3, 64, 64), 100.0)
    noise.add(planes, np.array([0, 777, 50_000]), np.array([0.0, 5.0, -20.0]))
    spread = (planes - 100).flatten(1)
    assert spread[0].abs().max() == 0
    assert spread[1].std().item() == pytest.approx(5, rel=0.03)
    assert spread[2].std().item() == pytest.approx(20, rel=0.03)
    assert spread.mean(1).abs().max() < 0.6
    along = np.corrcoef(spread[2, :-1], spread[2, 1:])[0, 1]
    down = np.corrcoef(spread[2, :-64], spread[2, 64:])[0, 1]
    assert abs(along) < 0.04
    assert abs(down) < 0.04


def test_noise_is_drawn_within_its_limits() -> None:
    places, strengths = Noise(1000).draw(8.0, 3000, np.random.default_rng(0))
    assert places.min() >= 0
    assert places.max() < 2**20 - 1000
    assert np.abs(strengths).max() <= 8
    assert len(np.unique(places)) > 2900
