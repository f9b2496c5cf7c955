"""A safe look at a folder tree: which files are images by name, and what else lies there.

Nothing is decoded. Special files are never opened (a FIFO would block for ever), links are followed only while they
stay inside the root and do not lead back to a folder above them, and the litter of desktops and notebooks is
counted, never read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Literal

from edgewise.errors import DataError

SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    ".webp": "WEBP",
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
}
"""File name suffix (lower case) -> the format it promises."""

JUNK = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin"})
"""Names, lower case, that are never data; so is every name that starts with a dot."""

MAX_DEPTH = 5
"""Folders below this depth are not looked into; data is at most two deep, the rest serves the hints in messages."""

OUTSIDE = "a link that leads out of the data folder; it is not followed"
NOWHERE = "a link that leads nowhere"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


@dataclass(frozen=True)
class Folder:
    """One folder of the tree; names are as the file system gives them, each list sorted.

    Attributes:
        images: files that are images by their suffix or, where the suffix is unknown, by their first bytes.
        broken: (name, reason) of links with an image's name that cannot be followed.
        refused: (name, reason) of special files and of other links that are not followed.
        others: suffixes of the regular files that are no images.
        junk: how many entries are litter (see `JUNK`).
    """

    name: str
    path: str
    images: list[str] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    junk: int = 0

    def count(self) -> int:
        """Images in this folder and below it."""
        return len(self.images) + sum(folder.count() for folder in self.folders)


def walk(root: str) -> Folder:
    """Look at the tree under `root`, an absolute path without links.

    Raises:
        DataError: a folder cannot be listed.
    """
    return _walk(root, root, (root,))


def shown(name: str) -> str:
    r"""A file or class name that is safe to print and to store: control characters, direction marks and bytes that are
    no UTF-8 are written as escapes.

    >>> shown("a\nb")
    'a\\nb'
    """
    return _UNPRINTABLE.sub(_escape, name)


def inside(path: str, root: str) -> bool:
    """Whether an absolute path is `root` or lies below it; both without links or dots."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def sniff(head: bytes) -> str:
    """The accepted image format that a file's first 16 bytes announce, "" for none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")


def suffix(name: str) -> str:
    """The suffix of a file name, lower case, with its dot; "" without one."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - names, not paths


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # how Python writes a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _walk(path: str, root: str, trail: tuple[str, ...]) -> Folder:
    try:
        with os.scandir(path) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as problem:
        raise DataError(
            "a folder cannot be read",
            code="D01",
            where={"folder": shown(path)},
            why=problem.strerror or str(problem),
            fix="make it readable for this user (chmod u+rx), or take it out of the data folder",
        ) from problem
    folder = Folder(os.path.basename(path), path)  # noqa: PTH119
    junk = 0
    for entry in entries:
        kind, note = _classify(entry, root, trail)
        if kind == "junk":
            junk += 1
        elif kind == "image":
            folder.images.append(entry.name)
        elif kind == "folder":
            if len(trail) <= MAX_DEPTH:
                folder.folders.append(_walk(entry.path, root, (*trail, os.path.realpath(entry.path))))
        elif kind == "other":
            folder.others.append(note)
        else:
            (folder.broken if suffix(entry.name) in SUFFIXES and entry.is_symlink() else folder.refused).append(
                (entry.name, note)
            )
    return Folder(folder.name, path, folder.images, folder.folders, folder.broken, folder.refused, folder.others, junk)


Kind = Literal["junk", "image", "folder", "other", "refused"]


def _classify(entry: os.DirEntry[str], root: str, trail: tuple[str, ...]) -> tuple[Kind, str]:
    """What an entry is, with its suffix ("other") or the reason ("refused")."""
    if entry.name.startswith(".") or entry.name.lower() in JUNK:
        return "junk", ""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not inside(target, root):
            return "refused", OUTSIDE
        if not os.path.exists(target):  # noqa: PTH110 - also False for a loop of links
            return "refused", NOWHERE
        if any(inside(above, target) for above in trail):
            return "refused", "a link that leads back to a folder above it"
    if entry.is_dir():
        return "folder", ""
    if not entry.is_file():
        return "refused", "not a regular file (a pipe, socket or device); never opened"
    ending = suffix(entry.name)
    if ending in SUFFIXES or _looks_like_image(entry.path):
        return "image", ""
    return "other", ending


def _looks_like_image(path: str) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(sniff(os.read(handle, 16)))
    finally:
        os.close(handle)
