"""The orientation that a camera notes beside its picture.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
from typing import Any


def orientation_of(exif: bytes) -> int:
    """The orientation in a TIFF header with its first directory, 1 when it says none."""
    exif = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is not None:
            (at,) = struct.unpack_from(order + "I", exif, 4)
            (count,) = struct.unpack_from(order + "H", exif, at)
            for entry in range(count):
                tag, kind, many, value = struct.unpack_from(order + "HHIH", exif, at + 2 + 12 * entry)
                if (tag, kind, many) == (0x0112, 3, 1):
                    return int(value)
    except struct.error:
        pass
    return 1


def upright(pixels: Any, orientation: int) -> Any:
    """Apply an EXIF orientation (1 to 8; anything else is taken as 1)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
