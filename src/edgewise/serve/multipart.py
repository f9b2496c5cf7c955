"""The one picture in a `multipart/form-data` body (RFC 7578) that is already in memory and limited in size.

Nothing is written to disk, and a form that is not as simple as a picture needs is refused rather than guessed at.
"""

from __future__ import annotations

import re

from edgewise.serve.refusals import malformed

MOST_PARTS = 16
LONGEST_HEAD = 8192
LONGEST_NAME = 255

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s";,]{1,70}))\s*(?:;|$)', re.IGNORECASE)
_NAME = re.compile(r';\s*name="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(r';\s*filename="((?:[^"\\\r\n]|\\.)*)"', re.IGNORECASE)


def is_multipart(content_type: str) -> bool:
    """Whether a Content-Type says that the body is a form with files."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def read_picture(content_type: str, body: bytes) -> tuple[str, bytes]:
    """The file of a form: its name as it was sent ("" for none), and its bytes.

    A part counts as the file when it has a file name, or is called `image`; there has to be exactly one.

    Raises:
        DataError: V12, no boundary, a body that does not keep to it, no file, or several.
    """
    found = _BOUNDARY.search(content_type)
    if not found:
        raise malformed("Content-Type names no boundary")
    files = [(name, data) for is_file, name, data in _parts((found[1] or found[2]).encode("latin-1"), body) if is_file]
    if len(files) != 1:
        raise malformed(f"{len(files)} files in it; one picture is taken at a time")
    return files[0]


def _parts(boundary: bytes, body: bytes) -> list[tuple[bool, str, bytes]]:
    """Each part: whether it is a file, its file name, its bytes."""
    line = b"\r\n--" + boundary
    pieces = (b"\r\n" + body).split(line, MOST_PARTS + 1)
    if len(pieces) > MOST_PARTS + 1 and not pieces[-1].startswith(b"--"):
        raise malformed(f"more than {MOST_PARTS} parts")
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise malformed("it is cut short, or its boundary is not the one that Content-Type names")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> tuple[bool, str, bytes]:
    start, line_end, rest = piece.partition(b"\r\n")
    if start.strip(b" \t") or not line_end:
        raise malformed("text stands behind a boundary")
    head, gap, data = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if not gap or len(head) > LONGEST_HEAD:
        raise malformed("a part has no end of its head")
    fields = [line for line in head.decode("utf-8", "replace").split("\r\n") if line]
    disposition = [line for line in fields if line.lower().startswith("content-disposition:")]
    if len(disposition) != 1 or "form-data" not in disposition[0].lower():
        raise malformed("a part has no Content-Disposition: form-data")
    name, filename = _NAME.search(disposition[0]), _FILENAME.search(disposition[0])
    is_file = filename is not None or (name is not None and name[1] == "image")
    return is_file, filename[1][:LONGEST_NAME] if filename else "", data
