"""The distillation loss against a formula written out by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.train.losses import Batch, DistillationLoss, cross_entropy


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def batch(labels: list[int], rows: list[int]) -> Batch:
    return Batch(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), torch.tensor(rows))


@given(st.floats(0, 1), st.floats(0.5, 20), st.integers(0, 2**31))
def test_it_is_hintons_formula(alpha: float, tau: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    teacher, student = random.normal(0, 3, (6, 4)), random.normal(0, 3, (3, 4))
    labels, rows = [0, 3, 1], [5, 0, 2]
    loss = DistillationLoss(torch.from_numpy(teacher), alpha, tau)
    got = loss(torch.from_numpy(student), batch(labels, rows)).item()
    p, q = softmax(teacher[rows] / tau), softmax(student / tau)
    soft = tau**2 * (p * (np.log(p) - np.log(q))).sum(1).mean()
    hard = -np.log(softmax(student)[range(3), labels]).mean()
    assert got == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-9, abs=1e-9)
    assert loss.parts == pytest.approx({"hard": hard, "soft": soft}, rel=1e-9, abs=1e-9)


def test_the_parts_are_means_over_images_until_they_are_reset() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(5, 3), torch.randn(5, 3)
    whole, pieces = DistillationLoss(teacher, 0.5, 4), DistillationLoss(teacher, 0.5, 4)
    whole(student, batch([0, 1, 2, 0, 1], [0, 1, 2, 3, 4]))
    pieces(student[:2], batch([0, 1], [0, 1]))
    pieces(student[2:], batch([2, 0, 1], [2, 3, 4]))
    assert pieces.parts == pytest.approx(whole.parts, rel=1e-5)
    pieces.reset()
    assert pieces.parts == {"hard": 0.0, "soft": 0.0}


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = torch.randn(2, 3, requires_grad=True)
    student = torch.randn(2, 3, requires_grad=True)
    DistillationLoss(teacher, 1.0, 2.0)(student, batch([0, 1], [0, 1])).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_cross_entropy_is_torchs() -> None:
    logits = torch.randn(4, 3)
    assert cross_entropy(logits, batch([0, 1, 2, 0], [0, 1, 2, 3])) == torch.nn.CrossEntropyLoss()(
        logits, torch.tensor([0, 1, 2, 0])
    )
