"""Pictures to look for copies in: varied photograph crops and textures, and copies of each kind planted among them.

The photographs are the two that scikit-learn ships (CC BY). Two crops of them are blended, or one with a texture, or
four make a mosaic, so that any number of pictures with the statistics of photographs can be drawn. Crops are small,
turned and mirrored, and each shows something: two that showed the same flower before an empty sky would be copies of
each other, and no truth to measure by. Textures are noise with a power spectrum of a random slope, from nearly white to
cloudy.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

SIZE = (256, 192)
LEAST_CONTRAST = 30.0
"""Standard deviation, in gray levels of a 16 x 16 thumbnail, below which a crop shows too little."""

Picture = Image.Image


def picture(index: int) -> Picture:
    """A picture that only this index has: RGB, 256 x 192."""
    random = np.random.default_rng(index)
    kind = index % 4
    if kind < 2:
        other = _crop(random) if kind else _texture(random)
        return Image.blend(_crop(random), other, float(random.uniform(0.4, 0.6)))
    return _texture(random) if kind == 2 else _mosaic(random)


def resized(image: Picture, factor: float) -> Picture:
    """The same picture at another size."""
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def recompressed(image: Picture, quality: int) -> Picture:
    """The same picture after JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def cropped(image: Picture, share: float) -> Picture:
    """The same picture without this share of each side."""
    across, down = share * image.width, share * image.height
    return image.crop((round(across), round(down), round(image.width - across), round(image.height - down)))


def brightened(image: Picture) -> Picture:
    """The same picture with less contrast, lighter."""
    return image.point(lambda level: round(level * 0.8 + 30))


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "identical pixels": lambda image: image.copy(),
    "resized to half": lambda image: resized(image, 0.5),
    "resized to a quarter": lambda image: resized(image, 0.25),
    "resized to double": lambda image: resized(image, 2.0),
    "JPEG quality 60": lambda image: recompressed(image, 60),
    "JPEG quality 25": lambda image: recompressed(image, 25),
    "half size, JPEG 40": lambda image: recompressed(resized(image, 0.5), 40),
    "brightened": brightened,
}
"""Copies that must be found."""

CROPS: dict[str, Callable[[Picture], Picture]] = {
    "cropped by 1 % a side": lambda image: cropped(image, 0.01),
    "cropped by 2 % a side": lambda image: cropped(image, 0.02),
    "cropped by 5 % a side": lambda image: cropped(image, 0.05),
}
"""Copies that are found as far as they go."""


@cache
def _photographs() -> list[Picture]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def _crop(random: np.random.Generator) -> Picture:
    photographs = _photographs()
    while True:
        photograph = photographs[int(random.integers(len(photographs)))]
        side = int(random.integers(64, 200))
        left, top = (int(random.integers(0, length - side + 1)) for length in photograph.size)
        cut = photograph.crop((left, top, left + side, top + side))
        if np.asarray(cut.convert("L").resize((16, 16))).std() >= LEAST_CONTRAST:
            break
    cut = cut.rotate(90 * int(random.integers(4))).resize(SIZE, Image.Resampling.BILINEAR)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else cut


def _mosaic(random: np.random.Generator) -> Picture:
    whole = Image.new("RGB", SIZE)
    width, height = SIZE[0] // 2, SIZE[1] // 2
    for place in range(4):
        whole.paste(_crop(random).resize((width, height)), (place % 2 * width, place // 2 * height))
    return whole


def _texture(random: np.random.Generator) -> Picture:
    width, height = SIZE
    noise: Any = np.fft.rfft2(random.normal(size=(height, width, 3)), axes=(0, 1))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    noise *= (np.maximum(frequency, 1 / width) ** -random.uniform(0.5, 2.0))[..., None]
    field = np.fft.irfft2(noise, s=(height, width), axes=(0, 1))
    field = (field - field.min()) / (field.max() - field.min()) * 255
    return Image.fromarray(field.astype(np.uint8))
