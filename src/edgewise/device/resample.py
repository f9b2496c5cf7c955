"""Pillow's resize, bit for bit, in numpy: for boards without Pillow, and for frames that come as arrays.

A model is trained on pixels that Pillow scaled. This is the same arithmetic: a filter as wide as the area that one new
pixel covers, coefficients rounded to 22 bits, columns first, rows second, rounded to 8 bits in between. Sums stay below
2^31, so that int32 holds them, and nothing depends on the order in which they are added: every machine gives the same
pixels. The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

from typing import Any, Tuple

import numpy as np

FILTER_BITS = 22  # 32 bits less 8 of the pixel and 2 for sums of bicubic's negative lobes
FILTER_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # half the width of a filter, in new pixels
STRIP_BYTES = 1 << 20  # what is summed at a time, so that it stays in the processor's cache


def resample(pixels: Any, height: int, width: int, interpolation: str, box: Any = None) -> Any:
    """Scale uint8 (rows, columns) or (rows, columns, channels) to (height, width, ...) as Pillow's ``resize`` does.

    Args:
        pixels: the picture, not changed.
        interpolation: a key of ``preprocess.RESAMPLE``.
        box: the part that is scaled, (left, top, right, bottom) in pixels, fractions allowed; default: all of it.
    """
    rows, columns = pixels.shape[:2]
    # Pillow hands the box to its C code in single precision.
    left, top, right, bottom = np.asarray((0, 0, columns, rows) if box is None else box, dtype=np.float32)
    if (left, top, right, bottom) == (0, 0, columns, rows) and (rows, columns) == (height, width):
        return pixels.copy()
    if interpolation == "nearest":
        return _pick(pixels, (left, right, width), (top, bottom, height))
    across = width != columns or left != 0 or right != width
    down = height != rows or top != 0 or bottom != height
    first, factors = filter_factors(rows, top, bottom, height, interpolation)
    if across:
        begin, end = int(first[0]), int(first[-1] + factors.shape[1])  # rows that the second pass will read
        needed = pixels[begin : min(end, rows)]
        first = first - begin
        columns_first = np.ascontiguousarray(needed.swapaxes(0, 1))
        scaled = _weigh(columns_first, *filter_factors(columns, left, right, width, interpolation))
        pixels = np.ascontiguousarray(scaled.swapaxes(0, 1))
    return _weigh(pixels, first, factors) if down else pixels


def filter_factors(size: int, begin: Any, end: Any, new_size: int, interpolation: str) -> Tuple[Any, Any]:
    """For each new pixel along one axis: the first old pixel that counts, and the factors of it and those after it.

    Returns:
        int64 (new_size,) and int32 (new_size, taps), the factors scaled by 2^22; those beyond the end are 0.
    """
    scale = float(end - begin) / new_size
    reach = max(scale, 1.0)
    support = FILTER_SUPPORT[interpolation] * reach
    centre = float(begin) + (np.arange(new_size) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), size) - first
    tap = np.arange(int(np.ceil(support)) * 2 + 1)
    weights = _filter((tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / reach), interpolation)
    weights[tap >= count[:, None]] = 0.0
    total = np.add.accumulate(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds
    weights = np.divide(weights, total, out=weights, where=total != 0.0) * (1 << FILTER_BITS)
    return first, (weights + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)


def _filter(at: Any, interpolation: str) -> Any:
    x = np.abs(at)
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _weigh(pixels: Any, first: Any, factors: Any) -> Any:
    """Weighted sums along the first axis: uint8 (size, ...) to uint8 (new_size, ...)."""
    out = np.empty((len(first), *pixels.shape[1:]), np.uint8)
    flat, flat_out = pixels.reshape(len(pixels), -1), out.reshape(len(out), -1)
    strip = max(1, STRIP_BYTES // (4 * max(1, flat.shape[1])))
    used = np.flatnonzero((factors != 0).any(axis=0))
    for start in range(0, len(first), strip):
        rows, weights = first[start : start + strip], factors[start : start + strip]
        total = np.full((len(rows), flat.shape[1]), 1 << (FILTER_BITS - 1), np.int32)
        for tap in used:
            # Factors beyond the end are 0, whatever pixel they meet.
            picked = flat[np.minimum(rows + tap, len(flat) - 1)]
            total += np.multiply(picked, weights[:, tap, None], dtype=np.int32)
        flat_out[start : start + strip] = np.clip(total >> FILTER_BITS, 0, 255)
    return out


def _pick(pixels: Any, across: Any, down: Any) -> Any:
    """The nearest pixels, their places summed step by step as Pillow does; black where rounding leaves the picture."""
    out = np.zeros((down[2], across[2], *pixels.shape[2:]), np.uint8)
    places = []
    for (begin, end, new_size), size in ((down, pixels.shape[0]), (across, pixels.shape[1])):
        step = float(end - begin) / new_size
        at = np.add.accumulate(np.concatenate([[float(begin) + step * 0.5], np.full(new_size - 1, step)]))
        new = np.flatnonzero((at >= 0) & (at.astype(np.int64) < size))
        places.append((new, at.astype(np.int64)[new]))
    (new_rows, rows), (new_columns, columns) = places
    out[np.ix_(new_rows, new_columns)] = pixels[np.ix_(rows, columns)]
    return out
