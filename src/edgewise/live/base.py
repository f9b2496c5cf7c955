"""What the parts of the live loop hand each other: frames, boxes, and what was seen in a frame.

A `Source` gives frames. A `Detector` finds boxes in one. The loop (`edgewise.live.loop`) detects, tracks between
detections, crops, classifies all crops of a frame in one batch, and yields one `View` for each frame that it took.
Everything that shows, records, serves or counts is made of views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgewise.device import Pixels

BESIDE = ("grab", "redetect")
"""Stages in threads of their own, which take no time of the loop."""
STAGES = (*BESIDE, "detect", "track", "crop", "classify", "draw")
"""All stages, in the order in which they are shown; `View.stages` has those that were run."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source: `pixels` uint8 (height, width, 3) RGB, taken `taken` seconds on `time.perf_counter`.

    `number` counts the frames that the source has given, those that nobody looked at included.
    """

    number: int
    taken: float
    pixels: Pixels


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the frame, and the detector's score (higher is surer; scales differ by detector)."""

    left: float
    top: float
    width: float
    height: float
    score: float = 1.0


@dataclass(frozen=True)
class Seen:
    """One classified crop: `track` keeps its number from frame to frame; 0 where the whole frame is classified.

    `probabilities` are in the order of the labels, after the bundle's temperature, of this frame (or smoothed, where
    the loop was told to). `label` is what the decision rule says: the class, None for unknown.
    """

    track: int
    box: Box
    label: str | None
    confidence: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class View:
    """What the loop has to say of one frame. `frame` is None where the source gives nothing ("no signal").

    `stages` holds milliseconds of each stage that ran for this frame; `age_ms` is the time from the taking of the
    frame to this view; `dropped` counts the frames passed over since the last view; `detected` says whether the
    detector has had its say since the last view, or all boxes are carried on from it.
    """

    state: Literal["live", "no signal", "ended"]
    frame: Frame | None = None
    seen: tuple[Seen, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    age_ms: float = 0.0
    dropped: int = 0
    detected: bool = False
    note: str = ""
    """What a person should know of the source: `usb:0 unplugged, trying again in 4 s`."""


class Source(Protocol):
    """Frames, one after another. `live` sources go on whether or not anybody reads (cameras); the others wait."""

    name: str
    live: bool

    def read(self) -> Pixels | None:
        """The next picture, uint8 (height, width, 3) RGB; None at the end. Raises `UnavailableError` when lost."""
        ...

    def close(self) -> None:
        """Give the device back; may be called twice and from another thread."""
        ...


class Detector(Protocol):
    """Finds what is to be classified."""

    name: str

    def find(self, pixels: Pixels) -> list[Box]:
        """Boxes in a picture, uint8 (height, width, 3) RGB, the surest first."""
        ...
