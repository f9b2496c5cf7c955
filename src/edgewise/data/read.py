"""Reading one image file: hashed and decoded from the same bytes, or told in one line why not."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.data.pool import PATIENCE, Content, Progress, each
from edgewise.data.similar import look
from edgewise.data.walk import shown, sniff
from edgewise.device import preprocess

WHOLE_BYTES = 16 * 2**20
"""Files up to this size are read at once; larger ones are hashed and decoded from the open file."""

T = TypeVar("T")

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
    its first bytes ("" for an unknown one and for built-in images), `look` what `similar.look` makes of it (b"" where
    it was not decoded, and for built-in images).
    """

    sha256: str
    problem: str = ""
    kind: str = ""
    look: bytes = b""


def check_images(
    contents: Sequence[Content], progress: Progress | None = None, patience: float = PATIENCE
) -> tuple[Reading, ...]:
    """Hash and decode every image in full, keeping no pixels."""
    return tuple(each(contents, lambda index: read(contents[index], None)[0], progress, patience))


def hash_images(
    contents: Sequence[Content], progress: Progress | None = None, patience: float = PATIENCE
) -> tuple[Reading, ...]:
    """Hash every image without decoding it."""
    return tuple(each(contents, lambda index: digest_of(contents[index]), progress, patience))


def read(content: Content, preprocessing: Mapping[str, Any] | None) -> tuple[Reading, NDArray[np.uint8] | None]:
    """Hash and decode one image from the same open file; pixels only with `preprocessing`."""
    if not isinstance(content, Path):
        pixels = preprocess.prepare(Image.fromarray(content), **preprocessing) if preprocessing else None
        return digest_of(content), pixels

    def use(image: Image.Image) -> tuple[bytes, NDArray[np.uint8] | None]:
        return look(image), preprocess.prepare(image, **preprocessing) if preprocessing else None

    reading, made = read_with(content, use)
    return (dataclasses.replace(reading, look=made[0]), made[1]) if made else (reading, None)


def read_with(path: Path, use: Callable[[Image.Image], T]) -> tuple[Reading, T | None]:
    """Hash and decode one file from the same bytes, and what `use` makes of the decoded image; None where the file has
    a problem. The look is not taken."""
    try:
        with _open(path) as stream:
            digest, source, head = _digest(stream)
            try:
                return Reading(digest, kind=sniff(head)), use(preprocess.open_image(source))
            except (*_DAMAGE, zlib.error, struct.error, EOFError, MemoryError) as problem:
                # Pillow's parsers raise nearly anything on damaged files; the file is at fault, whatever it is.
                return Reading(digest, _reason(problem, head), sniff(head)), None
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
