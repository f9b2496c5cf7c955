"""Decoding without Pillow gives Pillow's pixels: every PNG kind, PPM, BMP, and JPEG through OpenCV."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgewise.device import preprocess
from edgewise.device.decode import BadImage, NoDecoder, decode
from edgewise.device.png import ADAM7, PNG_CHANNELS, PNG_DEPTHS
from edgewise.device.preprocess import load_pixels, open_image, prepare

Array = np.ndarray
RANDOM = np.random.default_rng(5)
PHOTO = np.asarray(Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((77, 53), 3))
KINDS = [(colour, depth) for colour, depths in PNG_DEPTHS.items() for depth in depths]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, height: int, colour: int, depth: int, random: np.random.Generator, *, laced: bool, more: bytes
) -> bytes:
    """A PNG of random bytes under random filters."""
    lines = []
    for top, left, down, right in ADAM7 if laced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // right)
        if rows > 0 and columns > 0:
            size = (columns * depth * PNG_CHANNELS[colour] + 7) // 8
            lines += [bytes([random.integers(0, 5)]) + random.bytes(size) for _ in range(rows)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, laced))
    body = zlib.compress(b"".join(lines))
    cut = len(body) // 2  # two IDAT chunks are one stream
    parts = chunk(b"IDAT", body[:cut]) + chunk(b"IDAT", body[cut:])
    return b"\x89PNG\r\n\x1a\n" + head + more + parts + chunk(b"IEND", b"")


def same_as_pillow(data: bytes) -> None:
    for channels in (1, 3):
        image = open_image(io.BytesIO(data))
        size = (image.height, image.width, channels)
        np.testing.assert_array_equal(prepare(decode(data), *size), prepare(image, *size))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), width=st.integers(1, 40), height=st.integers(1, 40), laced=st.booleans())
@pytest.mark.parametrize(("colour", "depth"), KINDS)
@pytest.mark.parametrize("clear", [False, True], ids=["", "transparent"])
def test_every_kind_of_png(
    colour: int, depth: int, clear: bool, seed: int, width: int, height: int, laced: bool
) -> None:
    random = np.random.default_rng(seed)
    more = b""
    if colour == 3:
        more = chunk(b"PLTE", random.bytes(3 << depth))
    if clear and colour == 3:
        more += chunk(b"tRNS", random.bytes(int(random.integers(1, 1 + (1 << depth)))))
    elif clear and colour in (0, 2):
        values = [int(value) for value in random.integers(0, 1 << depth, PNG_CHANNELS[colour])]
        more = chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))
    same_as_pillow(png(width, height, colour, depth, random, laced=laced, more=more))


def test_a_png_taller_than_a_band_of_filters() -> None:
    same_as_pillow(png(9, 1200, 2, 8, RANDOM, laced=False, more=b""))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, "PNG", exif=exif)
    same_as_pillow(stream.getvalue())


@pytest.mark.parametrize(("kind", "most"), [(k, m) for k in (2, 3, 5, 6) for m in (1, 31, 255, 256, 1000, 65535)])
def test_ppm(kind: int, most: int) -> None:
    values = RANDOM.integers(0, most + 1, 12 * 7 * (3 if kind in (3, 6) else 1))
    body = b" ".join(b"%d" % value for value in values) + b"\n"
    if kind in (5, 6):
        body = values.astype(">u2" if most > 255 else np.uint8).tobytes()
    same_as_pillow(b"P%d\n# made by hand\n12 7\n%d\n" % (kind, most) + body)


MASKS = [
    (16, 40, (0xF800, 0x7E0, 0x1F)),
    (16, 40, (0x7C00, 0x3E0, 0x1F)),
    (24, 40, (0xFF0000, 0xFF00, 0xFF)),
    (32, 40, (0xFF0000, 0xFF00, 0xFF)),
    (32, 40, (0xFF000000, 0xFF0000, 0xFF00)),
    (32, 108, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    (32, 124, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    (32, 56, (0xFF000000, 0xFF00, 0xFF, 0xFF0000)),
    (32, 108, (0, 0, 0, 0)),
]


def bmp(bits: int, *, packing: int = 0, header: int = 40, masks: tuple[int, ...] = (), up: bool = False) -> bytes:
    width, height = 13, 5
    pixels = RANDOM.bytes((width * bits + 31) // 32 * 4 * height)
    palette = RANDOM.bytes(4 << bits) if bits <= 8 else b""
    more = struct.pack(f"<{len(masks)}I", *masks)
    head = struct.pack("<IiiHHIIiiII", header, width, -height if up else height, 1, bits, packing, 0, 0, 0, 0, 0) + more
    head = head if header == 40 else head.ljust(header, b"\0")
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + head + palette + pixels


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
def test_bmp(bits: int, up: bool) -> None:
    same_as_pillow(bmp(bits, up=up))


@pytest.mark.parametrize(("bits", "header", "masks"), MASKS)
def test_bmp_with_masks(bits: int, header: int, masks: tuple[int, ...]) -> None:
    same_as_pillow(bmp(bits, packing=3, header=header, masks=masks))


def jpeg(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"quality": 20}], ids=str
)
def test_jpeg_by_opencv_is_within_a_rounding_of_pillows(options: dict[str, object]) -> None:
    data = jpeg(Image.fromarray(PHOTO), **options)
    ours, theirs = decode(data).astype(int), np.asarray(open_image(io.BytesIO(data))).astype(int)
    assert np.abs(ours - theirs).max() <= 3
    assert np.abs(ours - theirs).mean() < 0.5


@pytest.mark.parametrize("orientation", [3, 6])
def test_jpeg_orientation(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(Image.fromarray(PHOTO), exif=exif)
    assert np.abs(decode(data).astype(int) - np.asarray(open_image(io.BytesIO(data))).astype(int)).mean() < 0.5


def test_a_truncated_jpeg_is_never_half_gray() -> None:
    data = jpeg(Image.fromarray(PHOTO))
    with pytest.raises(BadImage, match="truncated"):
        decode(data[:-200])
    with pytest.raises(BadImage, match="damaged or truncated JPEG"):
        decode(data[:100])


def test_what_needs_another_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoDecoder, match="CMYK JPEG: needs Pillow"):
        decode(jpeg(Image.fromarray(PHOTO).convert("CMYK")))
    with pytest.raises(NoDecoder, match="packed BMP: needs Pillow"):
        decode(bmp(8, packing=1))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(NoDecoder, match=r"JPEG needs Pillow \(pip install Pillow\) or OpenCV"):
        decode(jpeg(Image.fromarray(PHOTO)))
    with pytest.raises(NoDecoder, match="other formats need Pillow"):
        decode(b"GIF89a")


def plain(form: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PHOTO).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "PPM", "BMP"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.98])
def test_truncated_files_are_refused(form: str, share: float) -> None:
    data = plain(form)
    with pytest.raises(BadImage):
        decode(data[: max(2, int(len(data) * share))])


def test_bombs_are_refused_from_the_header() -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    for data in (
        bomb,
        b"P6 60000 60000 255\n",
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    ):
        with pytest.raises(BadImage, match="60000 x 60000 pixels"):
            decode(data)


@settings(max_examples=300, deadline=None)
@given(form=st.sampled_from(["PNG", "PPM", "BMP"]), data=st.data())
def test_damage_is_refused_or_decoded_but_never_anything_else(form: str, data: st.DataObject) -> None:
    content = bytearray(plain(form)[:3000])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(content))
    except BadImage:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim in (2, 3)


def test_without_pillow_a_file_becomes_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(plain("PNG"))
    expected = load_pixels(path, 20, 31, 3, "crop", "bicubic")
    monkeypatch.setattr(preprocess, "HAS_PILLOW", False)
    np.testing.assert_array_equal(load_pixels(path, 20, 31, 3, "crop", "bicubic"), expected)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(load_pixels(stream, 20, 31, 3, "crop", "bicubic"), expected)
    with pytest.raises(BadImage, match="not a regular file"):
        load_pixels(tmp_path, 20, 31, 3)
