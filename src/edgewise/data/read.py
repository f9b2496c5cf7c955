"""Reading one image file: hashed and decoded from the same bytes, or told in one line why not."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.data.walk import shown, sniff
from edgewise.device import preprocess

WHOLE_BYTES = 16 * 2**20
"""Files up to this size are read at once; larger ones are hashed and decoded from the open file."""

Content = Path | NDArray[np.uint8]
"""What to decode: an image file, or one gray image (height, width) of a built-in set."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

T = TypeVar("T")

_CHUNK = 64
_DAMAGE = (OSError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, SyntaxError, RuntimeError)
_FOREIGN = (
    (b"8BPS", "a Photoshop file"),
    (b"SIMPLE", "a FITS file"),
    (b"%!PS", "a PostScript file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
)


@dataclass(frozen=True)
class Reading:
    """What one file turned out to be.

    `sha256` is "" when the file could not be read, `problem` is "" when it decoded in full, `kind` is the format by
    its first bytes ("" for an unknown one and for built-in images).
    """

    sha256: str
    problem: str = ""
    kind: str = ""


def check_images(contents: Sequence[Content], progress: Progress | None = None) -> tuple[Reading, ...]:
    """Hash and decode every image in full, keeping no pixels."""
    return tuple(each(contents, lambda index: read(contents[index], None)[0], progress))


def hash_images(contents: Sequence[Content], progress: Progress | None = None) -> tuple[Reading, ...]:
    """Hash every image without decoding it."""
    return tuple(each(contents, lambda index: digest_of(contents[index]), progress))


def each(contents: Sequence[Content], work: Callable[[int], T], progress: Progress | None) -> list[T]:
    """Results of `work` on every index of `contents`, in order. When it ends early, what has not started is dropped.

    Files are worked on in threads, since reading, hashing and decoding let go of the interpreter lock. Images of a
    built-in set are so small that threads would only wait for each other.
    """
    in_threads = any(isinstance(content, Path) for content in contents)
    pool = ThreadPoolExecutor(_threads() if in_threads else 1, thread_name_prefix="decode")
    size = _CHUNK if in_threads else _CHUNK * 16
    chunks = [range(start, min(start + size, len(contents))) for start in range(0, len(contents), size)]
    results: list[T] = []
    with warnings.catch_warnings():  # Pillow warns of odd metadata in files that it decodes all the same
        warnings.simplefilter("ignore")
        try:
            for future in [pool.submit(lambda chunk: [work(index) for index in chunk], chunk) for chunk in chunks]:
                results += future.result()
                if progress:
                    progress(len(results), len(contents))
        finally:
            pool.shutdown(cancel_futures=True)
    return results


def _threads() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, cpus)


def read(content: Content, preprocessing: Mapping[str, Any] | None) -> tuple[Reading, NDArray[np.uint8] | None]:
    """Hash and decode one image from the same open file; pixels only with `preprocessing`."""
    if not isinstance(content, Path):
        pixels = preprocess.prepare(Image.fromarray(content), **preprocessing) if preprocessing else None
        return digest_of(content), pixels
    try:
        with _open(content) as stream:
            digest, source, head = _digest(stream)
            try:
                if preprocessing:
                    return Reading(digest, kind=sniff(head)), preprocess.load_pixels(source, **preprocessing)
                preprocess.to_mode(preprocess.open_image(source), 3)
            except (*_DAMAGE, zlib.error, struct.error, EOFError, MemoryError) as problem:
                # Pillow's parsers raise nearly anything on damaged files; the file is at fault, whatever it is.
                return Reading(digest, _reason(problem, head), sniff(head)), None
            return Reading(digest, kind=sniff(head)), None
    except (OSError, ValueError) as problem:
        return Reading("", _told(problem)), None


def digest_of(content: Content) -> Reading:
    """Hash one image without decoding it."""
    if not isinstance(content, Path):
        return Reading(hashlib.sha256(content.tobytes()).hexdigest())
    try:
        with _open(content) as stream:
            digest, _, head = _digest(stream)
            return Reading(digest, kind=sniff(head))
    except (OSError, ValueError) as problem:
        return Reading("", _told(problem))


def _open(path: Path) -> IO[bytes]:
    """Open a regular file; never waits for the other end of a pipe."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("not a regular file")
    return os.fdopen(handle, "rb")


def _digest(stream: IO[bytes]) -> tuple[str, IO[bytes], bytes]:
    """(sha256, what to decode from, first 64 bytes)."""
    data = stream.read(WHOLE_BYTES + 1)
    if len(data) <= WHOLE_BYTES:
        return hashlib.sha256(data).hexdigest(), io.BytesIO(data), data[:64]
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    stream.seek(0)
    return digest, stream, data[:64]


def _told(problem: Exception) -> str:
    return (isinstance(problem, OSError) and problem.strerror) or str(problem) or type(problem).__name__


def _reason(problem: BaseException, head: bytes) -> str:
    """Why a file does not decode, in one line and always in the same words."""
    if not head:
        return "0 bytes"
    text = " ".join(str(problem).split())
    # A KeyError is Pillow looking up a format of the list for which it has no opener of its own (MPO).
    unknown = "cannot identify image file" in text or isinstance(problem.__context__, KeyError)
    if sniff(head) and not unknown:
        return shown(text) or type(problem).__name__
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "HTML or XML text, not an image"
    if head[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file, which is not read"
    foreign = next((name for magic, name in _FOREIGN if head.startswith(magic)), "")
    if foreign:
        return f"{foreign}, which is not read"
    kind = sniff(head)
    return f"a {kind} file with a damaged header" if kind else "not an image of an accepted format"
