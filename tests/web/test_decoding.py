"""What the browser decodes against what Pillow decodes: exact where it can be, measured where it cannot."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from playwright.sync_api import Browser

from edgewise.device.preprocess import load_pixels
from tests.web.browser import served, visit

pytestmark = pytest.mark.slow

SIDE = 32
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
SMOOTH = np.stack([ROWS * 8, COLUMNS * 8, 255 - (ROWS + COLUMNS) * 4], axis=-1).astype(np.uint8)
ALPHA = (COLUMNS * 8).astype(np.uint8)


def file(picture: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def turned(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return file(Image.fromarray(SMOOTH), form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))


def swapped_profile() -> bytes:
    """sRGB with red and green exchanged: whoever applies it sees other colours."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)


def with_gamma(png: bytes) -> bytes:
    """A PNG that says its values are linear light (gAMA 1.0)."""
    chunk = b"gAMA" + struct.pack(">I", 100_000)
    return png[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((250, 10, 20), (0, 255, 0))]
    options = {"lossless": True} if form == "WEBP" else {}
    return file(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)


def palette_with_alpha() -> bytes:
    picture = Image.fromarray(((ROWS + COLUMNS) % 4).astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 128, 0, 10, 20, 30, 200, 200, 0])
    return file(picture, "PNG", transparency=bytes([255, 0, 128, 64]))


rgb, gray = Image.fromarray(NOISE), Image.fromarray(NOISE[..., 0])
wide = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 256 + NOISE[..., 1])
LARGE = Image.fromarray(SMOOTH).resize((1601, 1303), Image.Resampling.BICUBIC)
FILES: dict[str, tuple[bytes, int]] = {
    # name: (file, how far a value may be off)
    "PNG RGB": (file(rgb, "PNG"), 0),
    "PNG gray": (file(gray, "PNG"), 0),
    "PNG 1 bit": (file(gray.convert("1"), "PNG"), 0),
    "PNG palette": (file(rgb.quantize(64), "PNG"), 0),
    "PNG colour profile": (file(rgb, "PNG", icc_profile=swapped_profile()), 0),
    "PNG gamma": (with_gamma(file(rgb, "PNG")), 0),
    "PNG turned": (turned("PNG", 6), 0),
    "PNG 16-bit gray": (file(wide, "PNG"), 1),
    "PNG alpha": (file(Image.fromarray(np.dstack([NOISE, ALPHA])), "PNG"), 1),
    "PNG gray with alpha": (file(Image.fromarray(np.dstack([NOISE[..., 0], ALPHA]), "LA"), "PNG"), 1),
    "PNG palette with alpha": (palette_with_alpha(), 1),
    "PNG transparent colour": (file(rgb, "PNG", transparency=tuple(NOISE[0, 0].tolist())), 0),
    "BMP": (file(rgb, "BMP"), 0),
    "GIF animated": (animated("GIF"), 0),
    "WebP lossless": (file(rgb, "WEBP", lossless=True), 0),
    "WebP animated": (animated("WEBP"), 0),
    "WebP lossy": (file(Image.fromarray(SMOOTH), "WEBP", quality=80), 4),
    "JPEG 4:4:4": (file(Image.fromarray(SMOOTH), "JPEG", quality=95, subsampling=0), 2),
    "JPEG 4:2:0": (file(Image.fromarray(SMOOTH), "JPEG", quality=75), 4),
    "JPEG 4:2:0 noise": (file(rgb, "JPEG", quality=75), 4),
    "JPEG progressive": (file(Image.fromarray(SMOOTH), "JPEG", quality=85, progressive=True), 4),
    "JPEG gray": (file(gray, "JPEG", quality=90), 1),
    "JPEG colour profile": (file(Image.fromarray(SMOOTH), "JPEG", quality=95, icc_profile=swapped_profile()), 4),
    "JPEG CMYK": (file(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95), 4),
    "JPEG of 2 million pixels": (file(LARGE, "JPEG", quality=90), 1),
    "PNG very tall": (file(LARGE.resize((41, 3000)), "PNG"), 0),
    **{f"JPEG turned {way}": (turned("JPEG", way), 4) for way in range(1, 9)},
}


def test_pictures_are_decoded_as_in_training(
    browser: Browser, make_page: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with served(make_page(size=SIDE)) as address, visit(browser, address) as seen:
        answers = seen.page.evaluate(
            """async (files) => {
              const { Classifier } = await import(new URL("classifier.js", location).href);
              const classifier = new Classifier();
              await classifier.start(await (await fetch("web.json")).json());
              const answers = [];
              for (const text of files) {
                const blob = new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
                answers.push([...(await classifier.picture(blob)).pixels]);
              }
              return answers;
            }""",
            [base64.b64encode(data).decode() for data, _ in FILES.values()],
        )
    lines, off = [], {}
    for (name, (data, allowed)), answer in zip(FILES.items(), answers, strict=True):
        expected = load_pixels(io.BytesIO(data), SIDE, SIDE, 3).astype(int)
        difference = np.abs(np.array(answer).reshape(expected.shape) - expected)
        lines.append(f"{name:26} at most {difference.max():3} of 255 off, {difference.mean():.3f} on average")
        if difference.max() > allowed:
            off[name] = (int(difference.max()), allowed)
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert not off
