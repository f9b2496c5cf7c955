"""Reading, hashing and decoding every image once, and keeping the pixels where that pays.

Decoded pixels up to `KEEP_BYTES` live in memory only, unless decoding took longer than `SLOW_SECONDS`. Larger sets
are decoded into an unnamed scratch file and end up in ``cache_dir()/pixels/KEY.npy``, which is memory-mapped: the
memory in use does not grow with the number of images. KEY is the sha256 of the sorted sha256s of the source files, the
preprocessing, and its implementation, so no change of an image or of the code can meet old pixels.

An entry is one file of four NumPy arrays one after the other, then four bytes:

    uint8 (N, height, width, channels)    the pixels, in the order of the splits; this is what ``np.load`` sees
    uint8 (N, 32)                         sha256 of the file each row came from
    uint8 (N, 1024)                       the look of each image (`edgewise.data.similar`); (N, 0) for built-in sets
    uint8 (bytes,)                        JSON object, sha256 -> reason, of the files that cannot be decoded
    uint32, little endian                 CRC-32 of everything before it

It is written beside its place and renamed, so that several processes may write the same one. When another order of
rows is asked for (another seed), the rows are copied into a new file that takes its place; maps of the old one stay.
A second, tiny file ``STAMP.seen`` remembers which entry a list of (path, size, time of change) led to, and saves a
first decoding that a look at the hashes would show to be needless; it is never trusted without those hashes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
import PIL
from numpy.typing import NDArray

from edgewise.data import similar
from edgewise.data.pool import PATIENCE, Content, Progress, each
from edgewise.data.read import Reading, digest_of, hash_images, read
from edgewise.device import decode, preprocess, resample
from edgewise.errors import UnavailableError
from edgewise.runs import cache_dir, write_atomic, write_text

KEEP_BYTES = 64 * 2**20
"""Decoded pixels up to this size stay in memory."""

SLOW_SECONDS = 1.0
"""Smaller sets are kept on disk too when decoding them took longer than this."""

STALE_SECONDS = 24 * 3600.0
"""Half-written entries older than this were left by a killed process and are removed."""


class _Store(Protocol):
    """Where the pixels of content number `row` are."""

    def get(self, row: int) -> NDArray[np.uint8]: ...

    def close(self) -> None: ...


class Decoded:
    """Decoded images; `readings` has one entry per content. Close it, or use it as a context manager."""

    def __init__(
        self, readings: Sequence[Reading], shape: tuple[int, int, int], place: _Place, store: _Store, keep: bool
    ) -> None:
        self.readings = tuple(readings)
        self.note = ""
        self._shape = shape
        self._place = place
        self._store = store
        self._keep = keep

    def __enter__(self) -> Decoded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the scratch file or the entry; arranged pixels stay."""
        self._store.close()

    def arrange(self, order: Sequence[int]) -> NDArray[np.uint8]:
        """The pixels of some contents, in this order.

        Args:
            order: indices of contents that decoded, each at most once.

        Returns:
            Read-only uint8 (len(order), height, width, channels), contiguous: an array, or a map of the cache entry.

        Raises:
            UnavailableError: E51, the pixels do not fit into memory by the rules above and cannot be written either.
        """
        if not self._keep:
            return self._from_memory(order)
        chosen = set(order)
        spare = [i for i, reading in enumerate(self.readings) if not reading.problem and i not in chosen]
        rows = [*order, *spare]
        try:
            entry = self._kept(rows)
        except OSError as problem:
            if isinstance(self._store, _Memory):
                self.note = f"decoded images are not kept in {cache_dir()}: {problem.strerror or problem}"
                return self._from_memory(order)
            raise _no_room(problem, len(rows) * int(np.prod(self._shape))) from problem
        return entry[: len(order)]

    def _from_memory(self, order: Sequence[int]) -> NDArray[np.uint8]:
        pixels = np.empty((len(order), *self._shape), dtype=np.uint8)
        for row, index in enumerate(order):
            pixels[row] = self._store.get(index)
        pixels.flags.writeable = False
        return pixels

    def _kept(self, rows: list[int]) -> NDArray[np.uint8]:
        digests = [bytes.fromhex(self.readings[index].sha256) for index in rows]
        if isinstance(self._store, _Entry) and self._store.digests == digests:
            return self._store.images
        key = self._place.key(self.readings)
        bad = {reading.sha256: reading.problem for reading in self.readings if reading.sha256 and reading.problem}
        looks = [self.readings[index].look for index in rows]
        pixels = (self._store.get(index) for index in rows)
        facts = _Facts((len(rows), *self._shape), digests, looks, bad)
        images = _write_entry(self._place.entry(key), pixels, facts)
        self._place.remember(key)
        return images


def decode_images(
    contents: Sequence[Content],
    preprocessing: Mapping[str, Any],
    progress: Progress | None = None,
    patience: float = PATIENCE,
) -> Decoded:
    """Read, hash and decode every image once, in threads; a cache entry of exactly these images saves the decoding.

    Args:
        contents: files, or images of a built-in set.
        preprocessing: keyword arguments of `edgewise.device.preprocess.load_pixels`.
        progress: called from this thread.
        patience: seconds that one file may take.

    Raises:
        DataError: D33, reading a file stands still.
        UnavailableError: E51, the decoded images are too many for memory and the cache folder cannot take them.
    """
    shape = (preprocessing["height"], preprocessing["width"], preprocessing["channels"])
    place = _Place(contents, preprocessing)
    hit = _from_entry(contents, shape, place, progress, patience)
    if hit:
        return hit
    size = len(contents) * int(np.prod(shape))
    try:
        store = _Memory(len(contents), shape) if size <= KEEP_BYTES else _Scratch(shape)
    except OSError as problem:
        raise _no_room(problem, size) from problem

    def work(index: int) -> Reading:
        reading, pixels = read(contents[index], preprocessing)
        if pixels is not None:
            store.put(index, pixels)
        return reading

    with contextlib.ExitStack() as unless_kept:
        unless_kept.callback(store.close)
        start = time.monotonic()
        try:
            readings = each(contents, work, progress, patience)
        except OSError as problem:  # only `store.put` lets one through
            raise _no_room(problem, size) from problem
        slow = time.monotonic() - start > SLOW_SECONDS
        unless_kept.pop_all()
    return Decoded(readings, shape, place, store, keep=slow or isinstance(store, _Scratch))


def _from_entry(
    contents: Sequence[Content],
    shape: tuple[int, int, int],
    place: _Place,
    progress: Progress | None,
    patience: float,
) -> Decoded | None:
    key = place.recall()
    entry = _open_entry(place.entry(key), shape) if key else None
    if entry is None:
        return None
    with contextlib.ExitStack() as unless_kept:
        unless_kept.callback(entry.close)
        found = hash_images(contents, progress, patience)
        readings = entry.match(found) if place.key(found) == key else None
        if readings is not None:
            unless_kept.pop_all()
            return Decoded(readings, shape, place, entry, keep=True)
    return None


# ---------------------------------------------------------------------------------------------------------------
# Where pixels are put while decoding.


class _Memory:
    def __init__(self, count: int, shape: tuple[int, int, int]) -> None:
        self._pixels = np.empty((count, *shape), dtype=np.uint8)

    def put(self, row: int, pixels: NDArray[np.uint8]) -> None:
        self._pixels[row] = pixels

    def get(self, row: int) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self._pixels[row]
        return pixels

    def close(self) -> None:
        pass


class _Scratch:
    """An unnamed file: gone with the process, however it ends. Written with pwrite, not through a map, so that a full
    disk is an error and not a signal, and the pages do not count as memory of this process."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._size = int(np.prod(shape))
        self._file = tempfile.TemporaryFile(dir=_folder(), buffering=0)  # noqa: SIM115 - closed by `close`

    def put(self, row: int, pixels: NDArray[np.uint8]) -> None:
        if os.pwrite(self._file.fileno(), pixels.tobytes(), row * self._size) != self._size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def get(self, row: int) -> NDArray[np.uint8]:
        data = os.pread(self._file.fileno(), self._size, row * self._size)
        return np.frombuffer(data, dtype=np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._file.close()


class _Entry:
    """An entry of the cache that was found whole.

    `images` is a map; rows that are only copied are read from the file instead, which takes no memory.
    """

    def __init__(self, stream: IO[bytes], images: np.memmap[Any, Any], facts: _Facts) -> None:
        self.images = images
        self.digests = facts.digests
        self._facts = facts
        self._rows: list[int] = []
        self._stream = stream
        self._start = images.offset
        self._shape = images.shape[1:]
        self._size = int(np.prod(self._shape))

    def match(self, found: Sequence[Reading]) -> list[Reading] | None:
        """Readings as decoding these files would give them, None when the entry does not know one of them."""
        rows = {digest.hex(): row for row, digest in enumerate(self.digests)}
        readings = []
        for reading in found:
            problem = reading.problem or self._facts.bad.get(reading.sha256, "")
            if not problem and reading.sha256 not in rows:
                return None
            look = b"" if problem else self._facts.looks[rows[reading.sha256]]
            readings.append(Reading(reading.sha256, problem, reading.kind, look))
        self._rows = [rows.get(reading.sha256, -1) for reading in readings]
        return readings

    def get(self, row: int) -> NDArray[np.uint8]:
        data = os.pread(self._stream.fileno(), self._size, self._start + self._rows[row] * self._size)
        return np.frombuffer(data, dtype=np.uint8).reshape(self._shape)

    def close(self) -> None:
        self._stream.close()


# ---------------------------------------------------------------------------------------------------------------
# The files of the cache.


class _Place:
    """Names of the cache files for some contents under one preprocessing."""

    def __init__(self, contents: Sequence[Content], preprocessing: Mapping[str, Any]) -> None:
        self._how = [sorted(preprocessing.items()), _version()]
        self._stamp = _sha256_json([self._how, [_stamp(content) for content in contents]])

    def key(self, readings: Sequence[Reading]) -> str:
        return _sha256_json([self._how, sorted(reading.sha256 for reading in readings if reading.sha256)])

    def entry(self, key: str) -> Path:
        return cache_dir() / "pixels" / f"{key}.npy"

    def recall(self) -> str:
        """The key that these contents led to last time, "" when they are new."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return self._seen().read_text(encoding="ascii").strip()
        return ""

    def remember(self, key: str) -> None:
        with contextlib.suppress(UnavailableError):  # a full disk; it only saves time
            write_text(self._seen(), key + "\n")

    def _seen(self) -> Path:
        return cache_dir() / "pixels" / f"{self._stamp}.seen"


@dataclass(frozen=True)
class _Facts:
    """What an entry holds beside the pixels: shape of all of them, sha256 and look of each, sha256 -> reason of bad
    files."""

    shape: tuple[int, ...]
    digests: list[bytes]
    looks: list[bytes]
    bad: dict[str, str]


def _stamp(content: Content) -> list[str | int]:
    if not isinstance(content, Path):
        return [digest_of(content).sha256]
    try:
        facts = content.stat()
    except OSError:
        return [os.fsencode(content).hex()]
    return [os.fsencode(content).hex(), facts.st_size, facts.st_mtime_ns]


@functools.cache
def _version() -> str:
    """Of the implementation of the pixels and looks: its source and Pillow's version."""
    source = "".join(inspect.getsource(one) for one in (preprocess, decode, resample)) + inspect.getsource(similar.look)
    return hashlib.sha256(source.encode()).hexdigest() + " Pillow " + PIL.__version__


def _sha256_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


class _Summed:
    """A binary file that keeps the CRC-32 of what was written."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.crc = 0

    def write(self, data: bytes | memoryview) -> int:
        self.crc = zlib.crc32(data, self.crc)
        return self._stream.write(data)


def _write_entry(path: Path, rows: Iterator[NDArray[np.uint8]], facts: _Facts) -> NDArray[np.uint8]:
    """Write an entry and map it. The map is that of the file written here, whoever replaces it a moment later."""
    maps: list[NDArray[np.uint8]] = []

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            summed = _Summed(stream)
            header = {"descr": "|u1", "fortran_order": False, "shape": facts.shape}
            np.lib.format.write_array_header_1_0(summed, header)
            for row in rows:
                summed.write(row.tobytes())
            np.save(summed, np.frombuffer(b"".join(facts.digests), dtype=np.uint8).reshape(-1, 32))
            np.save(summed, np.frombuffer(b"".join(facts.looks), dtype=np.uint8).reshape(facts.shape[0], -1))
            np.save(summed, np.frombuffer(json.dumps(facts.bad).encode(), dtype=np.uint8))
            stream.write(summed.crc.to_bytes(4, "little"))
        with temporary.open("rb") as stream:
            maps.append(_map(stream))

    _sweep(_folder())
    write_atomic(path, write)
    return maps[0]


def _map(stream: IO[bytes]) -> np.memmap[Any, Any]:
    """Map the array at the start of an open .npy file, and move on to its end."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not an array of this cache")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    start = stream.tell()
    images = np.memmap(stream, dtype=kind, mode="r", offset=start, shape=shape)
    stream.seek(start + images.nbytes)
    return images


def _open_entry(path: Path, shape: tuple[int, int, int]) -> _Entry | None:
    """An entry, when it is there, whole, and of this shape."""
    with contextlib.ExitStack() as open_files, contextlib.suppress(OSError, ValueError, EOFError):
        stream = open_files.enter_context(path.open("rb"))
        if not _is_whole(stream):
            return None
        stream.seek(0)
        images = _map(stream)
        digests = np.load(stream, allow_pickle=False)
        looks = np.load(stream, allow_pickle=False)
        bad = json.loads(np.load(stream, allow_pickle=False).tobytes())
        fits = images.shape[1:] == shape and digests.shape == (len(images), 32) and len(looks) == len(images)
        if images.dtype == np.uint8 and fits:
            open_files.pop_all()
            known, seen = ([row.tobytes() for row in array] for array in (digests, looks))
            return _Entry(stream, images, _Facts(images.shape, known, seen, bad))
    return None


def _is_whole(stream: IO[bytes]) -> bool:
    """Whether the CRC-32 at the end is that of all before it; read in pieces, so that it takes no memory."""
    left = os.fstat(stream.fileno()).st_size - 4
    crc = 0
    while left > 0:
        data = stream.read(min(left, 2**20))
        if not data:
            return False
        crc = zlib.crc32(data, crc)
        left -= len(data)
    return left == 0 and stream.read() == crc.to_bytes(4, "little")


def _folder() -> Path:
    folder = cache_dir() / "pixels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sweep(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def _no_room(problem: OSError, needed: int) -> UnavailableError:
    folder = cache_dir()
    above = next((place for place in [folder, *folder.parents] if place.is_dir()), Path("/"))
    free = shutil.disk_usage(above).free
    return UnavailableError(
        "the decoded images cannot be written into the cache folder",
        code="E51",
        where={"folder": folder},
        why=f"{problem.strerror or problem}; up to {2 * needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
        fix="free some space, name another folder in EDGEWISE_CACHE, or choose a smaller data.size",
    )
