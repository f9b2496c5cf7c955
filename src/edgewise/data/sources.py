"""From the words of a recipe to a source of images: a folder, a manifest or a built-in set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewise.data import manifest
from edgewise.data.builtin import DEFAULTS, load_builtin
from edgewise.data.pool import Content
from edgewise.data.scan import Scan, scan_folder
from edgewise.data.walk import shown
from edgewise.errors import DataError
from edgewise.recipe import DataOptions


@dataclass(frozen=True)
class Found:
    """A source: its scan, what to decode for each entry, and where it is, for messages."""

    scan: Scan
    contents: Sequence[Content]
    place: str


def find(options: DataOptions) -> Found:
    """Find the labelled images of a source without opening one.

    Raises:
        ConfigError: C30 a folder that can be read in two ways.
        DataError: D01 to D04, D11 to D13, D15, D16 the source cannot be listed.
        UnavailableError: E50 a built-in set that is not installed.
    """
    source = options.source
    if source in DEFAULTS:
        built_in = load_builtin(source, download=options.download)
        return Found(built_in.scan, list(built_in.images), source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise DataError(
            "the source is a URL",
            code="D02",
            where={"data.source": shown(source)},
            why="edgewise reads local folders only and opens no connection for data",
            fix="download it first, unpack it, and give the folder",
        )
    path = _resolve(source)
    if path.is_dir():
        scan = scan_folder(path, options.layout)
    elif path.suffix.lower() in manifest.SUFFIXES and path.is_file():
        scan = manifest.scan_manifest(path)
    else:
        raise DataError(
            "the source is a file, and not a manifest",
            code="D03",
            where={"data.source": shown(source)},
            why=f"manifests end in {', '.join(manifest.SUFFIXES)}",
            fix="give a folder of class folders or a manifest; unpack an archive first",
        )
    contents = [entry.path for entry in scan.entries if entry.path is not None]
    return Found(scan, contents, shown(str(path)))


def _resolve(source: str) -> Path:
    path = Path(source).expanduser()
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as problem:  # RuntimeError: a loop of links
        near = _near(path)
        raise DataError(
            "there is no such folder",
            code="D01",
            where={"data.source": shown(source)},
            why=getattr(problem, "strerror", "") or shown(str(problem)),
            fix=near or "give a folder of class folders, a manifest, or a built-in set: " + ", ".join(DEFAULTS),
        ) from problem


def _near(path: Path) -> str:
    """The existing names or built-in sets nearest to a path that is not there."""
    missing = path
    while not _listable(missing.parent) and missing.parent != missing:
        missing = missing.parent
    names = (
        sorted(entry.name for entry in missing.parent.iterdir() if entry.name[:1] != ".")
        if _listable(missing.parent)
        else []
    )
    close = difflib.get_close_matches(path.name, DEFAULTS, n=1) if len(path.parts) == 1 else []
    close += [shown(str(missing.parent / name)) for name in difflib.get_close_matches(missing.name, names, n=2)]
    return f"did you mean {' or '.join(close)}?" if close else ""


def _listable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and folder.is_dir()
