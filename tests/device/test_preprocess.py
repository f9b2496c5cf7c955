"""The one preprocessing against pictures worked out by hand with numpy."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from edgewise.device import preprocess
from edgewise.device.preprocess import BadImage, load_pixels, open_image, prepare, softmax
from edgewise.device.shipped.clocks import peak_rss

Array = np.ndarray

ROWS, COLUMNS = np.mgrid[0:24, 0:32]
COLOUR = np.stack([ROWS * 10, COLUMNS * 8, (ROWS * COLUMNS) % 256], axis=-1).astype(np.uint8)
GRAY = ((ROWS * 7 + COLUMNS * 5) % 256).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    stream.seek(0)
    return stream


def as_is(source: object, array: Array, channels: int = 3) -> Array:
    """Load at the picture's own size, so that only the conversion is seen."""
    return load_pixels(source, *array.shape[:2], channels)


def luma(rgb: Array) -> Array:
    """ITU-R 601 gray."""
    return rgb.astype(np.float64) @ [0.299, 0.587, 0.114]


def on_white(rgb: Array, alpha: Array) -> Array:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


# --- Conversion -------------------------------------------------------------------------------------------------


def test_rgb_is_kept_and_gray_is_itu_601() -> None:
    source = encoded(Image.fromarray(COLOUR), "PNG")
    np.testing.assert_array_equal(as_is(source, COLOUR), COLOUR)
    gray = as_is(encoded(Image.fromarray(COLOUR), "PNG"), COLOUR, channels=1)
    assert gray.shape == (24, 32, 1)
    np.testing.assert_allclose(gray[..., 0], luma(COLOUR), atol=1)


def test_gray_fills_three_channels() -> None:
    pixels = as_is(encoded(Image.fromarray(GRAY), "PNG"), GRAY)
    np.testing.assert_array_equal(pixels, np.repeat(GRAY[..., None], 3, axis=-1))


@pytest.mark.parametrize("scale", [1, 200, 257], ids=["dark", "middle", "full"])
def test_sixteen_bit_gray_keeps_its_upper_byte(scale: int) -> None:
    wide = GRAY.astype(np.uint16) * scale
    pixels = as_is(encoded(Image.fromarray(wide), "PNG"), GRAY, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], wide >> 8)


@pytest.mark.parametrize("scale", [1, 257])
def test_older_pillow_opens_sixteen_bit_gray_as_integers_to_the_same_pixels(
    scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = GRAY.astype(np.uint16) * scale
    expected = as_is(encoded(Image.fromarray(wide), "PNG"), GRAY, channels=1)
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: Image.fromarray(np.asarray(image, np.int32)))
    np.testing.assert_array_equal(as_is(encoded(Image.fromarray(wide), "PNG"), GRAY, channels=1), expected)


def test_thirty_two_bit_integers_are_sixteen_bits_unless_all_fit_into_eight() -> None:
    wide = encoded(Image.fromarray(GRAY.astype(np.int32) * 256), "TIFF")
    np.testing.assert_array_equal(as_is(wide, GRAY, channels=1)[..., 0], GRAY)
    narrow = encoded(Image.fromarray(GRAY.astype(np.int32)), "TIFF")
    np.testing.assert_array_equal(as_is(narrow, GRAY, channels=1)[..., 0], GRAY)


def test_float_gray_is_scaled_from_one_and_never_wraps_round() -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    pixels = as_is(encoded(Image.fromarray(unit), "TIFF"), unit, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], (unit.astype(np.float64) * 255).astype(np.uint8))
    odd = np.array([[np.nan, -5.0, 300.0, np.inf], [-np.inf, 10.7, 255.0, 0.0]], dtype=np.float32)
    pixels = as_is(encoded(Image.fromarray(odd), "TIFF"), odd, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 255, 255], [0, 10, 255, 0]])


def test_one_bit_is_black_and_white() -> None:
    bits = (GRAY > 128).astype(np.uint8) * 255
    pixels = as_is(encoded(Image.fromarray(bits).convert("1"), "PNG"), bits, channels=1)
    np.testing.assert_array_equal(pixels[..., 0], bits)


def test_cmyk_jpeg_is_ink_on_white() -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:, :] = (200, 40, 0, 60)
    pixels = as_is(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100), inks)
    expected = np.array([255 - 200, 255 - 40, 255 - 0]) * (255 - 60) / 255
    np.testing.assert_allclose(pixels.reshape(-1, 3), np.broadcast_to(expected, (256, 3)), atol=2)


def test_alpha_is_laid_on_white() -> None:
    alpha = (COLUMNS * 8).astype(np.uint8)
    rgba = np.dstack([COLOUR, alpha])
    pixels = as_is(encoded(Image.fromarray(rgba), "PNG"), COLOUR)
    np.testing.assert_allclose(pixels, on_white(COLOUR, alpha), atol=1)
    la = Image.fromarray(np.dstack([GRAY, alpha]), "LA")
    pixels = as_is(encoded(la, "PNG"), GRAY, channels=1)
    np.testing.assert_allclose(pixels, on_white(GRAY[..., None], alpha), atol=1)


def test_palette_with_alpha_is_laid_on_white() -> None:
    palette = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30], [200, 200, 0]], np.uint8)
    alpha = np.array([255, 0, 128, 64], np.uint8)
    index = ((ROWS + COLUMNS) % 4).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.tobytes())
    pixels = as_is(encoded(image, "PNG", transparency=alpha.tobytes()), index)
    np.testing.assert_allclose(pixels, on_white(palette[index], alpha[index]), atol=1)


def test_a_transparent_colour_becomes_white() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[0] = (9, 8, 7)
    pixels = as_is(encoded(Image.fromarray(picture), "PNG", transparency=(9, 8, 7)), picture)
    assert (pixels[0] == 255).all()
    assert (pixels[1:] == 0).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "MPO"])
def test_of_many_frames_the_first_counts(form: str) -> None:
    frames = [Image.new("RGB", (12, 10), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    source = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    pixels = load_pixels(source, 10, 12, 3)
    np.testing.assert_allclose(pixels, np.broadcast_to((255, 0, 0), (10, 12, 3)), atol=2 if form == "MPO" else 0)


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stored", [COLOUR, GRAY.astype(np.uint16) * 257], ids=["rgb", "16-bit"])
def test_exif_orientation_is_applied(orientation: int, stored: Array) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = encoded(Image.fromarray(stored), "PNG", exif=exif)
    channels = 3 if stored.ndim == 3 else 1
    expected = UPRIGHT[orientation](stored if channels == 3 else GRAY[..., None])
    np.testing.assert_array_equal(as_is(source, expected, channels), expected)


# --- Geometry ---------------------------------------------------------------------------------------------------


def halves() -> Image.Image:
    """40 wide, 20 high: 10 columns of 50, 20 of 100, 10 of 200."""
    picture = np.full((20, 40), 100, np.uint8)
    picture[:, :10], picture[:, 30:] = 50, 200
    return Image.fromarray(picture)


def test_squash_averages_over_areas() -> None:
    pixels = prepare(halves(), 2, 4, 1, "squash", "nearest")[..., 0]
    np.testing.assert_array_equal(pixels, [[50, 100, 100, 200]] * 2)
    row = np.array([0, 250, 30, 90, 10, 200, 60, 120])
    once = prepare(Image.fromarray(np.repeat(row[None], 8, axis=0).astype(np.uint8)), 8, 4, 1)[..., 0]
    inner = [row[i - 1 : i + 3] @ [1, 3, 3, 1] / 8 for i in (2, 4)]  # a triangle two source pixels wide on each side
    np.testing.assert_allclose(once[0, 1:3], inner, atol=1)


def test_crop_takes_the_middle() -> None:
    pixels = prepare(halves(), 10, 10, 1, "crop", "nearest")[..., 0]
    assert (pixels == 100).all()  # columns 10..30 of 40
    wide = prepare(halves(), 5, 20, 1, "crop", "nearest")[..., 0]  # rows 5..15 of 20, all columns
    np.testing.assert_array_equal(wide[0], [50] * 5 + [100] * 10 + [200] * 5)


def test_pad_centres_on_black() -> None:
    pixels = prepare(halves(), 20, 20, 1, "pad", "nearest")[..., 0]
    assert (pixels[:5] == 0).all()
    assert (pixels[15:] == 0).all()
    np.testing.assert_array_equal(pixels[10], [50] * 5 + [100] * 10 + [200] * 5)


def test_an_unknown_fit_is_named() -> None:
    with pytest.raises(ValueError, match="squash, crop, pad, not 'stretch'"):
        prepare(halves(), 20, 40, 1, "stretch")


@pytest.mark.parametrize("size", [(200_000, 1), (1, 1_000_000)], ids=["flat", "tall"])
@pytest.mark.parametrize("fit", preprocess.FITS)
def test_slivers_do_not_blow_up_in_memory(size: tuple[int, int], fit: str) -> None:
    image = Image.new("RGB", size, (1, 2, 3))
    before = peak_rss()
    pixels = prepare(image, 224, 224, 3, fit)
    assert peak_rss() - before < 200e6
    assert tuple(pixels[111, 111]) == (1, 2, 3)


@settings(max_examples=60, deadline=None)
@given(
    picture=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(preprocess.FITS),
    interpolation=st.sampled_from(sorted(preprocess.RESAMPLE)),
)
def test_any_picture_gets_the_shape_asked_for(
    picture: Array, height: int, width: int, channels: int, fit: str, interpolation: str
) -> None:
    image = Image.fromarray(picture)
    pixels = prepare(image, height, width, channels, fit, interpolation)
    assert pixels.shape == (height, width, channels)
    assert pixels.dtype == np.uint8
    again = prepare(Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels), height, width, channels, fit)
    np.testing.assert_array_equal(again, pixels)  # a picture of the right size is left alone
    if fit != "pad" and interpolation != "bicubic":
        assert int(pixels.max()) <= int(picture.max()) + 1
        assert int(pixels.min()) >= int(picture.min()) - 1


# --- Golden pixels ----------------------------------------------------------------------------------------------

GOLDEN = {
    ("squash", "nearest"): "f1596aeaf1e8afc4",
    ("squash", "bilinear"): "b3ea7c36c6efa90a",
    ("squash", "bicubic"): "5b3da84e06185b71",
    ("crop", "nearest"): "9c8961c8f21f07ff",
    ("crop", "bilinear"): "6c003b5fdece4485",
    ("crop", "bicubic"): "b49b0a7c65d309f6",
    ("pad", "nearest"): "c38597d86a941eed",
    ("pad", "bilinear"): "8be85bc7d6f472ee",
    ("pad", "bicubic"): "abab9ef1e63bbfb5",
}
"""First 16 digits of the sha256 of the 13 x 17 pixels, RGB then gray: a model is only right for the pixels that it was
trained on, so a change here is a new format version of the bundle."""


@pytest.mark.parametrize(("fit", "interpolation"), GOLDEN)
def test_pixels_are_pinned(fit: str, interpolation: str) -> None:
    digest = hashlib.sha256()
    for channels in (3, 1):
        for size in ((24, 32), (32, 24), (7, 5)):
            image = Image.fromarray(np.resize(COLOUR, (*size, 3)))
            digest.update(prepare(image, 13, 17, channels, fit, interpolation).tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[fit, interpolation]


# --- Refusals ---------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (9_000, 9_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_from_the_header(width: int, height: int) -> None:
    idat = zlib.compress(b"\0" * 30_000)
    data = png_header(width, height) + struct.pack(">I", len(idat)) + b"IDAT" + idat + b"\0\0\0\0"
    with pytest.raises(BadImage, match="pixels"):
        open_image(io.BytesIO(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(form: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form).getvalue()
    with pytest.raises(BadImage):
        open_image(io.BytesIO(data[: int(len(data) * share)]))


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "SGI", "TGA"])
def test_formats_outside_the_list_are_refused(form: str) -> None:
    with pytest.raises(BadImage):
        open_image(encoded(Image.fromarray(COLOUR), form))


def test_what_is_no_picture_is_refused_with_the_reason(tmp_path: Path) -> None:
    page, empty = tmp_path / "page.jpg", tmp_path / "empty.jpg"
    page.write_text("<!doctype html><title>not found</title>")
    empty.touch()
    for path, reason in [(page, "cannot identify"), (empty, "0 bytes"), (tmp_path, "not a regular file")]:
        with pytest.raises(BadImage, match=reason):
            open_image(path)
    with pytest.raises(BadImage, match="not a regular file"):
        open_image(tmp_path / "missing.jpg")


def test_a_pipe_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(BadImage, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg")


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(preprocess.FORMATS), data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damage_is_refused_or_decoded_but_never_anything_else(form: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(COLOUR), form).getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = load_pixels(io.BytesIO(bytes(content)), 8, 8, 3)
    except BadImage:
        return
    assert pixels.shape == (8, 8, 3)


# --- Softmax ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_softmax_is_a_distribution_in_the_order_of_the_logits(logits: Array) -> None:
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities, scipy.special.softmax(logits.astype(np.float64), axis=-1), atol=1e-6)
    assert probabilities.dtype == np.float32
