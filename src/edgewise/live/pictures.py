"""Sources that need no camera: a folder of pictures, and a test picture that moves."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np

from edgewise.device import Pixels
from edgewise.device.preprocess import BadImage, open_image, to_mode
from edgewise.errors import DataError
from edgewise.live.base import Source
from edgewise.live.wanted import Wanted, parse_wanted

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class FolderSource:
    """The pictures of a folder, each once; see `edgewise.live.base.Source`.

    A damaged picture raises `DataError`; the next `read` goes on with the next picture.
    """

    live = False

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name = name
        self._files = iter(files)

    def read(self) -> Pixels | None:
        """The next picture, upright, RGB; pictures may differ in size.

        Raises:
            DataError: L17, this picture cannot be decoded.
        """
        file = next(self._files, None)
        if file is None:
            return None
        try:
            image = open_image(file)
            return np.asarray(to_mode(image, 3))
        except BadImage as problem:
            raise DataError(f"{file.name}: {problem}", code="L17", where={"file": file}) from None

    def close(self) -> None:
        """Nothing is held."""
        self._files = iter(())


def open_folder(path: Path) -> Source:
    """The pictures of a folder in the order of their names (2.png before 10.png), or one picture."""
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise DataError(
            "no pictures here" if path.is_dir() else "no such file",
            code="L10",
            where={"source": path},
            fix=f"pictures end in {', '.join(PICTURES)}; --source synthetic needs none",
        )
    return FolderSource(str(path), sorted(files, key=lambda file: _natural(file.name)))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names by their value."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


class SyntheticSource:
    """A coloured disc that wanders over a slowly shifting ground, with sensor noise; see `edgewise.live.base.Source`.

    With a rate it is live: frames come at their times, and those that nobody took in time are passed over by the clock.
    With `fps` 0 it gives a frame whenever it is asked.
    """

    def __init__(self, name: str, wanted: Wanted, frames: int | None = None) -> None:
        self.name = name
        self.live = wanted.fps > 0
        self.fps = wanted.fps
        self._size = wanted.height, wanted.width
        self._left = frames
        self._number = 0
        self._start = time.perf_counter()
        random = np.random.default_rng(0)
        height, width = self._size
        ramp = np.linspace(0, 160, width, dtype=np.float32)[None, :, None] + np.linspace(0, 60, height)[:, None, None]
        tint = np.array([1.0, 0.8, 0.6], np.float32)
        noise = random.integers(0, 24, (height, width, 3))
        self._ground = np.ascontiguousarray((ramp * tint + noise).astype(np.uint8))
        radius = max(4, min(height, width) // 8)
        self._radius = radius
        rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
        self._disc = rows**2 + columns**2 <= radius**2

    def read(self) -> Pixels | None:
        """The next picture, at its time."""
        if self._left is not None and self._number >= self._left:
            return None
        if self.live:
            self._wait()
        step = self._number
        self._number += 1
        picture = np.roll(self._ground, 4 * (step % self._size[1]), axis=1)
        self._paint(picture, step)
        return picture

    def close(self) -> None:
        """Nothing is held; the next `read` ends."""
        self._left = 0

    def _wait(self) -> None:
        due = self._start + self._number / self.fps
        now = time.perf_counter()
        if now > due + 1 / self.fps:  # late: as with a camera, what was not taken is gone
            self._start += now - due
        elif now < due:
            time.sleep(due - now)

    def _paint(self, picture: Pixels, step: int) -> None:
        height, width = self._size
        radius = self._radius
        x = radius + round((0.5 + 0.5 * np.sin(step / 31)) * (width - 2 * radius - 1))
        y = radius + round((0.5 + 0.5 * np.sin(step / 23)) * (height - 2 * radius - 1))
        patch = picture[y - radius : y + radius + 1, x - radius : x + radius + 1]
        patch[self._disc] = (220, 40 + step % 160, 60)


def open_synthetic(text: str, wanted: Wanted) -> Source:
    """`synthetic`, `synthetic:320x240`, `synthetic:320x240@60`, `synthetic:@0`; a third part is the count of frames.

    Raises:
        ConfigError: L01, not a size.
    """
    size, _, count = text.partition(",")
    frames = int(count) if re.fullmatch(r"\d{1,9}", count) else None
    if count and frames is None:
        parse_wanted(count + " frames")  # raises
    return SyntheticSource(f"synthetic:{text}" if text else "synthetic", parse_wanted(size, wanted), frames)
