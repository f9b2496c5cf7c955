"""Parity says no when it should."""

from __future__ import annotations

import numpy as np
import pytest

from edgewise.errors import ExportError
from edgewise.export import FORMATS
from edgewise.export.verify import FLOAT_TOLERANCE, LIMITS, parity

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


def test_halves_may_differ_by_a_share_of_the_largest_logit() -> None:
    limit = LIMITS["fp16"]
    assert limit.relative is not None
    top = np.abs(SCORES).max()
    near, far = SCORES.copy(), SCORES.copy()
    near[3, SCORES[3].argmin()] -= 0.9 * limit.relative * top
    far[3, SCORES[3].argmin()] -= 1.1 * limit.relative * top
    assert parity(SCORES, near, "fp16").passed
    assert not parity(SCORES, far, "fp16").passed


def test_halves_may_change_one_decision_in_a_hundred() -> None:
    near = np.tile(np.array([[5.0, 5.001]], np.float32), (300, 1))
    for changed, passed in ((3, True), (4, False)):
        got = near.copy()
        got[:changed] = got[:changed, ::-1]
        assert parity(near, got, "fp16").passed is passed


def test_every_precision_of_every_format_has_a_limit() -> None:
    assert {precision for exporter in FORMATS.values() for precision in exporter.precisions} <= set(LIMITS)
