"""Parity: is the written file the model it came from?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgewise.errors import ExportError
from edgewise.results import Parity

if TYPE_CHECKING:
    from edgewise.device import Scores


@dataclass(frozen=True)
class Limit:
    """What a file's logits must keep to against torch on the same images; None where it is not judged by that.

    absolute: largest |difference of a logit|. relative: the same as a share of the largest |logit| of torch.
    agreement: least share of equal top-1 decisions.
    """

    absolute: float | None
    relative: float | None
    agreement: float

    def tolerance(self, expected: Scores) -> float | None:
        """The largest |difference of a logit| allowed beside these scores of torch."""
        if self.absolute is not None:
            return self.absolute
        return None if self.relative is None else self.relative * float(np.abs(expected).max())


FLOAT_TOLERANCE = 1e-3

LIMITS: dict[str, Limit] = {
    "fp32": Limit(absolute=FLOAT_TOLERANCE, relative=None, agreement=1.0),
    "fp16": Limit(absolute=None, relative=0.02, agreement=0.99),
    "int8": Limit(absolute=None, relative=None, agreement=0.0),
}
"""Precision -> its limit, the same for all formats. Eleven bits of fp16 are a relative 5e-4 for each weight, which a
deep net adds up. int8 is judged by what it costs on validation images: `export.int8_max_drop`."""


def parity(expected: Scores, got: Scores, precision: str) -> Parity:
    """Compare the scores of a file with those of its torch model on the same images.

    It passes when it keeps to the limit of its precision in `LIMITS`. An int8 file passes here; what it costs in
    accuracy is measured and judged elsewhere.

    Args:
        expected: float32 (N, classes) from torch.
        got: float32 (N, classes) from the file in its own runtime.
        precision: a key of `LIMITS`.

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
    limit = LIMITS[precision]
    tolerance = limit.tolerance(expected)
    passed = (tolerance is None or delta < tolerance) and agreement >= limit.agreement
    return Parity(len(expected), delta, agreement, tolerance, passed)
