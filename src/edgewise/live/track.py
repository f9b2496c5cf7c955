"""Carrying boxes from frame to frame, so that the detector need not run on each, and saying when it must.

Between detections a box follows the points in it: sparse optical flow (Lucas and Kanade; pyramids by Bouguet) forth and
back on the frame scaled down, points that do not come back to where they started left out, and the box moved by the
median and scaled by the median change of distances between points (the median flow tracker of Kalal, Mikolajczyk and
Matas, 2010). That takes a millisecond where a cascade takes tens. Without OpenCV boxes stand still between detections.

The detector runs
- every `every` frames,
- at once when a known box was lost: too few of its points came back, or it left the frame,
- `REST` frames after it found a new box: cascades have false alarms that last for a frame,
- when the picture changed much, but not within `REST` frames of the last detection: where there are boxes, what lies
  outside them from one frame to the next (a cut); where there are none, since the last detection (somebody comes).

The first of these can wait where there are boxes to show meanwhile ("soon"): the detector may look at a `Mark` of this
frame while further frames are followed. What it found is then brought to the frame of the day: known boxes as far as
they have moved since, new ones by the flow between the two frames. The others are needed for this frame ("now").

A box that the detector finds again is drawn towards what it found; one that it misses `PATIENCE` times in a row is
gone, a new one at once.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.live.base import Box
from edgewise.live.boxes import carry, mix, pair

WIDTH = 320
"""Points are followed on a frame of this width."""
GRID = 8
"""Points a side in a box."""
INNER = 0.7
"""They lie in the inner part of the box; its corners are background."""
BACK = 1.0
"""A point that comes back farther than so many pixels from its start is left out."""
REACH = 64
"""Flow is looked for within so many pixels around the points; the rest of the picture costs time for nothing. With much
less (40), small pictures leave out the coarsest level of the pyramid, and points that move 15 pixels are lost."""
SETTLED = (3, 10, 0.03)
"""A point has settled after 10 steps, or one of less than 0.03 pixels (3: whichever is first)."""
LIGHT = 0.03
"""From this relative change of brightness on (a lamp, the camera's exposure) pictures are brought to one light."""
ENOUGH = 0.4
"""Share of the points that must come back."""
MAX_SCALE = 1.15
"""A box grows or shrinks by at most this factor from frame to frame."""
ALIKE = 0.3
"""IoU above which a found box is a known one."""
PULL = 0.5
"""How far a known box goes towards the found one: half, which evens out the steps of a cascade's sizes."""
PATIENCE = 2
CELLS = 40
"""Cells a side of the small picture in which motion is looked for."""
CHANGED, MUCH, CUT = 24, 0.15, 0.5
"""A cell whose value moved by so many levels has changed; this share of changed cells is much; this one is a cut."""
REST = 3
"""Frames that the detector rests at least, unless a known box is lost."""

Points = NDArray[np.float32]
Due = Literal["", "soon", "now"]


@dataclass(frozen=True)
class _Track:
    number: int
    box: Box
    found: int = 1
    misses: int = 0


@dataclass(frozen=True)
class Mark:
    """A frame that the detector looks at while the loop goes on: its tracks, and the picture that flow starts from."""

    tracks: tuple[_Track, ...]
    gray: Any
    life: object


class Tracker:
    """Boxes with numbers that stay; `follow` each frame, then `correct` when it says that the detector is due.

    Where it is due "soon", `mark` and, frames later, `correct` with that mark do as well.
    """

    def __init__(self, every: int) -> None:
        self._every = max(1, every)
        self._follows = self._every > 1 and importlib.util.find_spec("cv2") is not None
        self._next = 1
        self.forget()

    def forget(self) -> None:
        """Drop all tracks; numbers are not used again."""
        self._life = object()
        self._tracks: list[_Track] = []
        self._before: Any = None
        self._scale = 1.0
        self._shape: tuple[int, ...] = ()
        self._since = self._every
        self._cells: NDArray[np.int16] | None = None
        self._cells_before: NDArray[np.int16] | None = None
        self._cells_then: NDArray[np.int16] | None = None

    def tracks(self) -> list[tuple[int, Box]]:
        """(number, box) in the order of the numbers."""
        return [(track.number, track.box) for track in self._tracks]

    def follow(self, pixels: Pixels) -> Due:
        """Carry the boxes on to this frame, and say whether and when the detector is to look at it."""
        if pixels.shape != self._shape:
            self.forget()
            self._shape = pixels.shape
        self._since += 1
        scale = min(1.0, WIDTH / pixels.shape[1])
        lost = self._flow(pixels, scale) if self._follows else False
        self._cells_before, self._cells = self._cells, _cells(pixels)
        doubtful = self._since >= REST and (self._moved() or any(track.found == 1 for track in self._tracks))
        if lost or doubtful:
            return "now"
        if self._since < self._every:
            return ""
        return "soon" if self._tracks and self._follows else "now"

    def mark(self) -> Mark:
        """This frame, for a detector that takes its time; it counts as looked at from here on."""
        self._since = 0
        self._cells_then = self._cells
        return Mark(tuple(self._tracks), self._before, self._life)

    def correct(self, found: list[Box], mark: Mark | None = None) -> None:
        """Take in what the detector found, in the frame that was last followed or in an earlier one, its `mark`.

        What was found before the tracks were dropped is of no use any more, and left out.
        """
        then = mark or self.mark()
        if then.life is not self._life:
            return
        late = mark is not None and mark.gray is not self._before
        now = {track.number: track for track in self._tracks}
        pairs = dict(pair([track.box for track in then.tracks], found, ALIKE))
        pull = PULL if self._follows else 1.0  # a box that stood still is of the past
        for at, before in enumerate(then.tracks):
            track = now.get(before.number)
            if track is None:  # lost on the way
                continue
            if at in pairs:
                box = carry(mix(before.box, found[pairs[at]], pull), before.box, track.box)
                now[track.number] = _Track(track.number, box, track.found + 1)
            elif track.found > 1 and track.misses + 1 < PATIENCE:
                now[track.number] = dataclasses.replace(track, misses=track.misses + 1)
            else:
                del now[track.number]
        new = [box for at, box in enumerate(found) if at not in pairs.values()]
        for carried in self._between(then.gray, self._before, new) if late else new:
            if carried is not None:
                now[self._next] = _Track(self._next, carried)
                self._next += 1
        self._tracks = list(now.values())

    def _flow(self, pixels: Pixels, scale: float) -> bool:
        """Move the boxes by optical flow and drop the lost ones; True when one of them was known."""
        import cv2

        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        before, self._before, self._scale = self._before, gray, scale
        if before is None or not self._tracks:
            return False
        kept, lost = [], False
        for track, box in zip(
            self._tracks, self._between(before, gray, [track.box for track in self._tracks]), strict=True
        ):
            if box is not None:
                kept.append(dataclasses.replace(track, box=box))
            else:
                lost |= track.found > 1
        self._tracks = kept
        return lost

    def _between(self, before: Any, gray: Any, boxes: list[Box]) -> list[Box | None]:
        """Boxes of one frame in another; None for those that are lost or not in the frame any more."""
        if not boxes:
            return []
        points = np.concatenate([_grid(box, self._scale) for box in boxes])
        window, corner = _around(points, gray.shape)
        before, gray = _in_one_light(before[window], gray[window])
        starts = points - corner
        ends, there = _flow(before, gray, starts)
        back, again = _flow(gray, before, ends)
        good = there & again & (np.abs(back - starts).max(axis=1) <= BACK)
        ends += corner
        carried = []
        for at, box in enumerate(boxes):
            part = slice(at * GRID * GRID, (at + 1) * GRID * GRID)
            to = moved(box, points[part][good[part]] / self._scale, ends[part][good[part]] / self._scale)
            carried.append(to if to is not None and _inside(to, self._shape) else None)
        return carried

    def _moved(self) -> bool:
        """Whether the picture changed much; see the top of this file."""
        then = self._cells_before if self._tracks else self._cells_then
        if self._cells is None or then is None:
            return False
        changed = np.abs(self._cells - then) > CHANGED
        height, width = self._shape[:2]
        for track in self._tracks:
            box = track.box
            rows = _span(box.top / height, box.height / height)
            changed[rows, _span(box.left / width, box.width / width)] = False
        return bool(changed.mean() >= (CUT if self._tracks else MUCH))


def moved(box: Box, starts: Points, ends: Points) -> Box | None:
    """A box after its points moved; None when too few of them are left to say.

    Args:
        box: in pixels.
        starts: float32 (points, 2), x and y, of those points that were followed surely.
        ends: where they are now.
    """
    if len(starts) < ENOUGH * GRID * GRID:
        return None
    shift = np.median(ends - starts, axis=0)
    half = len(starts) // 2
    one, other = starts[:half] - starts[half : 2 * half], ends[:half] - ends[half : 2 * half]
    apart = np.linalg.norm(one, axis=1)
    far = apart > 1
    growth = float(np.median(np.linalg.norm(other[far], axis=1) / apart[far])) if far.any() else 1.0
    growth = min(MAX_SCALE, max(1 / MAX_SCALE, growth))
    x, y = box.left + box.width / 2 + float(shift[0]), box.top + box.height / 2 + float(shift[1])
    width, height = box.width * growth, box.height * growth
    return Box(x - width / 2, y - height / 2, width, height, box.score)


def _grid(box: Box, scale: float) -> Points:
    shares = (1 - INNER) / 2 + INNER * (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(box.left + shares * box.width, box.top + shares * box.height)
    return (np.stack([x.ravel(), y.ravel()], axis=1) * scale).astype(np.float32)


def _around(points: Points, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], Points]:
    """The part of a picture in which these points may be in the next one, and its left upper corner."""
    size = np.array(shape[1::-1])
    low = np.clip(points.min(axis=0).astype(int) - REACH, 0, size - 1)
    high = np.clip(points.max(axis=0).astype(int) + REACH + 1, low + 1, size)
    return (slice(low[1], high[1]), slice(low[0], high[0])), low.astype(np.float32)


def _in_one_light(one: Any, other: Any) -> tuple[Any, Any]:
    """Two gray pictures of the same mean, the brighter one made darker: flow takes brightness for a mark of a point."""
    import cv2

    means = [max(1.0, cv2.mean(picture)[0]) for picture in (one, other)]
    share = means[1] / means[0]
    if share < 1 - LIGHT:
        one = cv2.convertScaleAbs(one, alpha=share)
    elif share > 1 + LIGHT:
        other = cv2.convertScaleAbs(other, alpha=1 / share)
    return one, other


def _flow(before: Any, now: Any, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where points of one gray picture are in another, and whether they were found there."""
    import cv2

    nowhere: Any = None
    ends, there, _ = cv2.calcOpticalFlowPyrLK(
        before, now, points, nowhere, winSize=(15, 15), maxLevel=3, criteria=SETTLED
    )
    return np.asarray(ends, dtype=np.float32), there.ravel().astype(bool)


def _span(start: float, length: float) -> slice:
    """The cells of a stretch, given as shares of the frame."""
    return slice(max(0, int(start * CELLS)), max(0, int((start + length) * CELLS) + 1))


def _inside(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether the middle of a box is in the frame."""
    x, y = box.left + box.width / 2, box.top + box.height / 2
    return 0 <= x < shape[1] and 0 <= y < shape[0]


def _cells(pixels: Pixels) -> NDArray[np.int16]:
    """A gray value for each of CELLS x CELLS places, int16."""
    rows = (np.arange(CELLS) + 0.5) / CELLS * pixels.shape[0]
    columns = (np.arange(CELLS) + 0.5) / CELLS * pixels.shape[1]
    return pixels[np.ix_(rows.astype(int), columns.astype(int))][..., 1].astype(np.int16)
