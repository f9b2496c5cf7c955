"""Sample pictures for a web page: decoded here as the model would get them, shown by the browser as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.device import Pixels
from edgewise.device.preprocess import FORMATS, BadImage, open_image, prepare
from edgewise.errors import ExportError

ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "WEBP": ".webp"}
"""The picture formats that browsers and `edgewise.device.preprocess` both read."""

_GPS = 0x8825  # the EXIF directory of a position


@dataclass(frozen=True)
class Sample:
    """A sample picture: where it is, its name on the page and in the folder, and its pixels as the model sees them."""

    path: Path
    file: str
    pixels: Pixels
    notes: list[str]


def read_sample(path: Path, number: int, spec: InputSpec) -> Sample:
    """Decode a sample as the model would get it.

    Raises:
        ExportError: X31, it cannot be decoded, or browsers cannot show its format.
    """
    try:
        pixels = prepare(open_image(path), **spec.preprocessing())
        with Image.open(path, formats=FORMATS) as header:
            form = header.format or ""
            located = bool(header.getexif().get_ifd(_GPS))
    except BadImage as problem:
        raise _bad_sample(path, str(problem)) from problem
    if form not in ENDINGS:
        raise _bad_sample(path, f"browsers do not show {form} pictures")
    name = path.name.encode("utf-8", "replace").decode()
    notes = [f"{name} tells where it was taken (GPS position in its EXIF data)"] if located else []
    return Sample(path, f"samples/{number}{ENDINGS[form]}", pixels, notes)


def _bad_sample(path: Path, why: str) -> ExportError:
    known = ", ".join(sorted(set(ENDINGS) - {"MPO"}))
    return ExportError(
        "this sample cannot be shown on the page",
        code="X31",
        where={"file": path},
        why=why,
        fix=f"give a whole picture of one of these formats: {known}",
    )
