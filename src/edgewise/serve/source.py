"""The live source of a server: the loop of `edgewise live` with the first bundle's rule."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

from edgewise.device import Pixels
from edgewise.live.base import Source, View
from edgewise.live.decide import Decider, steady
from edgewise.live.detect import open_detector
from edgewise.live.loop import LoopOptions, run
from edgewise.live.sources import open_source
from edgewise.live.wanted import frame_rate, parse_wanted
from edgewise.serve.answers import Opened

PICTURES_A_SECOND = 1.0
"""Of a source that says no rate: a folder of pictures."""

SILENCE_S = 0.5


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line; see `edgewise live --help`."""

    source: str
    detector: str = "none"
    every: int = 10
    detector_width: int = 320
    smooth: int = 1
    camera: str = "640x480@30"


@dataclass(frozen=True)
class Looking:
    """An opened source: its name, which hides what the user's words may hold (the password of a network camera), and
    the loop, which runs when it is iterated and gives the source back when it is closed."""

    name: str
    views: Generator[View]


def open_views(asked: Asked, opened: Opened) -> Looking:
    """Open source and detector.

    Raises:
        ConfigError, UnavailableError, DataError, UntrustedError: as `open_source` and `open_detector` say.
    """
    wanted = parse_wanted(asked.camera)
    detector = open_detector(asked.detector, asked.detector_width)
    source = _paced(open_source(asked.source, wanted))
    views = run(
        source,
        opened.classifier,
        detector,
        LoopOptions(every=asked.every, smooth=asked.smooth, silence_s=SILENCE_S),
        decide=Decider(opened.manifest.labels, steady(opened.manifest, frames=asked.smooth)),
        reopen=lambda: _paced(open_source(asked.source, wanted)),
    )
    return Looking(source.name, views)


def _paced(source: Source) -> Source:
    """A file as a camera would show it: at its own rate, instead of as fast as it can be read."""
    return source if source.live else _Paced(source, 1.0 / (frame_rate(source) or PICTURES_A_SECOND))


class _Paced:
    """A source that hands on no frame before its time."""

    live = False

    def __init__(self, source: Source, step_s: float) -> None:
        self.name = source.name
        self._source, self._step_s = source, step_s
        self._next = 0.0

    def read(self) -> Pixels | None:
        pixels = self._source.read()
        now = time.perf_counter()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._step_s
        return pixels

    def close(self) -> None:
        self._source.close()
