"""Picture files without Pillow: PNG, PPM/PGM and BMP by the standard library and numpy, JPEG by OpenCV if it is there.

The pixels are those that Pillow gives, oddities included, because a model was trained on Pillow's. The syntax is that
of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
from typing import Any

import numpy as np

MAX_PIXELS = 64 * 1000 * 1000
PNG_START, INSTALL = b"\x89PNG\r\n\x1a\n", "pip install Pillow"


class BadImage(ValueError):
    """An image file that cannot be decoded in full, with the reason in one line."""


class NoDecoder(BadImage):
    """An image file that only an optional package can decode; it says which."""


def decode(data: bytes) -> Any:
    """Decode a picture held in memory.

    Returns:
        uint8 (height, width) gray or (height, width, 3) RGB; upright, transparency laid on white.

    Raises:
        BadImage: truncated, damaged or too large.
        NoDecoder: a format that only Pillow or OpenCV reads.
    """
    try:
        if data.startswith(PNG_START):
            from edgewise.device.png import decode_png

            return decode_png(data)
        if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
            from edgewise.device.netpbm import decode_netpbm

            return decode_netpbm(data)
        if data.startswith(b"BM"):
            from edgewise.device.bmp import decode_bmp

            return decode_bmp(data)
    except (struct.error, IndexError) as problem:
        raise BadImage(f"damaged or truncated: {problem}") from None
    if data.startswith(b"\xff\xd8\xff"):
        from edgewise.device.jpeg import decode_jpeg

        return decode_jpeg(data)
    raise NoDecoder(f"not PNG, PPM, BMP or JPEG: other formats need Pillow ({INSTALL})")


def luma(rgb: Any) -> Any:
    """ITU-R 601 gray of uint8 (..., 3), rounded as Pillow rounds."""
    weighted = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def check_size(width: int, height: int) -> None:
    """Refuse pictures without pixels or with too many."""
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, more than the {MAX_PIXELS} allowed")
