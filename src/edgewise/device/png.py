"""PNG by the standard library and numpy, every colour type and depth, interlaced too. Pixels as Pillow gives them.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
import zlib
from typing import Any, Dict

import numpy as np

from edgewise.device.decode import PNG_START, BadImage, check_size

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
FILTER_BAND = 512  # rows that are unfiltered together


def decode_png(data: bytes) -> Any:
    """As `decode`, of a PNG file; struct.error or IndexError where it is damaged."""
    chunks = _png_chunks(data)
    width, height, depth, colour, method, filtering, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    check_size(width, height)
    if depth not in PNG_DEPTHS.get(colour, ()) or method or filtering or interlaced > 1:
        raise BadImage(f"PNG of colour type {colour} with {depth} bits")
    bits = depth * PNG_CHANNELS[colour]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    shapes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in passes]
    lines = [(rows, (columns * bits + 7) // 8) for rows, columns in shapes]
    expected = sum(rows * (1 + line) for rows, line in lines if rows > 0 and line > 0)
    try:
        stream = np.frombuffer(zlib.decompressobj().decompress(chunks[b"IDAT"], expected), np.uint8)
    except zlib.error as problem:
        raise BadImage(f"damaged or truncated: {problem}") from None
    if len(stream) < expected:
        raise BadImage("image file is truncated")
    samples = np.empty((height, width, PNG_CHANNELS[colour]), np.uint16 if depth == 16 else np.uint8)
    start = 0
    for (top, left, down, right), (rows, columns), (_, line) in zip(passes, shapes, lines):  # noqa: B905
        if rows > 0 and columns > 0:
            packed = stream[start : start + rows * (1 + line)].reshape(rows, 1 + line)
            start += packed.size
            unpacked = _unfilter(packed, max(1, bits // 8))
            if depth != 8:
                from edgewise.device.colours import unpack_samples

                unpacked = unpack_samples(unpacked, columns * PNG_CHANNELS[colour], depth)
            samples[top::down, left::right] = unpacked.reshape(rows, columns, -1)
    pixels = samples[..., 0] if colour == 0 else samples
    if depth != 8 or colour not in (0, 2) or b"tRNS" in chunks:
        from edgewise.device.colours import png_colours

        pixels = png_colours(samples, depth, colour, chunks)
    if b"eXIf" in chunks:
        from edgewise.device.exif import orientation_of, upright

        pixels = upright(pixels, orientation_of(chunks[b"eXIf"]))
    return pixels


def _png_chunks(data: bytes) -> Dict[bytes, bytes]:
    """The chunks by name; all IDAT joined; of others the first counts."""
    chunks = {}  # type: Dict[bytes, bytes]
    parts = []
    at = len(PNG_START)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack_from(">I", data, at + 8 + length)
        if crc != zlib.crc32(name + body):
            raise BadImage(f"broken PNG file (bad checksum in {name!r})")
        at += 12 + length
        if name == b"IDAT":
            parts.append(body)
        elif name == b"IEND":
            break
        else:
            chunks.setdefault(name, body)
    if b"IHDR" not in chunks or not parts:
        raise BadImage("a PNG without its header or pixels")
    chunks[b"IDAT"] = b"".join(parts)
    return chunks


def _unfilter(packed: Any, step: int) -> Any:
    """Undo the filters of PNG lines: uint8 (rows, 1 + bytes) to (rows, bytes).

    Each byte leans on the one to its left, the one above and the one between. All bytes on one diagonal are free of
    each other, so a band of rows is done diagonal by diagonal, in an array whose rows are the diagonals.
    """
    kinds, lines = packed[:, 0], packed[:, 1:]
    if kinds.max() > 4:
        raise BadImage("broken PNG file (unknown filter)")
    out = np.empty_like(lines)
    above = np.zeros(lines.shape[1], np.uint8)
    for start in range(0, len(lines), FILTER_BAND):
        band, kind = lines[start : start + FILTER_BAND], kinds[start : start + FILTER_BAND]
        if kind.max() <= 2:
            for row in range(len(band)):
                line = band[row]
                if kind[row] == 1:
                    line = np.add.accumulate(line.reshape(-1, step), axis=0, dtype=np.uint8).ravel()
                elif kind[row] == 2:
                    line = line + above
                out[start + row] = above = line
        else:
            out[start : start + len(band)] = _by_diagonals(band, kind, above, step)
        above = out[start + len(band) - 1]
    return out


def _by_diagonals(band: Any, kind: Any, above: Any, step: int) -> Any:
    rows, columns = len(band), band.shape[1] // step
    places = np.arange(rows)[:, None] + np.arange(columns)  # the diagonal of each pixel
    row = np.broadcast_to(np.arange(1, rows + 1)[:, None], places.shape)
    # Two diagonals and one row of zeros before the first: what lies left of the picture.
    skewed = np.zeros((rows + columns + 1, rows + 1, step), np.int16)
    skewed[places + 2, row] = band.reshape(rows, columns, step)
    skewed[np.arange(columns) + 1, 0] = above.reshape(columns, step)
    kind = kind[:, None]
    is_left, is_up, is_mean, is_paeth = (kind == which for which in (1, 2, 3, 4))
    for diagonal in range(2, rows + columns + 1):
        low, high = max(0, diagonal - 1 - columns), min(rows, diagonal - 1)  # the rows that this diagonal crosses
        part = slice(low, high)
        left = skewed[diagonal - 1, low + 1 : high + 1]
        up, corner = skewed[diagonal - 1, low:high], skewed[diagonal - 2, low:high]
        to_left, to_up, to_corner = np.abs(up - corner), np.abs(left - corner), np.abs(left + up - 2 * corner)
        paeth = np.where((to_left <= to_up) & (to_left <= to_corner), left, np.where(to_up <= to_corner, up, corner))
        guess = left * is_left[part] + up * is_up[part] + ((left + up) >> 1) * is_mean[part] + paeth * is_paeth[part]
        skewed[diagonal, low + 1 : high + 1] = (skewed[diagonal, low + 1 : high + 1] + guess) & 255
    return skewed[places + 2, row].reshape(rows, columns * step)
