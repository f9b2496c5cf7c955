"""How long models take beside one another, before any of them is worth a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.export import FORMATS
from edgewise.export.base import ExportSpec
from edgewise.measure import latency

if TYPE_CHECKING:
    from edgewise.device import Pixels
    from edgewise.models import Model

FORMAT = "onnx"
SECONDS = 0.5
LEAST_RUNS = 32
SESSIONS = 3
"""So many sessions are held at most until one passes its A/A check; the last counts where none does."""


def speeds(models: Sequence[Model], images: Pixels, *, threads: int = 1, seed: int = 0) -> list[float]:
    """The time of each model's fp32 ONNX file as a ratio to that of the first, taken in one interleaved session.

    Args:
        models: of one input; the first is the reference.
        images: real ones, uint8 (N, height, width, channels).
        threads: of onnxruntime.
        seed: of the order and the images.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-speed-") as name:
        subjects = []
        for number, model in enumerate(models):
            path = Path(name) / f"{number}{FORMATS[FORMAT].suffix}"
            FORMATS[FORMAT].write(model, ExportSpec("fp32", Path(name) / f"work-{number}"), path)
            subjects.append(latency.Subject(str(number), path, FORMAT))
        for session in range(SESSIONS):
            timed = latency.measure(
                subjects,
                images,
                reference=subjects[0].name,
                spec=models[0].input,
                threads=threads,
                seconds=SECONDS,
                seed=seed + session,
                min_runs=LEAST_RUNS,
            )
            if timed[subjects[0].name].comparable:
                break
    found = [timed[subject.name].ratio for subject in subjects[1:]]
    return [1.0, *(one.value if one is not None else 1.0 for one in found)]
