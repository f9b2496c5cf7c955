"""BMP without packing. Pixels as Pillow gives them.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
from typing import Any, Tuple

import numpy as np

from edgewise.device.colours import from_palette, on_white, unpack_samples
from edgewise.device.decode import INSTALL, BadImage, NoDecoder, check_size

BMP_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 24: (0xFF0000, 0xFF00, 0xFF, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


def decode_bmp(data: bytes) -> Any:
    """As `decode`, of a BMP file; struct.error or IndexError where it is damaged."""
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = colours = 0
    elif header in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, packing, _, _, _, colours = struct.unpack_from("<iiHHIIiiI", data, 18)
    else:
        raise BadImage(f"BMP with a header of {header} bytes")
    check_size(width, abs(height))
    if packing not in (0, 3) or bits not in (1, 4, 8, 16, 24, 32) or (packing == 3 and bits < 16):
        raise NoDecoder(f"packed BMP: needs Pillow ({INSTALL})")
    line = (width * bits + 31) // 32 * 4
    lines = np.frombuffer(data, np.uint8, min(abs(height) * line, max(0, len(data) - offset)), min(offset, len(data)))
    if lines.size < abs(height) * line:
        raise BadImage("image file is truncated")
    lines = lines.reshape(abs(height), line)[:: 1 if height < 0 else -1]
    if bits <= 8:
        size = 3 if header == 12 else 4
        table = np.frombuffer(data, np.uint8, size * min(colours or 1 << bits, 256), 14 + header).reshape(-1, size)
        return from_palette(unpack_samples(lines, width, bits), table[:, 2::-1].tobytes(), None)
    masks = BMP_MASKS[bits]
    if packing == 3:
        masks = struct.unpack_from("<IIII" if header >= 56 else "<III", data, 54)
        masks = (*masks, 0)[:4] if any(masks) else (*BMP_MASKS[32][:3], 0xFF000000)
    return _bmp_colours(lines[:, : width * bits // 8].reshape(len(lines), width, -1), masks)


def _bmp_colours(samples: Any, masks: Tuple[int, ...]) -> Any:
    values = sum(samples[..., byte].astype(np.uint32) << 8 * byte for byte in range(samples.shape[-1]))
    bands = []
    for mask in masks:
        low = (mask & -mask).bit_length() - 1 if mask else 0
        most = mask >> low
        bands.append((((values & mask) >> low) * 255 // most if mask else values * 0).astype(np.uint8))
    pixels = np.stack(bands[:3], axis=-1)
    return on_white(pixels, bands[3]) if masks[3] else pixels
