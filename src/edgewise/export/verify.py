"""Parity: is the written file the model it came from?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgewise.errors import ExportError
from edgewise.results import Parity

if TYPE_CHECKING:
    from edgewise.device import Scores

FLOAT_TOLERANCE = 1e-3
"""Largest |difference of a logit| of an fp32 file against torch."""


def parity(expected: Scores, got: Scores, precision: str) -> Parity:
    """Compare the scores of a file with those of its torch model on the same images.

    An fp32 file passes when every logit is within `FLOAT_TOLERANCE` and every top-1 decision is the same. An int8 file
    passes here; what it costs in accuracy is measured and judged elsewhere.

    Args:
        expected: float32 (N, classes) from torch.
        got: float32 (N, classes) from the file in its own runtime.
        precision: "fp32" or "int8".

    Raises:
        ExportError: the shapes differ, or a score of the file is not finite.
    """
    if expected.shape != got.shape:
        raise ExportError(
            "the file answers in another shape than its model",
            code="X03",
            why=f"{got.shape} instead of {expected.shape}",
            fix="report this with the model's name",
        )
    if not np.isfinite(got).all():
        raise ExportError(
            "the file answers with values that are not finite",
            code="X04",
            where={"images": f"{int((~np.isfinite(got)).any(axis=1).sum())} of {len(got)}"},
            fix="choose another precision or scheme",
        )
    delta = float(np.abs(expected - got).max())
    agreement = float((expected.argmax(1) == got.argmax(1)).mean())
    tolerance = FLOAT_TOLERANCE if precision == "fp32" else None
    passed = tolerance is None or (delta < tolerance and agreement == 1.0)
    return Parity(len(expected), delta, agreement, tolerance, passed)
