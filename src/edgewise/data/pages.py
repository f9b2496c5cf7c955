"""Letting go of a mapped file's pages, so that the memory of a process does not grow to the size of the file."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray


def release_pages(images: NDArray[np.uint8]) -> None:
    """Unmap the pages that were read of a memory-mapped array; they stay in the system's cache. Else do nothing."""
    array: object = images
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
