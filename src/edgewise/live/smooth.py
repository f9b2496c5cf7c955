"""Results averaged over the last frames of each track."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]


class Smoother:
    """The mean of the last `frames` probabilities of each track; 1 changes nothing."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._kept: dict[int, deque[Probabilities]] = {}

    def smooth(self, found: Mapping[int, Probabilities]) -> dict[int, Probabilities]:
        """Take in what was found in a frame, float32 (classes,) of each track; other tracks are forgotten."""
        if self._frames == 1:
            return dict(found)
        self._kept = {track: self._kept.get(track) or deque(maxlen=self._frames) for track in found}
        for track, one in found.items():
            self._kept[track].append(one)
        return {track: np.mean(kept, axis=0, dtype=np.float32) for track, kept in self._kept.items()}

    def forget(self) -> None:
        """Start anew."""
        self._kept = {}
