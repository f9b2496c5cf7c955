"""Pictures that the model was not sure of, kept for labelling: what it does not know is what it should be taught next.

::

    DIR/unsorted/20261126-044512/000123-t4.png   the picture that was classified: a crop, or the whole frame
    DIR/frames/20261126-044512/000123.png        the frame it was cut from
    DIR/uncertain-20261126-044512.csv            what the model thought of each, with an empty column `label`
    DIR/cat/ DIR/dog/                            a folder for each class, empty

Two ways lead from here to training. Move each picture of `unsorted/` into the folder of its class: then DIR is a folder
of class folders, and `edgewise data check DIR` and `edgewise run --data DIR` open it; what is still unsorted, and
`frames/`, lie one folder deeper and are left out. Or fill in the column `label`: then the CSV file is a manifest. Its
column `group` keeps the pictures of one track on one side of the split.

A new session is a new folder; nothing that was there is written to or counted as this session's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.errors import ConfigError, UnavailableError
from edgewise.live.base import Frame, Seen, View
from edgewise.live.classify import cut
from edgewise.live.keep import make_folder, new_folder, png, stamp, write_new
from edgewise.live.looks import DIFFERENCE, Looks
from edgewise.report.files import write_rows

UNSORTED, FRAMES = "unsorted", "frames"
LEAST_SIDE = 8
"""Smaller pictures, in pixels, are not kept: nobody could label them."""


@dataclass(frozen=True)
class Limits:
    """How much is kept.

    seconds: least time between two frames that are kept. difference: gray levels by which a picture has to differ from
    all kept ones, see `Looks`. megabytes: most that one session writes, frames and all.
    """

    seconds: float = 2.0
    difference: float = DIFFERENCE
    megabytes: float = 500.0

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.difference < 0 or self.megabytes <= 0:
            raise ValueError("seconds and difference are 0 or more, megabytes above 0")


@dataclass(frozen=True)
class Kept:
    """What a session kept and passed over. `stopped` says why it keeps no more: "" while it does."""

    folder: Path
    pictures: int
    frames: int
    written_bytes: int
    alike: int
    too_soon: int
    stopped: str

    def words(self) -> str:
        """In a line."""
        said = f"{self.pictures} uncertain pictures kept in {self.folder}"
        said += f" ({self.alike} alike and {self.too_soon} too soon after another were passed over)"
        return f"{said}; {self.stopped}" if self.stopped else said


class UncertainSaver:
    """Takes views and keeps the pictures in them whose label is unknown; see the top of this file."""

    def __init__(self, folder: Path, labels: Sequence[str], limits: Limits = Limits()) -> None:
        """Make the folders of this session.

        Args:
            folder: DIR; made where it is not there.
            labels: the classes of the bundle, in the order of the probabilities.
            limits: how much is kept.

        Raises:
            UnavailableError: Q10, the folder cannot be written.
            ConfigError: Q12, a class cannot be the name of a folder beside `unsorted`.
        """
        _check_names(folder, labels)
        self._labels = tuple(labels)
        self._limits = limits
        self._looks = Looks(limits.difference)
        self._rows: list[dict[str, Any]] = []
        self._folder = folder
        for label in labels:
            make_folder(folder / label)
        self._pictures = new_folder(folder / UNSORTED, stamp())
        make_folder(folder / FRAMES)
        self._csv = write_new(folder, f"uncertain-{self._pictures.name}", ".csv", b"")
        self._last = -float("inf")
        self._frames = self._bytes = self._alike = self._too_soon = 0
        self._stopped = ""

    def take(self, view: View) -> tuple[Path, ...]:
        """Keep what is unknown in a view, as far as the limits let it; answers the pictures that were written.

        A disk that takes no more ends the keeping and not the loop: `kept().stopped` says so.
        """
        frame = view.frame
        if self._stopped or frame is None or view.state != "live":
            return ()
        unknown = [seen for seen in view.seen if seen.label is None]
        if not unknown:
            return ()
        if frame.taken - self._last < self._limits.seconds:
            self._too_soon += len(unknown)
            return ()
        try:
            written = [path for seen in unknown if (path := self._keep(frame, seen))]
            if written:
                self._last = frame.taken
                write_rows(self._rows, self._csv)
        except UnavailableError as problem:
            self._stopped = f"{problem.what}: {problem.why}"
            return ()
        return tuple(written)

    def kept(self) -> Kept:
        """The figures of this session so far."""
        figures = (self._frames, self._bytes, self._alike, self._too_soon)
        return Kept(self._folder, len(self._rows), *figures, self._stopped)

    def _keep(self, frame: Frame, seen: Seen) -> Path | None:
        crop = cut(frame.pixels, seen.box)
        if self._stopped or min(crop.shape[:2]) < LEAST_SIDE:
            return None
        if not self._looks.is_new(crop):
            self._alike += 1
            return None
        whole = crop.shape == frame.pixels.shape
        name = f"{frame.number:06}" if whole else f"{frame.number:06}-t{seen.track}"
        data = png(crop)
        context = b"" if whole or self._frame_is_kept(frame) else png(frame.pixels)
        if self._bytes + len(data) + len(context) > self._limits.megabytes * 1e6:
            self._stopped = f"the {self._limits.megabytes:g} MB that this session may write are used up"
            return None
        path = write_new(self._pictures, name, ".png", data)
        if context:
            place = self._folder / FRAMES / self._pictures.name
            make_folder(place)
            write_new(place, f"{frame.number:06}", ".png", context)
        self._frames += 0 if self._frame_is_kept(frame) else 1
        self._bytes += len(data) + len(context)
        self._looks.remember(crop)
        self._rows.append(self._row(path, frame, seen))
        return path

    def _frame_is_kept(self, frame: Frame) -> bool:
        return bool(self._rows) and bool(self._rows[-1]["frame"] == frame.number)

    def _row(self, path: Path, frame: Frame, seen: Seen) -> dict[str, Any]:
        first, second = np.argsort(-np.asarray(seen.probabilities), kind="stable")[:2]
        return {
            "file_name": path.relative_to(self._folder).as_posix(),
            "label": "",
            "group": f"{self._pictures.name}-t{seen.track}" if seen.track else self._pictures.name,
            "guess": self._labels[first],
            "confidence": round(seen.probabilities[first], 6),
            "second_guess": self._labels[second],
            "second_confidence": round(seen.probabilities[second], 6),
            "frame": frame.number,
            "track": seen.track,
            **{key: round(getattr(seen.box, key), 1) for key in ("left", "top", "width", "height")},
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _check_names(folder: Path, labels: Sequence[str]) -> None:
    taken = (UNSORTED, FRAMES, "")
    wrong = [label for label in labels if label in taken or label.startswith(".") or "/" in label or "\0" in label]
    if wrong:
        raise ConfigError(
            "a class cannot be a folder of its own here",
            code="Q12",
            where={"folder": folder, "class": ", ".join(map(repr, wrong))},
            why=f"{UNSORTED} and {FRAMES} are folders of this layout; a name holds no / and starts with no dot",
            fix="train with other names for these classes",
        )
