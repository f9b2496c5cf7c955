"""Losses against torch, scikit-learn, torchvision and formulas written out by hand in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torchvision.ops import sigmoid_focal_loss

from edgewise.recipe import LossOptions
from edgewise.train.losses import Batch, DistillationLoss, Loss, cross_entropy, make_loss, soft_f1

TRAIN = np.repeat([0, 1, 2, 3], [40, 20, 10, 10])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def batch(labels: list[int], rows: list[int], targets: torch.Tensor | None = None) -> Batch:
    return Batch(torch.zeros(len(labels), 1, 2, 2), torch.tensor(labels), torch.tensor(rows), targets)


def random_batch(seed: int, *, soft: bool, count: int = 9, classes: int = 4) -> tuple[torch.Tensor, Batch, np.ndarray]:
    """Logits, a batch, and its targets as float64 (count, classes)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    targets = random.dirichlet([0.5] * classes, count) if soft else np.eye(classes)[labels]
    given_targets = torch.from_numpy(targets) if soft else None
    logits = torch.from_numpy(random.normal(0, 2, (count, classes)))
    return logits, batch(labels.tolist(), list(range(count)), given_targets), targets


def loss_of(**options: Any) -> Loss:
    return make_loss(LossOptions(**options), TRAIN, 4)


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


def test_soft_targets_of_one_class_are_its_label() -> None:
    for options in ({}, {"name": "focal"}, {"name": "f1"}, {"name": "ce+f1"}, {"smoothing": 0.1}):
        for weights in ("none", "balanced") if options.get("name") != "f1" else ("none",):
            logits, hard, targets = random_batch(3, soft=False)
            same = batch(hard.labels.tolist(), hard.rows.tolist(), torch.from_numpy(targets))
            loss = loss_of(**options, class_weights=weights)
            assert loss(logits, hard).item() == pytest.approx(loss(logits, same).item(), rel=1e-6), options


@given(st.integers(0, 2**31), st.floats(0, 0.9), st.booleans(), st.booleans())
def test_cross_entropy_is_torchs_smoothed_and_weighted(seed: int, smoothing: float, soft: bool, balanced: bool) -> None:
    logits, one, targets = random_batch(seed, soft=soft)
    got = loss_of(smoothing=smoothing, class_weights="balanced" if balanced else "none")(logits, one).item()
    weights = np.array([0.5, 1.0, 2.0, 2.0]) if balanced else np.ones(4)  # 80 / (4 * 40), ...
    smoothed = (1 - smoothing) * targets + smoothing / 4
    by_hand = -(smoothed * weights * np.log(softmax(logits.numpy()))).sum() / (targets * weights).sum()
    assert got == pytest.approx(by_hand, rel=1e-6)
    if not soft:
        torchs = F.cross_entropy(logits, one.labels, torch.from_numpy(weights), label_smoothing=smoothing)
        assert got == pytest.approx(torchs.item(), rel=1e-6)
    elif not balanced:
        torchs = F.cross_entropy(logits, torch.from_numpy(targets), label_smoothing=smoothing)
        assert got == pytest.approx(torchs.item(), rel=1e-6)


@given(st.integers(0, 2**31), st.floats(0, 5), st.booleans())
def test_focal_is_lins_formula(seed: int, gamma: float, soft: bool) -> None:
    logits, one, targets = random_batch(seed, soft=soft)
    p = softmax(logits.numpy())
    by_hand = -(targets * (1 - p) ** gamma * np.log(p)).sum(1).mean()
    assert loss_of(name="focal", gamma=gamma)(logits, one).item() == pytest.approx(by_hand, rel=1e-6)


@given(st.integers(0, 2**31), st.floats(0, 4))
def test_focal_for_two_classes_is_torchvisions(seed: int, gamma: float) -> None:
    """Softmax over (0, x) is the sigmoid of x."""
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 2, 8))
    labels = np.arange(8) % 2
    loss = make_loss(LossOptions(name="focal", gamma=gamma), labels, 2)
    got = loss(torch.stack([torch.zeros_like(x), x], 1), batch(labels.tolist(), list(range(8))))
    theirs = sigmoid_focal_loss(x, torch.from_numpy(labels).double(), alpha=-1, gamma=gamma, reduction="mean")
    assert got.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_focal_turns_from_easy_images_to_hard_ones() -> None:
    logits = torch.tensor([[4.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    shares = []
    for gamma in (0.0, 1.0, 2.0, 5.0):
        (slope,) = torch.autograd.grad(
            make_loss(LossOptions(name="focal", gamma=gamma), np.array([0, 1]), 2)(logits, batch([0, 0], [0, 1])),
            logits,
        )
        easy, hard = slope.abs().sum(1).tolist()
        shares.append(easy / (easy + hard))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 10 * shares[-1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_for_certain_answers_soft_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = (list(values) for values in zip(*pairs, strict=True))
    logits = torch.eye(4, dtype=torch.float64)[predicted] * 1000
    expected = f1_score(labels, predicted, labels=sorted(set(labels)), average="macro", zero_division=0)
    assert 1 - soft_f1(logits, batch(labels, list(range(len(labels))))).item() == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**31))
def test_soft_f1_of_probabilities_and_shares_is_the_hand_formula(seed: int) -> None:
    logits, one, targets = random_batch(seed, soft=True)
    p = softmax(logits.numpy())
    each = [2 * (p[:, c] @ targets[:, c]) / (p[:, c].sum() + targets[:, c].sum()) for c in range(4)]
    assert soft_f1(logits, one).item() == pytest.approx(1 - np.mean(each), rel=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_mix_is_its_parts_and_they_can_be_read(weight: float) -> None:
    loss: Any = loss_of(name="ce+f1", f1_weight=weight, smoothing=0.1, class_weights="balanced")
    entropy = loss_of(smoothing=0.1, class_weights="balanced")
    seen = []
    for seed, count in ((0, 4), (1, 8)):
        logits, one, _ = random_batch(seed, soft=False, count=count)
        ce, f1 = entropy(logits, one).item(), soft_f1(logits, one).item()
        assert loss(logits, one).item() == pytest.approx((1 - weight) * ce + weight * f1, rel=1e-9)
        seen.append((ce, f1))
    means = {name: (4 * first + 8 * second) / 12 for name, first, second in zip(("ce", "f1"), *seen, strict=True)}
    assert loss.parts == pytest.approx(means, rel=1e-6)
    loss.reset()
    assert loss.parts == {"ce": 0.0, "f1": 0.0}


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "focal", "gamma": 0.5},
        {"name": "focal", "gamma": 2.0, "smoothing": 0.1, "class_weights": "balanced"},
        {"name": "f1"},
        {"name": "ce+f1", "smoothing": 0.1},
    ],
    ids=str,
)
def test_slopes_are_right(options: dict[str, Any], soft: bool) -> None:
    logits, one, _ = random_batch(5, soft=soft, count=6)
    loss = loss_of(**options)
    assert torch.autograd.gradcheck(lambda x: loss(x, one), logits.requires_grad_())


@pytest.mark.parametrize("name", ["ce", "focal", "f1", "ce+f1"])
@pytest.mark.parametrize("size", [0.0, 50.0, 1e4])
def test_slopes_stay_finite(name: str, size: float) -> None:
    """Even where a probability is exactly 0 or 1, for right and wrong answers, in float32."""
    logits = (torch.eye(4) * size).requires_grad_()
    for labels in ([0, 1, 2, 3], [1, 1, 1, 1]):
        value = loss_of(name=name, gamma=0.5)(logits, batch(labels, [0, 1, 2, 3]))
        (slope,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()


def test_f1_alone_takes_no_weights_and_no_smoothing() -> None:
    for options in ({"smoothing": 0.1}, {"class_weights": "balanced"}):
        with pytest.raises(ValueError, match="do not act on f1 alone"):
            LossOptions(name="f1", **options)


def test_a_teacher_that_is_asked_answers_as_one_whose_answers_are_kept() -> None:
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
    images = torch.randn(6, 3, 2, 2)
    kept = DistillationLoss(teacher(images), 0.7, 3.0)
    asked = DistillationLoss(teacher, 0.7, 3.0)
    rows = torch.tensor([4, 0, 5])
    one = Batch(images[rows], torch.tensor([1, 2, 3]), rows)
    slopes = []
    for loss in (kept, asked):
        logits = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
        loss(logits, one).backward()
        slopes.append(logits.grad)
    assert kept.parts == pytest.approx(asked.parts, rel=1e-5)
    assert torch.allclose(slopes[0], slopes[1], atol=1e-6)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_that_is_asked_sees_the_images_of_the_batch_in_inference_mode() -> None:
    seen: list[tuple[torch.Tensor, bool]] = []

    def teacher(images: torch.Tensor) -> torch.Tensor:
        seen.append((images, torch.is_inference_mode_enabled()))
        return images.sum((1, 2, 3))[:, None] * torch.arange(3.0)

    one = Batch(torch.randn(2, 1, 2, 2), torch.tensor([0, 1]), torch.tensor([0, 1]))
    DistillationLoss(teacher, 0.5, 4.0)(torch.randn(2, 3, requires_grad=True), one).backward()
    assert len(seen) == 1
    assert seen[0][0] is one.images
    assert seen[0][1]


def test_the_hard_part_of_distillation_takes_shares() -> None:
    logits, one, targets = random_batch(2, soft=True)
    loss = DistillationLoss(torch.zeros(9, 4, dtype=torch.float64), 0.5, 2.0)
    loss(logits, one)
    assert loss.parts["hard"] == pytest.approx(-(targets * np.log(softmax(logits.numpy()))).sum(1).mean(), rel=1e-6)
