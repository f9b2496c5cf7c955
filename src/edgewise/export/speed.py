"""How long models take beside one another, before any of them is worth a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise.export import FORMATS
from edgewise.export.base import ExportSpec
from edgewise.measure import latency
from edgewise.results import Latency

if TYPE_CHECKING:
    from edgewise.device import Pixels
    from edgewise.models import Model

FORMAT = "onnx"
SECONDS = 0.5
LEAST_RUNS = 32


def speeds(
    models: Sequence[Model], images: Pixels, *, threads: int = 1, seed: int = 0, say: Callable[[str], None]
) -> list[float]:
    """The time of each model's fp32 ONNX file as a ratio to that of the first, taken in one interleaved session.

    Args:
        models: of one input; the first is the reference.
        images: real ones, uint8 (N, height, width, channels).
        threads: of onnxruntime.
        seed: of the order and the images.
        say: is told when every session was disturbed.
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-speed-") as name:
        subjects = []
        for number, model in enumerate(models):
            path = Path(name) / f"{number}{FORMATS[FORMAT].suffix}"
            FORMATS[FORMAT].write(model, ExportSpec("fp32", Path(name) / f"work-{number}"), path)
            subjects.append(latency.Subject(str(number), path, FORMAT))

        def session(number: int) -> dict[str, Latency]:
            return latency.measure(
                subjects,
                images,
                reference=subjects[0].name,
                spec=models[0].input,
                threads=threads,
                seconds=SECONDS,
                seed=seed + number,
                min_runs=LEAST_RUNS,
            )

        timed, passed = latency.until_comparable(session, subjects[0].name)
    if not passed:
        say("the timing of these nets was disturbed in every session: the ratios are rough")
    ratios = [timed[subject.name].ratio for subject in subjects[1:]]
    return [1.0, *(one.value for one in ratios if one is not None)]
