"""Writing what was seen as a video. The file has its name when it is whole, also after Ctrl-C."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from edgewise.device import Pixels
from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.opencv import load_opencv

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
GAP_S = 10.0
"""A pause is filled with the frame before it for at most so long."""


class Recorder:
    """A video under way, in a hidden file beside `path`; `close` gives it its name.

    A video has one rate. With `paced`, frames are put where the clock says: repeated where none came, left out where
    they came faster. Without, each frame is one frame of the video.
    """

    def __init__(self, path: Path, fps: float, paced: bool) -> None:
        if path.suffix.lower() not in CODECS:
            raise ConfigError(
                f"cannot record {path.suffix or 'a file without an ending'}",
                code="L15",
                where={"--record": path},
                fix=f"a name that ends in {' or '.join(CODECS)}",
            )
        self._path = path
        self._fps = fps
        self._paced = paced
        self._writer: Any = None
        self._temporary: Path | None = None
        self._size = 0, 0
        self._start: float | None = None
        self._written = 0

    @property
    def written(self) -> int:
        """Frames in the video."""
        return self._written

    def add(self, picture: Pixels, now: float) -> None:
        """Add a picture, uint8 (height, width, 3) RGB, shown at `now` seconds.

        Raises:
            UnavailableError: L14, the file cannot be written; L06, no OpenCV.
        """
        cv2 = load_opencv("recording")
        size = picture.shape[1], picture.shape[0]
        if self._writer is None:
            self._open(size)
        if size != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for _ in range(self._copies(now)):
            self._writer.write(bgr)
            self._written += 1

    def close(self) -> None:
        """Finish the file; without a frame there is none. May be called twice."""
        if self._writer is None or self._temporary is None:
            return
        self._writer.release()
        self._writer, temporary = None, self._temporary
        try:
            if self._written:
                with temporary.open("rb+") as stream:
                    os.fsync(stream.fileno())
                temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def _copies(self, now: float) -> int:
        if not self._paced:
            return 1
        if self._start is None:
            self._start = now
        due = int((now - self._start) * self._fps + 1e-6) + 1
        missing = due - self._written
        if missing > GAP_S * self._fps:
            self._start += (missing - 1) / self._fps
            return 1
        return max(0, missing)

    def _open(self, size: tuple[int, int]) -> None:
        cv2 = load_opencv("recording")
        suffix = self._path.suffix.lower()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self._path.stem}.", suffix=suffix, dir=self._path.parent)
        except OSError as problem:
            raise self._refused(problem.strerror or str(problem)) from problem
        os.fchmod(handle, 0o644)
        os.close(handle)
        self._temporary, self._size = Path(name), size
        code = cv2.VideoWriter.fourcc(*CODECS[suffix])
        self._writer = cv2.VideoWriter(name, code, self._fps, size)
        if not self._writer.isOpened():
            self._temporary.unlink()
            raise self._refused("OpenCV does not open it")

    def _refused(self, why: str) -> UnavailableError:
        fix = "give a folder that can be written, and a name that ends in .mp4 or .avi"
        return UnavailableError("cannot record", code="L14", where={"--record": self._path}, why=why, fix=fix)
