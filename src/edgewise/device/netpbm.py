"""PPM and PGM, binary or text. Pixels as Pillow gives them.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import re
from typing import Any

import numpy as np

from edgewise.device.decode import BadImage, check_size


def decode_netpbm(data: bytes) -> Any:
    """As `decode`, of a PPM or PGM file; struct.error or IndexError where it is damaged."""
    gap = rb"(?:\s|#[^\n\r]*[\n\r])+"
    header = re.match(rb"P([2356])" + gap + rb"(\d{1,9})" + gap + rb"(\d{1,9})" + gap + rb"(\d{1,5})\s", data)
    if header is None:
        raise BadImage("damaged PPM header")
    kind, width, height, most = (int(part) for part in header.groups())
    check_size(width, height)
    if not 0 < most < 65536:
        raise BadImage(f"PPM with values up to {most}")
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    count = int(np.prod(shape))
    body = data[header.end() :]
    if kind in (5, 6):
        values = np.frombuffer(body, ">u2" if most > 255 else np.uint8, min(count, len(body) // (1 + (most > 255))))
    else:
        words = re.sub(rb"#[^\n\r]*", b"", body).split()[:count]
        if any(not word.isdigit() or len(word) > 5 or int(word) > most for word in words):
            raise BadImage(f"a PPM value that is no number up to {most}")
        values = np.array(words, dtype="S5").astype(np.int64)
    if len(values) < count:
        raise BadImage("image file is truncated")
    wide = most > 255 and len(shape) == 2  # Pillow keeps 16 bits of gray
    if most != (65535 if wide else 255):
        values = np.minimum(np.rint(values / most * (65535 if wide else 255)), 65535 if wide else 255)
    if wide and values.max() > 255:
        values = values // 256
    return values.astype(np.uint8).reshape(shape)
