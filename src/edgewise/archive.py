"""Bundles as one file: a zip that is the same whenever it is made of the same bundle, and that is opened with distrust.

A bundle is flat, so an archive holds plain files at its root and nothing else. Every rule is checked on the archive's
directory before a byte is unpacked; unpacking goes into a temporary folder, and only a bundle that is as it was written
leaves it.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgewise.bundle import MANIFEST, Manifest, verify_bundle
from edgewise.errors import ConfigError, UntrustedError

MAX_FILES = 64
MAX_BYTES = 4 << 30
"""Of all files together, unpacked."""
MAX_RATIO, RATIO_FROM = 100, 10 << 20
"""A file larger than `RATIO_FROM` bytes may be at most so many times its packed size."""
MAX_DIRECTORY = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold; times would make two archives of one bundle differ."""
_END = struct.Struct("<4s4H2LH")


def pack(folder: Path, out: Path) -> Manifest:
    """Write a bundle as a zip file; the same bundle gives the same bytes (with the same zlib).

    Raises:
        UntrustedError: the bundle is not as it was written.
        ConfigError: `out` exists.
    """
    manifest = verify_bundle(folder)
    _must_be_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as staging:
        written = Path(staging) / "bundle.zip"
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, allowZip64=False, compresslevel=9) as archive:
            for name in [MANIFEST, *sorted(manifest.files)]:
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, (folder / name).read_bytes())
        written.rename(out)
    return manifest


def unpack(path: Path, out: Path) -> Manifest:
    """Unpack an archive to the new folder `out`, which appears whole, as a verified bundle, or not at all.

    Raises:
        UntrustedError: see `unpacked`.
        ConfigError: `out` exists.
    """
    _must_be_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with unpacked(path, out.parent) as (folder, manifest):
        folder.rename(out)
    return manifest


@contextmanager
def unpacked(path: Path, parent: Path | None = None) -> Iterator[tuple[Path, Manifest]]:
    """The verified bundle of an archive in a temporary folder, which is gone afterwards.

    Raises:
        UntrustedError: not a zip file, entries that are no plain files of a bundle, more than the caps allow, or a
            bundle that is not as it was written.
    """
    with tempfile.TemporaryDirectory(prefix=".edgewise-", dir=parent) as temporary:
        folder = Path(temporary) / "bundle"
        folder.mkdir()
        try:
            _check_end(path)
            with zipfile.ZipFile(path) as archive:
                _check_entries(path, archive.infolist())
                for entry in archive.infolist():
                    with archive.open(entry) as source, (folder / entry.filename).open("xb") as target:
                        shutil.copyfileobj(source, target)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as problem:
            raise _refused("U69", "not an archive of a bundle", path, str(problem)) from problem
        manifest = verify_bundle(folder)
        folder.chmod(0o755)
        yield folder, manifest


def _check_end(path: Path) -> None:
    """The end record stands at the very end, and the directory it tells of is small: it is read as a whole."""
    if path.is_symlink() or not path.is_file():
        raise _refused("U69", "not an archive of a bundle", path, "not a regular file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 42))
        tail = stream.read(42)
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\5\6"):
        raise _refused("U69", "not an archive of a bundle", path, "no zip, or more bytes behind it")
    _, disk, first_disk, here, entries, directory, _, comment = _END.unpack(tail[-_END.size :])
    if tail.startswith(b"PK\6\7") or disk or first_disk or here != entries or comment:
        raise _refused("U69", "not an archive of a bundle", path, "zip64, several disks or a comment")
    if entries > MAX_FILES or directory > MAX_DIRECTORY:
        why = f"{entries} files in a directory of {directory:,} bytes; {MAX_FILES} and {MAX_DIRECTORY:,} are allowed"
        raise _refused("U68", "the archive would unpack to more than a bundle can be", path, why)


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    problems, seen = [], set()
    for entry in entries:
        problem = _unsafe(entry)
        folded = unicodedata.normalize("NFC", entry.orig_filename).casefold()
        if not problem and folded in seen:
            problem = "there twice, as the same name or in another case"
        seen.add(folded)
        if problem:
            problems.append(f"{entry.orig_filename!r}: {problem}")
    if problems:
        raise _refused("U67", "the archive holds what a bundle never does", path, "\n".join(problems))
    total = sum(entry.file_size for entry in entries)
    swollen = [
        entry
        for entry in entries
        if entry.file_size > RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size)
    ]
    if len(entries) > MAX_FILES or total > MAX_BYTES or swollen:
        why = f"{len(entries)} files, {total:,} bytes unpacked of {path.stat().st_size:,} packed"
        raise _refused("U68", "the archive would unpack to more than a bundle can be", path, why)


def _unsafe(entry: zipfile.ZipInfo) -> str:
    """Why an entry may not be unpacked, "" when it may. The name is the one in the file: `filename` is cut at a NUL."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if any(unicodedata.category(letter) in {"Cc", "Cf", "Cs"} for letter in name):
        return "control characters in its name"
    if "/" in name or "\\" in name or ":" in name or name in {"", ".", ".."} or name != name.strip().rstrip("."):
        return "not a plain file name"
    if len(name.encode("utf-8")) > 200:
        return "a name of more than 200 bytes"
    if stat.S_IFMT(mode) not in {0, stat.S_IFREG} or entry.external_attr & 0x10:
        return "not a regular file but a link, a folder or a device"
    if entry.flag_bits & 0x1:
        return "encrypted"
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return "packed in another way than deflate"
    return ""


def _must_be_free(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise ConfigError("there is something already", code="C99", where={"path": out}, fix="give another --out")


def _refused(code: str, what: str, path: Path, why: str) -> UntrustedError:
    fix = "do not unpack it by hand; `edgewise pack BUNDLE` makes archives"
    return UntrustedError(what, code=code, where={"file": path}, why=why, fix=fix)
