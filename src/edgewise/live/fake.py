"""A camera that does what none can be made to do: it stalls, freezes, goes black, is unplugged and comes back.

It lets the loop be tested, and a page that shows it, without a camera; see `edgewise.device.fake` for the runtime.

>>> source = FakeSource((Act("moving", 3), Act("lost"), Act("moving", 2)))
>>> source.read().shape
(48, 64, 3)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgewise.device import Pixels
from edgewise.errors import UnavailableError
from edgewise.live.pixels import to_rgb

Kind = Literal["moving", "frozen", "black", "stall", "lost", "absent", "yuv", "gray"]


@dataclass(frozen=True)
class Act:
    """What the camera does next.

    `moving`, `frozen`, `black`, `gray` (one channel) and `yuv` (raw YUYV, which is refused) give `frames` frames.
    `stall` gives nothing for `seconds`. `lost` ends the stream once: it must be opened again; `absent` refuses that
    `frames` times.
    """

    kind: Kind
    frames: int = 1
    seconds: float = 0.0


class FakeSource:
    """Plays acts at `fps` frames a second (0: at once), then ends; see `edgewise.live.base.Source`.

    `reopen` gives the same camera after it was lost, with the acts that are left.
    """

    def __init__(
        self, acts: Iterable[Act], fps: float = 0.0, size: tuple[int, int] = (64, 48), live: bool = True
    ) -> None:
        self.name = "fake"
        self.live = live
        self.fps = fps or None
        self.closed = False
        self.opened = 1
        self._acts = deque(acts)
        self._left = self._acts[0].frames if self._acts else 0
        self._size = size[1], size[0]
        self._number = 0
        self._pause = threading.Event()

    def read(self) -> Pixels | None:
        """What the act at hand says.

        Raises:
            UnavailableError: L05 lost; L08 another pixel format.
        """
        if self.closed or not self._acts:
            return None
        act = self._acts[0]
        if act.kind == "stall":
            self._pause.wait(act.seconds)
            self._next()
            return self.read()
        if act.kind in ("lost", "absent"):
            if act.kind == "lost":
                self._next()
            raise UnavailableError("fake is lost", code="L05", why="unplugged")
        if self.fps:
            time.sleep(1 / self.fps)
        self._left -= 1
        if self._left <= 0:
            self._next()
        self._number += 1
        return self._picture(act.kind)

    def close(self) -> None:
        """Give it back."""
        self.closed = True
        self._pause.set()

    def reopen(self) -> FakeSource:
        """Open the camera again.

        Raises:
            UnavailableError: L02, while the act at hand is `absent`.
        """
        self.opened += 1
        if self._acts and self._acts[0].kind == "absent":
            self._left -= 1
            if self._left <= 0:
                self._next()
            raise UnavailableError("no camera fake", code="L02", why="cameras here: none")
        self.closed = False
        self._pause = threading.Event()
        return self

    def _next(self) -> None:
        self._acts.popleft()
        self._left = self._acts[0].frames if self._acts else 0

    def _picture(self, kind: Kind) -> Pixels:
        height, width = self._size
        if kind == "black":
            return np.zeros((height, width, 3), np.uint8)
        seed = 0 if kind == "frozen" else self._number
        picture = np.random.default_rng(seed).integers(40, 220, (height, width, 3), np.uint8)
        if kind == "gray":
            return to_rgb(picture[..., 0], self.name, "RGB")
        return to_rgb(picture[..., :2], self.name, "RGB") if kind == "yuv" else picture
