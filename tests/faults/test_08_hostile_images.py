"""Case 8: images made to exhaust memory, and other formats under an image's name."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.bundle import InputSpec
from tests.data.loading import SIDE, load, paint, picture, pixels_of


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    pixels = bomb(10) if pixels is None else pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """The block must not make this process grow by 200 MB, even for a moment."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is in use now
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < 200e6


def resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * float(line.split()[1]) for line in lines if line.startswith(key + ":"))


def bomb(megabytes: int) -> bytes:
    """Zeros, packed to a thousandth."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(megabytes)) + packer.flush()


def judged(root: Path, name: str, data: bytes) -> str:
    """The reason for which a file is refused, "" when it is used; memory must not grow much on the way."""
    paint(root, cat=10, dog=10)
    (root / "cat" / name).write_bytes(data)
    with little_memory():
        found = load(root, max_bad=0.1)
    return found.bad[0].reason if found.bad else ""


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (8_001, 8_000), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path, width: int, height: int) -> None:
    reason = judged(tmp_path, "bomb.png", png(width, height))
    assert "pixels" in reason


def test_a_long_thin_image_needs_no_memory(tmp_path: Path) -> None:
    row = zlib.compress(bytes(1 + 3 * 200_000))
    paint(tmp_path, cat=10, dog=10)
    (tmp_path / "cat" / "thin.png").write_bytes(png(200_000, 1, pixels=row))
    for fit in ("squash", "crop", "pad"):
        with little_memory():
            load(tmp_path, spec=InputSpec(SIDE, SIDE, fit=fit))  # type: ignore[arg-type]


def test_of_ten_thousand_frames_only_the_first_is_decoded(tmp_path: Path) -> None:
    stream = io.BytesIO()
    first = picture("first").quantize(16)
    first.save(stream, "GIF")
    data = stream.getvalue()
    frame = data[data.index(b"\x2c") : -1]
    gif = data[:-1] + frame * 9_999 + b";"
    root = paint(tmp_path, cat=10, dog=10)
    (root / "cat" / "long.gif").write_bytes(gif)
    with little_memory():
        found = load(root)
    assert np.array_equal(pixels_of(found)["cat/long.gif"], np.asarray(first.convert("RGB")))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_text_and_colour_profiles_that_unpack_to_a_third_of_a_gigabyte(tmp_path: Path, kind: bytes) -> None:
    packed = chunk(kind, b"x\0\0" + bomb(300))
    whole = png(SIDE, SIDE, packed, pixels=zlib.compress(bytes((1 + 3 * SIDE) * SIDE)))
    assert "Decompressed data too large" in judged(tmp_path, "text.png", whole)


def test_huge_exif_data(tmp_path: Path) -> None:
    stream = io.BytesIO()
    picture("x").save(stream, "JPEG")
    data = stream.getvalue()
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\xff" * (65_533 - 14)
    assert judged(tmp_path, "exif.jpg", data[:2] + segment * 60 + data[2:]) == ""


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SIMPLE  =                    T" + bytes(2880), "a FITS file, which is not read"),
        (b"8BPS\0\x01" + bytes(400), "a Photoshop file, which is not read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file, which is not read"),
        (b"%PDF-1.7\n" + bytes(100), "a PDF, which is not read"),
        (b"PK\x03\x04" + bytes(100), "a ZIP archive, which is not read"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "a HEIC, AVIF or video file, which is not read"),
    ],
)
def test_other_formats_under_an_images_name(
    tmp_path: Path, data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parser in ("FITS", "PSD", "EPS", "PDF", "AVIF"):
        monkeypatch.setitem(Image.OPEN, parser, (_never, None))
    assert judged(tmp_path, "renamed.jpg", data) == words


def _never(*_: object) -> None:
    raise AssertionError("a parser outside the allowed formats ran")
