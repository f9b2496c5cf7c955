"""Pairs that look alike, remembered in the cache folder where finding them took long.

The file ``pairs/KEY.npz`` holds one int64 array (pairs, 2). KEY is the sha256 of the looks and of the code that
compares them, so that no change of an image or of the code can meet old pairs; the ZIP container's CRC-32 notices
damage.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import time
import zipfile
from pathlib import Path

import numpy as np

from edgewise.data import align, similar
from edgewise.data.similar import Looks, Pairs
from edgewise.runs import cache_dir, write_atomic

SLOW_SECONDS = 1.0
"""Pairs that took longer than this to find are kept."""


def known_pairs(looks: Looks) -> Pairs:
    """`similar.alike`, from the cache where these looks were compared before."""
    path = cache_dir() / "pairs" / f"{hashlib.sha256(_version() + looks.tobytes()).hexdigest()}.npz"
    found = _read(path, len(looks))
    if found is not None:
        return found
    started = time.monotonic()
    pairs = similar.alike(looks)
    if time.monotonic() - started > SLOW_SECONDS:
        with contextlib.suppress(OSError):  # without a cache it is only slower
            write_atomic(path, functools.partial(_write, pairs))
    return pairs


def _write(pairs: Pairs, path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, pairs=pairs)


def _read(path: Path, count: int) -> Pairs | None:
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        with np.load(path, allow_pickle=False) as archive:
            pairs: Pairs = archive["pairs"]
        inside = pairs.size == 0 or (pairs.min() >= 0 and pairs.max() < count)
        if pairs.dtype == np.int64 and pairs.ndim == 2 and pairs.shape[1] == 2 and inside:
            return pairs
    return None


@functools.cache
def _version() -> bytes:
    return (inspect.getsource(similar) + inspect.getsource(align)).encode()
