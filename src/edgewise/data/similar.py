"""Which images look alike: a perceptual hash finds candidates, small gray thumbnails decide.

The *look* of an image is its 32 x 32 gray thumbnail, taken from the decoded image before it is fitted to a model. All
that follows comes from it:

1. The perceptual hash of 64 bits is that of ImageHash's ``phash``: the signs of the 8 x 8 lowest frequencies of the
   thumbnail's DCT against their median (http://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html).
   Pairs that differ in at most `RADIUS` bits are candidates. They are found for blocks of images at once, since the
   Hamming distance of two hashes is a matrix product of their signs.
2. A candidate is a pair when one thumbnail, averaged to 16 x 16, explains the other up to brightness and contrast: what
   is left over is at most `LEFT_OVER` gray levels, and the correlation at least `CORRELATION`. Resized and
   recompressed copies leave 0.2 to 2 levels; two different shirts of Fashion-MNIST, whose hashes are often equal,
   leave 10 and more.
3. Candidates that fail narrowly are compared again with one thumbnail moved and scaled a little, which finds small
   crops (`edgewise.data.align`).

An image without contrast looks like any other blank one; it has exact copies only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.data.align import aligned
from edgewise.device import preprocess
from edgewise.errors import UnavailableError

SIDE = 32
"""Side of a look in pixels."""

RADIUS = 12
"""Bits of 64 in which the hashes of a candidate pair may differ."""

LEFT_OVER = 3.0
"""Root mean square, in gray levels, that one thumbnail of a pair may leave unexplained of the other."""

CORRELATION = 0.98
"""Least correlation of the thumbnails of a pair."""

NARROW = 12.0
"""Candidates that leave no more gray levels than this at 8 x 8 are compared in full, with a small shift and scale."""

NARROW_CORRELATION = 0.8
"""Least correlation of the candidates that are compared in full."""

_BLOCK = 2048
_CHUNK = 65_536

Looks = NDArray[np.uint8]
Pairs = NDArray[np.int64]
Floats = NDArray[np.float32]


def look(image: Image.Image) -> bytes:
    """The gray 32 x 32 thumbnail of a decoded image (Lanczos), row by row: 1,024 bytes, 0..255."""
    gray = preprocess.to_mode(image, 1)
    if SIDE * gray.height > preprocess.MAX_PIXELS:  # Pillow scales the width first, which would blow up a tall sliver
        gray = gray.resize((gray.width, SIDE), Image.Resampling.LANCZOS)
    return gray.resize((SIDE, SIDE), Image.Resampling.LANCZOS).tobytes()


def phash(looks: Looks) -> NDArray[np.bool_]:
    """Perceptual hashes: bool (N, 64) of uint8 (N, 32, 32), bit for bit those of ``imagehash.phash``.

    Raises:
        UnavailableError: E52, scipy is missing.
    """
    low = np.empty((len(looks), 64))
    for start in range(0, len(looks), _BLOCK):
        rows = slice(start, start + _BLOCK)
        waves = _dct(_dct(looks[rows], axis=1), axis=2)
        low[rows] = waves[:, :8, :8].reshape(-1, 64)
    bits: NDArray[np.bool_] = low > np.median(low, axis=1, keepdims=True)
    return bits


def alike(looks: Looks) -> Pairs:
    """Pairs of images that look alike.

    Args:
        looks: uint8 (N, 32, 32), of distinct files.

    Returns:
        int64 (pairs, 2), each (smaller index, larger index), sorted.

    Raises:
        UnavailableError: E52, scipy is missing.
    """
    if len(looks) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    thumbs = _Thumbs(looks, 8), _Thumbs(looks, 16)
    found = [_verified(looks, thumbs, chunk) for chunk in _candidates(phash(looks))]
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])


def clusters(count: int, pairs: Pairs) -> NDArray[np.int64]:
    """The cluster of each of `count` images, int64 (count,): images are in one when a chain of pairs links them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    numbers: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def _dct(values: NDArray[Any], axis: int) -> NDArray[np.float64]:
    try:
        from scipy.fftpack import dct
    except ImportError as problem:
        raise UnavailableError(
            "looking for near copies needs scipy",
            code="E52",
            where={"key": "data.duplicates"},
            why=str(problem),
            fix='pip install "edgewise[host]", or --set data.duplicates=exact',
        ) from problem
    waves: NDArray[np.float64] = dct(values, axis=axis)
    return waves


def _candidates(bits: NDArray[np.bool_]) -> Iterator[Pairs]:
    """Pairs of hashes within `RADIUS` bits, in order, in chunks."""
    signs = np.where(bits, np.float32(1), np.float32(-1))
    least = np.float32(64 - 2 * RADIUS)  # the product of two sign vectors is 64 - 2 * distance
    for start in range(0, len(signs), _BLOCK):
        near = signs[start : start + _BLOCK] @ signs[start:].T >= least
        rows, columns = np.nonzero(np.triu(near, 1))
        pairs = np.stack([rows, columns], axis=1) + start
        for first in range(0, len(pairs), _CHUNK):
            yield pairs[first : first + _CHUNK]


class _Thumbs:
    """Looks averaged to `side` x `side`: `unit` float32 (N, side * side) of mean 0 and length 1, and `contrast` float32
    (N,), their standard deviation in gray levels."""

    def __init__(self, looks: Looks, side: int) -> None:
        step = SIDE // side
        flat = looks.reshape(len(looks), side, step, side, step).mean(axis=(2, 4), dtype=np.float32)
        flat = flat.reshape(len(looks), -1)
        flat -= flat.mean(axis=1, keepdims=True)
        length = np.linalg.norm(flat, axis=1)
        self.contrast: Floats = (length / side).astype(np.float32)
        self.unit: Floats = flat / np.maximum(length, 1e-6)[:, None]

    def compare(self, pairs: Pairs) -> tuple[Floats, Floats]:
        """Gray levels that one of a pair leaves unexplained of the other, and their correlation."""
        one, other = pairs.T
        correlation = np.einsum("ij,ij->i", self.unit[one], self.unit[other])
        contrasts = np.stack([self.contrast[one], self.contrast[other]])
        left = contrasts.max(axis=0) * np.sqrt(np.maximum(1 - correlation**2, 0))
        uneven = contrasts.max(axis=0) > 2 * contrasts.min(axis=0)
        return np.where(uneven, np.float32(np.inf), left), correlation


def _verified(looks: Looks, thumbs: tuple[_Thumbs, _Thumbs], pairs: Pairs) -> Pairs:
    """Those of the candidates that are pairs."""
    coarse, fine = thumbs
    left, correlation = coarse.compare(pairs)
    pairs = pairs[(left <= NARROW) & (correlation >= NARROW_CORRELATION)]
    left, correlation = fine.compare(pairs)
    same = (left <= LEFT_OVER) & (correlation >= CORRELATION)
    again = np.flatnonzero(~same & (left <= 2 * NARROW) & (correlation >= NARROW_CORRELATION))
    left, correlation = aligned(looks[pairs[again, 0]], looks[pairs[again, 1]])
    same[again] = (left <= LEFT_OVER) & (correlation >= CORRELATION)
    return pairs[same]
