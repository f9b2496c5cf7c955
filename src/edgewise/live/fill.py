"""Fill the folder of a class from a camera: pictures for training, of which no two are nearly the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgewise.device import Pixels
from edgewise.errors import ConfigError, UnavailableError
from edgewise.interrupt import deferred
from edgewise.live.base import Source
from edgewise.live.keep import make_folder, png, stamp, write_new
from edgewise.live.looks import DIFFERENCE, Looks


@dataclass
class Captured:
    """What came of it: the pictures written, frames read, frames passed over; `ended` says what ended it.

    `ended` is "count" (as many as asked for), "end" (of a file), "stopped" (by `show`, or by the signal of that number)
    or "lost" (the camera; `lost` says how).
    """

    folder: Path
    written: list[Path] = field(default_factory=list)
    frames: int = 0
    alike: int = 0
    too_soon: int = 0
    ended: str = ""
    lost: str = ""
    signal: int | None = None


def capture(
    source: Source,
    folder: Path,
    label: str,
    *,
    count: int | None = None,
    every: float = 0.5,
    difference: float = DIFFERENCE,
    show: Callable[[Pixels, Captured], bool] | None = None,
) -> Captured:
    """Write frames of a source into `folder/label` until there are enough, it ends, or `show` says stop.

    Files that are there are never touched. A frame that looks like one that was written before is passed over, and so
    is one that comes sooner than `every` seconds after the last written; of a file that is not live, which is read as
    fast as it can be, none is too soon. The first Ctrl-C ends it after the frame at hand.

    Args:
        source: where frames come from; it is closed at the end.
        folder: the data folder.
        label: the class, a plain name.
        count: pictures to write, 1 or more; None has no end.
        every: least seconds between two pictures of a live source.
        difference: gray levels by which a picture has to differ from those before it; 0 takes every one.
        show: called with each frame, uint8 (height, width, 3), and what was done so far; False stops.

    Raises:
        ConfigError: Q13, the class cannot be the name of a folder.
        UnavailableError: Q10, Q11, the folder cannot be written; or the source's own, if it gave not one frame.
    """
    so_far = Captured(folder / label)
    looks = Looks(difference)
    stem, last = stamp(), -float("inf")
    try:
        check_label(label)
        make_folder(so_far.folder)
        with deferred() as signalled:
            while not so_far.ended:
                pixels = source.read()
                now = time.monotonic()
                if pixels is None:
                    so_far.ended = "end"
                    break
                so_far.frames += 1
                if source.live and now - last < every:
                    so_far.too_soon += 1
                elif looks.is_new(pixels):
                    number = len(so_far.written) + 1
                    so_far.written.append(write_new(so_far.folder, f"{stem}-{number:05}", ".png", png(pixels)))
                    looks.remember(pixels)
                    last = now
                else:
                    so_far.alike += 1
                so_far.signal = signalled()
                if so_far.signal is not None or (show and not show(pixels, so_far)):
                    so_far.ended = "stopped"
                elif len(so_far.written) == count:
                    so_far.ended = "count"
    except UnavailableError as problem:
        if not so_far.frames or problem.code in ("Q10", "Q11"):
            raise
        so_far.ended, so_far.lost = "lost", f"{problem.what}: {problem.why}"
    finally:
        source.close()
    return so_far


def check_label(label: str) -> None:
    """Whether a class can be the name of a folder everywhere. Raises ConfigError Q13."""
    bad = [character for character in label if character in '/\\:*?"<>|' or not character.isprintable()]
    if not label.strip() or label != label.strip() or label.startswith(".") or bad or len(label.encode()) > 100:
        raise ConfigError(
            "this class cannot be the name of a folder",
            code="Q13",
            where={"class": repr(label)},
            why="a class is a folder's name: 1 to 100 bytes, no dot in front, none of / \\ : * ? \" < > |",
            fix="give a plain name, e.g. --class apple",
        )
