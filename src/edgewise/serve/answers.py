"""Bundles that are opened to be asked, and what each of them says of a picture.

The pixels are those of `edgewise.device.preprocess`, the confidences those of `edgewise.live.classify`, the threshold
that of the manifest: the same decision, and the same numbers to the bit, as anywhere else in edgewise.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import Manifest, model_bytes, temperature_of, threshold_of
from edgewise.device.preprocess import FORMATS, BadImage, open_image, prepare
from edgewise.errors import ConfigError
from edgewise.live.classify import Classifier, open_classifier
from edgewise.serve.limits import Limits
from edgewise.serve.refusals import no_picture, too_large

MOST_BUNDLES = 2
TOP = 5


@dataclass(frozen=True)
class Opened:
    """A bundle that is served.

    `title` is its name, told apart from another of the same name; `unknown` is the confidence below which it names no
    label, None where it has none.
    """

    title: str
    folder: Path
    classifier: Classifier
    unknown: float | None

    @property
    def manifest(self) -> Manifest:
        """As it was verified."""
        return self.classifier.manifest

    def facts(self) -> dict[str, Any]:
        """What `GET /v1/model` says of it."""
        manifest = self.manifest
        return {
            "name": self.title,
            "format": manifest.format,
            "precision": manifest.precision,
            "scheme": manifest.scheme,
            "labels": manifest.labels,
            "input": manifest.input.preprocessing(),
            "temperature": temperature_of(manifest),
            "unknown_below": self.unknown,
            "model_bytes": model_bytes(self.folder, manifest),
            "runtime": self.classifier.session.describe(),
        }


@dataclass(frozen=True)
class Answer:
    """What a bundle says of one picture.

    `probabilities` are in the order of the labels; `best` is the position of the largest, of equals the first.
    `ms` are milliseconds of `prepare` (scaling to the model's input) and `classify` (the model).
    """

    probabilities: NDArray[np.float32]
    best: int
    confidence: float
    ms: dict[str, float]


def open_bundles(folders: Sequence[Path], threads: int) -> list[Opened]:
    """Verify and load bundles.

    Raises:
        ConfigError: V04, none or more than two.
        UntrustedError: a bundle is damaged, or its model does not answer as its manifest says.
        UnavailableError: its runtime is not installed.
    """
    if not 1 <= len(folders) <= MOST_BUNDLES:
        raise ConfigError(
            f"{len(folders)} bundles", code="V04", why="one is served, or two side by side", fix="give one or two"
        )
    opened: list[Opened] = []
    for folder in folders:
        classifier = open_classifier(folder, threads)
        manifest = classifier.manifest
        again = any(one.title == manifest.name for one in opened)
        title = f"{manifest.name} (2)" if again else manifest.name
        opened.append(Opened(title, folder, classifier, threshold_of(manifest)))
    return opened


def open_picture(data: bytes, limits: Limits) -> Image.Image:
    """Decode an uploaded picture, whose size is told from its header first.

    Raises:
        DataError: V10, more pixels than are taken; V13, not a picture, or damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError as problem:  # Pillow's own limit, far above this one
        raise too_large(str(problem), "scale it down first") from None
    except Exception:  # noqa: BLE001 - Pillow's parsers raise anything; open_image says what is wrong with the file
        width = height = 0
    if width * height > limits.pixels:
        raise too_large(f"{width} x {height} pixels, more than the {limits.pixels} allowed", "scale it down first")
    try:
        picture: Image.Image = open_image(io.BytesIO(data))
    except BadImage as problem:
        # Pillow names the object that it was given, which says nothing to somebody who sent a file.
        unknown = str(problem).startswith("cannot identify image file")
        raise no_picture("its content is of no known format" if unknown else str(problem)) from None
    return picture


def answer(opened: Opened, image: Any) -> Answer:
    """Classify a decoded picture: a `PIL.Image`, or uint8 (height, width, 3) RGB."""
    start = time.perf_counter()
    pixels = prepare(image, **opened.classifier.spec.preprocessing())
    ready = time.perf_counter()
    probabilities = opened.classifier.probabilities(pixels[np.newaxis])[0]
    done = time.perf_counter()
    best = int(np.argmax(probabilities))
    ms = {"prepare": (ready - start) * 1e3, "classify": (done - ready) * 1e3}
    return Answer(probabilities, best, float(probabilities[best]), ms)


def told(opened: Opened, said: Answer, threshold: float | None) -> dict[str, Any]:
    """An answer as JSON: `label` is None where the confidence is below `threshold` (None: the bundle's own)."""
    labels = opened.manifest.labels
    below = said.confidence < (threshold if threshold is not None else opened.unknown or 0.0)
    order = np.argsort(-said.probabilities, kind="stable")[:TOP]
    return {
        "bundle": opened.title,
        "label": None if below else labels[said.best],
        "best": labels[said.best],
        "confidence": said.confidence,
        "top": [{"label": labels[i], "confidence": float(said.probabilities[i])} for i in order],
        "ms": {stage: round(ms, 3) for stage, ms in said.ms.items()},
    }
