"""What the picture decoders share: samples of few bits, palettes, transparency. Pixels as Pillow gives them.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import struct
from typing import Any, Dict

import numpy as np


def on_white(pixels: Any, alpha: Any) -> Any:
    """Lay uint8 pixels (height, width, ...) on white by their uint8 alpha (height, width), rounded as Pillow rounds."""
    share = alpha.astype(np.uint32).reshape(alpha.shape + (1,) * (pixels.ndim - 2))
    mixed = (pixels * share + 255 * (255 - share) + 0x80) << 7
    laid = (((mixed >> 8) + mixed) >> 8) >> 7
    return np.where(share == 0, 255, laid).astype(np.uint8)


def unpack_samples(lines: Any, count: int, depth: int) -> Any:
    """Samples of 1, 2, 4, 8 or 16 bits out of bytes: (rows, bytes) to (rows, count)."""
    if depth == 8:
        return lines[:, :count]
    if depth == 16:
        return lines[:, 0::2].astype(np.uint16) << 8 | lines[:, 1::2]
    shifts = np.arange(8 - depth, -1, -depth, dtype=np.uint8)
    return ((lines[:, :, None] >> shifts) & ((1 << depth) - 1)).reshape(len(lines), -1)[:, :count]


def from_palette(index: Any, colours: bytes, alphas: Any) -> Any:
    """The pixels of places in a palette: bytes of RGB, and of alpha for the first of them or None."""
    palette = np.zeros((256, 3), np.uint8)
    given = np.frombuffer(colours[:768], np.uint8)
    palette[: len(given) // 3] = given[: len(given) // 3 * 3].reshape(-1, 3)
    if alphas is None:
        return palette[index]
    alpha = np.full(256, 255, np.uint8)
    listed = np.frombuffer(alphas[:256], np.uint8)
    alpha[: len(listed)] = listed
    return on_white(palette[index], alpha[index])


def png_colours(samples: Any, depth: int, colour: int, chunks: Dict[bytes, bytes]) -> Any:
    """Pixels of the samples (height, width, channels) of a PNG: scaled to 8 bits, without palette and transparency."""
    clear = chunks.get(b"tRNS")
    if colour == 3:
        return from_palette(samples[..., 0], chunks.get(b"PLTE", b""), clear)
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
