"""JPEG by OpenCV, whose decoder is the library that Pillow uses.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
from typing import Any

import numpy as np

from edgewise.device.decode import INSTALL, BadImage, NoDecoder, check_size


def decode_jpeg(data: bytes) -> Any:
    """As `decode`, of a JPEG file; OpenCV would show a truncated one half gray, so its end is looked for."""
    try:
        import cv2
    except ImportError:
        raise NoDecoder(f"JPEG needs Pillow ({INSTALL}) or OpenCV") from None
    at, size = 2, None
    while size is None or data[at + 1 : at + 2] != b"\xda":
        if at + 9 >= len(data) or data[at] != 0xFF:
            raise BadImage("damaged or truncated JPEG")
        marker, length = struct.unpack_from(">BH", data, at + 1)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            check_size(width, height)
            size = (height, width)
            if components == 4:
                raise NoDecoder(f"CMYK JPEG: needs Pillow ({INSTALL})")
        at += 2 + length
    if data.find(b"\xff\xd9", at) < 0:
        raise BadImage("image file is truncated")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None or sorted(pixels.shape[:2]) != sorted(size):
        raise BadImage("OpenCV cannot decode this JPEG")
    return np.ascontiguousarray(pixels[..., ::-1])
