"""Parity says no when it should."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.errors import ExportError
from edgewise.export.verify import FLOAT_TOLERANCE, parity

SCORES = np.random.default_rng(0).normal(0, 3, (300, 5)).astype(np.float32)


def test_equal_scores_pass() -> None:
    checked = parity(SCORES, SCORES.copy(), "fp32")
    assert (checked.n, checked.max_abs_logit_delta, checked.top1_agreement, checked.passed) == (300, 0.0, 1.0, True)


def test_one_logit_beyond_the_tolerance_fails_fp32_and_not_int8() -> None:
    off = SCORES.copy()
    off[7, SCORES[7].argmin()] -= 2 * FLOAT_TOLERANCE
    assert not parity(SCORES, off, "fp32").passed
    assert parity(SCORES, off, "int8").passed
    assert parity(SCORES, off, "int8").max_abs_logit_delta == pytest.approx(2 * FLOAT_TOLERANCE, rel=1e-2)


def test_one_changed_decision_fails_fp32_however_small() -> None:
    near, far = np.array([[1.0, 1.0001]], np.float32), np.array([[1.0001, 1.0]], np.float32)
    checked = parity(near, far, "fp32")
    assert checked.max_abs_logit_delta < FLOAT_TOLERANCE
    assert checked.top1_agreement == 0.0
    assert not checked.passed


def test_another_shape_or_a_value_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ExportError, match="in another shape"):
        parity(SCORES, SCORES[:, :4], "fp32")
    broken = SCORES.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ExportError, match=r"not finite[\s\S]*images: 1 of 300"):
        parity(SCORES, broken, "int8")
