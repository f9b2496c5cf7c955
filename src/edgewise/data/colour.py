"""What happens to the values of pixels: hue, saturation, brightness and contrast as one linear map, blur, noise.

All work on float32 planes of 0..255, shape (n, channels, height, width), with values drawn per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.recipe import AugmentOptions

Floats = NDArray[np.float64]

YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to luma (ITU-R 601) and the two chroma axes of NTSC."""


@dataclass(frozen=True)
class Colours:
    """The colour map of each of N images: ``matrix @ pixel + lift @ mean pixel of the image``.

    Both are float32 (N, channels, channels).
    """

    matrix: torch.Tensor
    lift: torch.Tensor


def draw_colours(options: AugmentOptions, channels: int, count: int, random: np.random.Generator) -> Colours:
    """Draw the colour maps of `count` images."""

    def factor(key: str) -> Floats:
        most = options.strength(key)
        return random.uniform(1 - most, 1 + most, count)

    hue = 2 * math.pi * random.uniform(-options.strength("hue"), options.strength("hue"), count)
    saturation, brightness, contrast = factor("saturation"), factor("brightness"), factor("contrast")
    return colour_map(hue, saturation, brightness, contrast, channels)


def colour_map(hue: Floats, saturation: Floats, brightness: Floats, contrast: Floats, channels: int) -> Colours:
    """One linear map for four changes, each (N,): a hue angle in radians, and three factors where 1 changes nothing.

    In YIQ the hue is the angle and the saturation the length of (I, Q), so that both together are a turn and a stretch
    of that plane. They leave luma and grays as they are. This is not the hue of HSV, whose shift is no linear map.
    Brightness multiplies the values, contrast their distance from the image's mean luma, as in torchvision. A gray
    image has no hue and no saturation.
    """
    gain = brightness * contrast
    lift = brightness * (1 - contrast)
    if channels == 1:
        return Colours(_float(gain[:, None, None]), _float(lift[:, None, None]))
    chroma = np.zeros((len(hue), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(hue)
    chroma[:, 2, 1] = saturation * np.sin(hue)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    to_luma = np.broadcast_to(YIQ[0], (3, 3))
    matrix = np.linalg.inv(YIQ) @ chroma @ YIQ
    return Colours(_float(gain[:, None, None] * matrix), _float(lift[:, None, None] * to_luma))


def recolour(planes: torch.Tensor, colours: Colours, rows: slice) -> torch.Tensor:
    """Apply the maps of `rows` to as many contiguous images; values are not clipped."""
    pixels = planes.flatten(2)
    added = colours.lift[rows] @ pixels.mean(2, keepdim=True)
    return torch.baddbmm(added, colours.matrix[rows], pixels).view(planes.shape)


def _float(values: Floats) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def draw_sigmas(most: float, count: int, random: np.random.Generator) -> Floats:
    """Sigmas of a blur, in pixels, up to `most`; every second image has 0, which is none."""
    return random.uniform(0, most, count) * (random.random(count) < 0.5)


def blur(planes: torch.Tensor, sigmas: Floats) -> None:
    """Blur each image in place with a Gaussian of its own sigma, (n,), in pixels; 0 leaves it.

    Edges are mirrored, and all kernels end at three times the largest sigma.
    """
    chosen = np.flatnonzero(sigmas > 0)
    if not len(chosen):
        return
    some = np.maximum(sigmas[chosen], 1e-3)  # the square of a smaller one overflows
    radius = max(1, round(3 * some.max()))
    weights = np.exp(-0.5 * (np.arange(radius + 1) / some[:, None]) ** 2)
    weights /= (2 * weights.sum(1) - weights[:, 0])[:, None]
    taps = torch.from_numpy(weights).float()[:, :, None, None, None]
    rows = torch.from_numpy(chosen)
    planes[rows] = _smear(_smear(planes[rows], taps, axis=3), taps, axis=2)


def _smear(planes: torch.Tensor, taps: torch.Tensor, axis: int) -> torch.Tensor:
    """The weighted sum of an image and its shifted copies along one axis; taps are (n, radius + 1, 1, 1, 1)."""
    radius = taps.shape[1] - 1
    side = planes.shape[axis]
    margin = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
    padded = torch.nn.functional.pad(planes, margin, mode="reflect")
    result = planes * taps[:, 0]
    pair = torch.empty_like(planes)
    for distance in range(1, radius + 1):
        left = padded.narrow(axis, radius - distance, side)
        torch.add(left, padded.narrow(axis, radius + distance, side), out=pair)
        result.addcmul_(pair, taps[:, distance])
    return result


class Noise:
    """Gaussian noise from a store: each image gets a stretch of it from a random place, with a random strength.

    Drawing fresh normal values takes longer than all other steps together. Two images of a batch may get overlapping
    stretches; within one image all values are independent.

    Args:
        size: values of one image.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._store = torch.from_numpy(np.random.default_rng(0).standard_normal(max(2**20, 2 * size), dtype=np.float32))

    def draw(self, most: float, count: int, random: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
        """Places in the store and strengths of -most..most, (count,) each."""
        return random.integers(0, len(self._store) - self._size, count), random.uniform(-most, most, count)

    def add(self, planes: torch.Tensor, places: NDArray[np.int64], strengths: Floats) -> None:
        """Add noise in place."""
        for plane, place, strength in zip(planes, places.tolist(), strengths.tolist(), strict=True):
            plane.add_(self._store[place : place + self._size].view(plane.shape), alpha=strength)
