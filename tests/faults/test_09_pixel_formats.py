"""Case 9: 16 bits, CMYK, palettes, transparency, gray, 1 bit, EXIF turns, animations: one documented conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.bundle import InputSpec
from tests.data.loading import GRAY, SIDE, SPEC, load, paint, picture, pixels_of

BASE = picture("base")
RGB = np.asarray(BASE)


def loaded(cat: Path, name: str, spec: InputSpec = SPEC) -> np.ndarray:
    """The pixels of one file as a model sees them; the folder is filled up with others."""
    if not (cat.parent / "dog").exists():
        paint(cat.parent, dog=10, fox=10)
    data = load(cat.parent, spec=spec)
    assert not data.bad
    return pixels_of(data)[f"cat/{name}"]


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    (tmp_path / "cat").mkdir()
    return tmp_path / "cat"


def test_sixteen_bit_gray_is_scaled(cat: Path) -> None:
    values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 257
    Image.fromarray(values).save(cat / "x.png")
    expected = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    assert np.array_equal(loaded(cat, "x.png"), np.repeat(expected[..., None], 3, axis=2))


def test_gray_and_one_bit(cat: Path) -> None:
    BASE.convert("L").save(cat / "gray.png")
    BASE.convert("1").save(cat / "bit.png")
    gray = np.round(RGB.astype(float) @ [0.299, 0.587, 0.114])
    assert np.abs(loaded(cat, "gray.png").astype(int) - gray[..., None]).max() <= 1
    assert np.array_equal(loaded(cat, "bit.png")[..., 0], np.asarray(BASE.convert("1")).astype(np.uint8) * 255)


def test_cmyk(cat: Path) -> None:
    BASE.convert("CMYK").save(cat / "x.tif")
    assert np.array_equal(loaded(cat, "x.tif"), RGB)  # the naive inverse: there is no profile in it


def test_transparency_lies_on_white(cat: Path) -> None:
    alpha = np.zeros((SIDE, SIDE), dtype=np.uint8)
    alpha[:, SIDE // 2 :] = 255
    Image.fromarray(np.dstack([RGB, alpha])).save(cat / "x.png")
    pixels = loaded(cat, "x.png")
    assert (pixels[:, : SIDE // 2] == 255).all()
    assert np.array_equal(pixels[:, SIDE // 2 :], RGB[:, SIDE // 2 :])


def test_a_palette_with_a_transparent_colour(cat: Path) -> None:
    indices = np.zeros((SIDE, SIDE), dtype=np.uint8)
    indices[:4] = 1
    image = Image.frombytes("P", (SIDE, SIDE), indices.tobytes())
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(cat / "x.png", transparency=1)
    pixels = loaded(cat, "x.png")
    assert (pixels[:4] == 255).all()
    assert (pixels[4:] == [10, 20, 30]).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(cat: Path, turn: int) -> None:
    """Stored so that the turn which the file asks for gives the upright picture."""
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB),
        7: np.rot90(RGB, 2).transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.ascontiguousarray(stored)).save(cat / "x.png", exif=exif)
    assert np.array_equal(loaded(cat, "x.png"), RGB)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_used(cat: Path, kind: str) -> None:
    first = Image.new("RGB", (SIDE, SIDE), (200, 40, 40))
    second = Image.new("RGB", (SIDE, SIDE), (40, 200, 40))
    options = {"lossless": True} if kind == "webp" else {}
    first.save(cat / f"x.{kind}", save_all=True, append_images=[second], duration=50, **options)
    assert np.abs(loaded(cat, f"x.{kind}").astype(int) - [200, 40, 40]).max() <= 1


def test_an_odd_colour_profile_changes_nothing(cat: Path) -> None:
    BASE.save(cat / "x.png", icc_profile=b"not a profile" * 9)
    assert np.array_equal(loaded(cat, "x.png"), RGB)


def test_one_channel_for_gray_models(cat: Path) -> None:
    BASE.save(cat / "x.png")
    pixels = loaded(cat, "x.png", GRAY)
    assert pixels.shape == (SIDE, SIDE, 1)
    assert np.abs(pixels[..., 0] - np.round(RGB.astype(float) @ [0.299, 0.587, 0.114])).max() <= 1
