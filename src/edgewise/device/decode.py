"""Picture files without Pillow: PNG, PPM/PGM and BMP by the standard library and numpy, JPEG by OpenCV if it is there.

The pixels are those that Pillow gives, oddities included, because a model was trained on Pillow's. The syntax is that
of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import re
import struct
import zlib
from typing import Any, Dict, Tuple

import numpy as np

MAX_PIXELS = 64 * 1000 * 1000
PNG_START, INSTALL = b"\x89PNG\r\n\x1a\n", "pip install Pillow"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
FILTER_BAND = 512  # rows that are unfiltered together
BMP_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 24: (0xFF0000, 0xFF00, 0xFF, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


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
            return _png(data)
        if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
            return _netpbm(data)
        if data.startswith(b"BM"):
            return _bmp(data)
    except (struct.error, zlib.error, IndexError) as problem:
        raise BadImage(f"damaged or truncated: {problem}") from None
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    raise NoDecoder(f"not PNG, PPM, BMP or JPEG: other formats need Pillow ({INSTALL})")


def luma(rgb: Any) -> Any:
    """ITU-R 601 gray of uint8 (..., 3), rounded as Pillow rounds."""
    weighted = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)


def on_white(pixels: Any, alpha: Any) -> Any:
    """Lay uint8 pixels (height, width, ...) on white by their uint8 alpha (height, width), rounded as Pillow rounds."""
    share = alpha.astype(np.uint32).reshape(alpha.shape + (1,) * (pixels.ndim - 2))
    mixed = (pixels * share + 255 * (255 - share) + 0x80) << 7
    laid = (((mixed >> 8) + mixed) >> 8) >> 7
    return np.where(share == 0, 255, laid).astype(np.uint8)


def upright(pixels: Any, orientation: int) -> Any:
    """Apply an EXIF orientation (1 to 8; anything else is taken as 1)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def check_size(width: int, height: int) -> None:
    """Refuse pictures without pixels or with too many."""
    if width < 1 or height < 1:
        raise BadImage(f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels, more than the {MAX_PIXELS} allowed")


# --- PNG --------------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Any:
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
    stream = np.frombuffer(zlib.decompressobj().decompress(chunks[b"IDAT"], expected), np.uint8)
    if len(stream) < expected:
        raise BadImage("image file is truncated")
    samples = np.empty((height, width, PNG_CHANNELS[colour]), np.uint16 if depth == 16 else np.uint8)
    start = 0
    for (top, left, down, right), (rows, columns), (_, line) in zip(passes, shapes, lines):  # noqa: B905
        if rows > 0 and columns > 0:
            packed = stream[start : start + rows * (1 + line)].reshape(rows, 1 + line)
            start += packed.size
            unpacked = _unpack(_unfilter(packed, max(1, bits // 8)), columns * PNG_CHANNELS[colour], depth)
            samples[top::down, left::right] = unpacked.reshape(rows, columns, -1)
    return upright(_png_colours(samples, depth, colour, chunks), _orientation(chunks.get(b"eXIf", b"")))


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


def _unpack(lines: Any, count: int, depth: int) -> Any:
    """Samples of 1, 2, 4, 8 or 16 bits out of bytes: (rows, bytes) to (rows, count)."""
    if depth == 8:
        return lines[:, :count]
    if depth == 16:
        return lines[:, 0::2].astype(np.uint16) << 8 | lines[:, 1::2]
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
    return ((lines[:, :, None] >> shifts) & ((1 << depth) - 1)).reshape(len(lines), -1)[:, :count]


def _png_colours(samples: Any, depth: int, colour: int, chunks: Dict[bytes, bytes]) -> Any:
    clear = chunks.get(b"tRNS")
    if colour == 3:
        return _from_palette(samples[..., 0], chunks.get(b"PLTE", b""), clear)
    if depth == 16:
        samples = (samples >> 8).astype(np.uint8)
    elif depth < 8:
        samples = samples * np.uint8(255 // ((1 << depth) - 1))
    if colour in (4, 6):
        pixels = samples[..., 0] if colour == 4 else samples[..., :3]
        return on_white(pixels, samples[..., -1])
    pixels = samples[..., 0] if colour == 0 else samples
    if clear is None or (colour == 0 and depth == 16):
        return pixels
    # Pillow compares the lower bytes of the transparent colour with the samples after it has scaled them to 8 bits.
    wanted = struct.unpack_from(">H" if colour == 0 else ">HHH", clear)
    if depth == 1:
        wanted = (255 if wanted[0] else 0,)
    hidden = (samples == np.array([value & 255 for value in wanted], np.uint8)).all(axis=-1)
    return on_white(pixels, np.where(hidden, 0, 255).astype(np.uint8))


def _from_palette(index: Any, colours: bytes, alphas: Any) -> Any:
    palette = np.zeros((256, 3), np.uint8)
    given = np.frombuffer(colours[:768], np.uint8)
    palette[: len(given) // 3] = given[: len(given) // 3 * 3].reshape(-1, 3)
    if alphas is None:
        return palette[index]
    alpha = np.full(256, 255, np.uint8)
    listed = np.frombuffer(alphas[:256], np.uint8)
    alpha[: len(listed)] = listed
    return on_white(palette[index], alpha[index])


def _orientation(exif: bytes) -> int:
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


# --- PPM, BMP, JPEG ---------------------------------------------------------------------------------------------


def _netpbm(data: bytes) -> Any:
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


def _bmp(data: bytes) -> Any:
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
        return _from_palette(_unpack(lines, width, bits), table[:, 2::-1].tobytes(), None)
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


def _jpeg(data: bytes) -> Any:
    """By OpenCV, whose decoder is the library that Pillow uses; it would show a truncated file half gray."""
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
