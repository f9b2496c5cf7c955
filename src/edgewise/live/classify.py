"""A bundle as the live loop uses it: crops in, probabilities out, all crops of a frame in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import InputSpec, Manifest, read_manifest, temperature_of
from edgewise.device import RUNTIMES, Pixels, Session
from edgewise.device.check import check_bundle
from edgewise.device.preprocess import prepare, softmax
from edgewise.live.base import Box


@dataclass(frozen=True)
class Classifier:
    """A verified bundle, loaded. `facts` are those of `edgewise.device.check.check_bundle`."""

    manifest: Manifest
    labels: tuple[str, ...]
    session: Session
    temperature: float
    facts: dict[str, Any]

    @property
    def spec(self) -> InputSpec:
        """The picture that the model takes."""
        return self.manifest.input

    def crops(self, pixels: Pixels, boxes: list[Box]) -> Pixels:
        """The pixels of these boxes, one at least, as the model sees them, uint8 (N, height, width, channels).

        A box is rounded to whole pixels and cut off at the edges of the frame; what is in it goes through the one
        preprocessing, as a picture file of the same pixels would.
        """
        arguments = self.spec.preprocessing()
        crops = [prepare(cut(pixels, box), **arguments) for box in boxes]
        batch: Pixels = crops[0][np.newaxis] if len(crops) == 1 else np.stack(crops)
        return batch

    def probabilities(self, batch: Pixels) -> NDArray[np.float32]:
        """float32 (N, classes) in the order of `labels`, after the bundle's temperature."""
        found: NDArray[np.float32] = softmax(self.session.scores(batch), self.temperature)
        return found


def open_classifier(folder: Path, threads: int = 1) -> Classifier:
    """Verify a bundle, as `edgewise verify` does, and load it.

    Args:
        folder: of the bundle.
        threads: of its runtime.

    Raises:
        UntrustedError: it is not as it was written, or its model does not answer as it should.
        UnavailableError: its runtime is not installed here.
    """
    facts = check_bundle(folder)  # reads and hashes every file: once is enough on a slow card
    manifest = read_manifest(folder)
    return Classifier(
        manifest=manifest,
        labels=tuple(manifest.labels),
        session=RUNTIMES[manifest.format].load(folder / manifest.model_file, threads),
        temperature=temperature_of(manifest) or 1.0,
        facts=facts,
    )


def cut(pixels: Pixels, box: Box) -> Pixels:
    """The part of a frame in a box, at least one pixel; shares the frame's memory where that is possible."""
    height, width = pixels.shape[:2]
    left = min(max(0, round(box.left)), width - 1)
    top = min(max(0, round(box.top)), height - 1)
    right = min(max(left + 1, round(box.left + box.width)), width)
    bottom = min(max(top + 1, round(box.top + box.height)), height)
    return pixels[top:bottom, left:right]


def whole(pixels: Pixels) -> Box:
    """The box of a whole frame."""
    return Box(0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))
