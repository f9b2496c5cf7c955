"""How pictures of a stream get into a folder: as PNG, whole or not at all, under names that nothing has."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from edgewise.device import Pixels
from edgewise.errors import UnavailableError
from edgewise.runs import free_bytes


def stamp() -> str:
    """The time in UTC, as part of names: `20261126-044512`."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S")


def png(pixels: Pixels) -> bytes:
    """A picture, uint8 (height, width, 3) RGB, as a PNG file: the pixels as they are."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        stream, "PNG", compress_level=1
    )  # 6 takes four times as long for a tenth less
    return stream.getvalue()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UnavailableError: Q10, it cannot be made, or something else has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise _unwritable(folder, problem) from problem


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that was not there: `parent/name`, `parent/name-2`, ...

    Raises:
        UnavailableError: Q10.
    """
    make_folder(parent)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        except OSError as problem:
            raise _unwritable(folder, problem) from problem
        else:
            return folder


def write_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a file that was not there: `stem.png`, `stem-2.png`, ...; it appears whole, and nothing is ever replaced.

    The bytes go into a hidden file, which then gets its name by a link: unlike a rename, that fails where the name is
    taken, also when another process takes it at the same moment.

    Raises:
        UnavailableError: Q10, the folder cannot be written; Q11, the disk is full.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)  # noqa: PTH101 - mkstemp gives a name, not a path
            return _named(Path(temporary), folder, stem, suffix, data)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108
    except OSError as problem:
        raise _unwritable(folder, problem, len(data)) from problem


def _named(temporary: Path, folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    number = 1
    while True:
        path = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
        try:
            _name(temporary, path, data)
        except FileExistsError:
            number += 1
        else:
            return path


def _name(temporary: Path, path: Path, data: bytes) -> None:
    try:
        os.link(temporary, path)
    except OSError as problem:
        if problem.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        _create(path, data)  # a file system without links, as on a memory card


def _create(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            path.unlink()
            raise


def _unwritable(folder: Path, problem: OSError, needed: int = 0) -> UnavailableError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UnavailableError(
            "the disk is full; what was written before is whole",
            code="Q11",
            where={"folder": folder},
            why=f"{needed:,} bytes needed, {free_bytes(folder):,} free",
            fix="free some space, or give a folder on another disk",
        )
    return UnavailableError(
        "cannot write pictures here",
        code="Q10",
        where={"folder": folder},
        why=problem.strerror or str(problem),
        fix="give a folder that can be written",
    )
