"""What the page needs to check itself: pictures, the pixels made of them here, and the logits of our own runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.device.base import Pixels, Session
from edgewise.device.preprocess import prepare
from edgewise.errors import ExportError

SIDE = 256
"""Longest side of a check picture."""

TOLERANCE = 1e-3
"""Largest difference of logits at which a float model counts as the same."""


@dataclass(frozen=True)
class Case:
    """A picture (uint8, (h, w, 3)), its pixels as the model sees them (uint8, input shape), and their logits."""

    source: NDArray[np.uint8]
    pixels: Pixels
    logits: list[float]


def cases(spec: InputSpec, session: Session) -> list[Case]:
    """Noisy pictures of four shapes: shrunk, stretched, tall (where the order of the passes shows), and fitting.

    Seeded, so that the same bundle gives the same page.

    Raises:
        ExportError: X32, a logit is not finite.
    """
    random = np.random.default_rng(0)
    shapes = [
        (2 * spec.height + 1, spec.width * 3 // 2 + 1),
        (spec.height // 2 + 1, spec.width // 3 + 1),
        (3 * spec.height, spec.width + 3),
        (spec.height, spec.width),
    ]
    found = []
    for height, width in shapes:
        height, width = min(SIDE, height), min(SIDE, width)
        source = _picture(random, height, width)
        pixels = prepare(Image.fromarray(source), **spec.preprocessing())
        scores = session.scores(pixels[np.newaxis])[0]
        if not np.isfinite(scores).all():
            raise ExportError(
                "the model's answers are not finite",
                code="X32",
                where={"picture": f"{width} x {height}, noise"},
                fix="choose another precision or scheme",
            )
        found.append(Case(source, pixels, [float(value) for value in scores]))
    return found


def _picture(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Waves of colour with noise on them: edges for the filters, and not all one shade for the model."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(rows / height * random.uniform(3, 12) + columns / width * random.uniform(3, 12) + random.uniform(0, 6))
        for _ in range(3)
    ]
    picture = 127.5 + 90 * np.stack(waves, axis=-1) + random.normal(0, 40, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)
