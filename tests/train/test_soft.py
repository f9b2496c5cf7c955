"""Ways to compare a student's answers with a teacher's: formulas in numpy, identities, teachers, and trainings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.bundle import InputSpec
from edgewise.compress.base import Context
from edgewise.compress.distill import DistillOptions, distill
from edgewise.data import Dataset
from edgewise.errors import ConfigError
from edgewise.models import Model, create_model, save_model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit, logits, soft, teachers
from edgewise.train.feed import Pixels
from edgewise.train.losses import Batch, DistillationLoss
from edgewise.train.teachers import Panel, asking, watch_features

from .conftest import CLASSES, SPEC, make_dataset
from .test_losses import softmax

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, count: int = 7, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return *random.normal(0, 2, (2, count, classes)), random.integers(0, classes, count)


def value(way: soft.Soft, student: np.ndarray, teacher: np.ndarray, truth: np.ndarray) -> float:
    return way(torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(truth)).item()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(1).mean())


# ---------------------------------------------------------------------------------------------------- formulas


@given(SEEDS, st.floats(0.5, 10), st.floats(0, 10))
@settings(max_examples=30, deadline=None)
def test_dkd_is_zhaos_formula(seed: int, tau: float, beta: float) -> None:
    student, teacher, truth = drawn(seed)
    p, q = softmax(teacher / tau), softmax(student / tau)
    rows = np.arange(len(truth))

    def apart(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        own = x[rows, truth]
        rest = np.array([np.delete(row, label) for row, label in zip(x, truth, strict=True)])
        return np.stack([own, rest.sum(1)], 1), rest / rest.sum(1, keepdims=True)

    (b_t, r_t), (b_s, r_s) = apart(p), apart(q)
    by_hand = tau**2 * (divergence(b_t, b_s) + beta * divergence(r_t, r_s))
    got = value(partial(soft.decoupled, tau=tau, beta=beta), student, teacher, truth)
    assert got == pytest.approx(by_hand, rel=1e-8, abs=1e-10)


@given(SEEDS, st.floats(0.5, 10))
@settings(max_examples=30, deadline=None)
def test_hintons_way_is_the_two_parts_of_dkd_with_the_papers_weight(seed: int, tau: float) -> None:
    """KD = TCKD + (1 - p) NCKD, image by image."""
    student, teacher, truth = drawn(seed, count=1)
    rest = 1 - softmax(teacher / tau)[0, truth[0]]
    whole = value(partial(soft.hinton, tau=tau), student, teacher, truth)
    assert whole == pytest.approx(
        value(partial(soft.decoupled, tau=tau, beta=float(rest)), student, teacher, truth), rel=1e-7, abs=1e-10
    )


@given(SEEDS, st.floats(0.5, 10))
@settings(max_examples=30, deadline=None)
def test_dist_is_one_minus_pearsons_correlation_over_classes_and_over_images(seed: int, tau: float) -> None:
    student, teacher, truth = drawn(seed)
    p, q = softmax(student / tau), softmax(teacher / tau)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    got = value(partial(soft.relations, tau=tau), student, teacher, truth)
    assert got == pytest.approx(tau**2 * (inter + intra), rel=1e-6, abs=1e-7)


@given(SEEDS, st.floats(0.5, 10), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_standardised_logits_are_compared_by_their_z_scores(seed: int, tau: float, scale: float, shift: float) -> None:
    student, teacher, truth = drawn(seed)
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (student, teacher)]
    by_hand = tau**2 * divergence(softmax(z[1] / tau), softmax(z[0] / tau))
    way = soft.standardised(partial(soft.hinton, tau=tau))
    assert value(way, student, teacher, truth) == pytest.approx(by_hand, rel=1e-5, abs=1e-8)
    # A student that answers as the teacher, only on another scale, has nothing to learn.
    assert value(way, teacher * scale + shift, teacher, truth) == pytest.approx(0, abs=1e-9)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_similarity_is_tungs_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.normal(size=(6, 2, 3, 3)), random.normal(size=(6, 5))

    def normalised(x: np.ndarray) -> np.ndarray:
        gram = x.reshape(6, -1) @ x.reshape(6, -1).T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    by_hand = ((normalised(one) - normalised(other)) ** 2).sum() / 36
    got = soft.similarity(torch.from_numpy(one), torch.from_numpy(other)).item()
    assert got == pytest.approx(by_hand, rel=1e-9)
    assert soft.similarity(torch.from_numpy(one), torch.from_numpy(3 * one)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "way",
    [
        partial(soft.hinton, tau=4.0),
        partial(soft.decoupled, tau=4.0, beta=8.0),
        partial(soft.relations, tau=4.0),
        soft.standardised(partial(soft.decoupled, tau=4.0, beta=8.0)),
    ],
)
def test_each_way_pulls_a_student_to_its_teacher(way: soft.Soft) -> None:
    """The value is 0 at the teacher, and following the gradient from elsewhere leads to its decisions."""
    student, teacher, truth = (torch.from_numpy(x) for x in drawn(1, 20))
    assert way(teacher, teacher, truth).item() == pytest.approx(0, abs=1e-9)
    moved = student.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        way(moved, teacher, truth).backward()
        optimizer.step()
    assert way(moved, teacher, truth).item() < 0.02 * way(student, teacher, truth).item()
    assert (moved.argmax(1) == teacher.argmax(1)).float().mean() > 0.9


# ---------------------------------------------------------------------------------------------------- the loss


def test_the_features_part_is_added_and_logged() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher, features, theirs = (torch.randn(6, n, generator=random) for n in (3, 3, 4, 9))
    one = Batch(torch.zeros(6, 1, 2, 2), torch.tensor([0, 1, 2] * 2), torch.arange(6), features=features)
    plain = DistillationLoss(teacher, 0.5, 4)
    more = DistillationLoss(torch.cat([teacher, theirs], 1), 0.5, 4, None, 10.0)
    extra = soft.similarity(features, theirs).item()
    assert more(student, one).item() == pytest.approx(plain(student, one).item() + 10 * extra, rel=1e-6)
    assert more.parts == pytest.approx(plain.parts | {"similarity": extra}, rel=1e-6)
    assert not plain.wants_features


def test_mixed_images_count_for_the_class_of_the_larger_share() -> None:
    seen: list[torch.Tensor] = []

    def way(student: torch.Tensor, teacher: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        seen.append(truth)
        return (student - teacher).square().mean()

    targets = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]])
    one = Batch(torch.zeros(2, 1, 2, 2), torch.tensor([1, 1]), torch.arange(2), targets)
    DistillationLoss(torch.randn(2, 3), 0.5, 4, way)(torch.randn(2, 3), one)
    assert seen[0].tolist() == [0, 2]


# ---------------------------------------------------------------------------------------------------- teachers


def net(widths: str = "4, 8", labels: tuple[str, ...] = CLASSES, seed: int = 0, spec: InputSpec = SPEC) -> Model:
    return create_model(f"convnet({widths})", labels=labels, input=spec, seed=seed)


def test_a_panel_is_the_mean_of_the_logits_in_the_students_order_and_normalisation() -> None:
    student = net()
    turned = tuple(reversed(CLASSES))
    darker = replace(SPEC, mean=(0.2,), std=(0.25,))
    several = [net("8, 8", seed=1), net("6", turned, 2, darker)]
    images = make_dataset().test.images[:5]
    expected = (logits(several[0], images) + logits(several[1], images)[:, ::-1]) / 2
    panel = Panel(several, student, features=False).eval()
    with torch.no_grad():
        found = panel(Pixels(SPEC, torch.device("cpu"))(images))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "amx", "mixed"),
    [("convnet(8, 8)", True, True), ("convnet(8, 8)", False, False), ("dscnn(8, 8)", True, False)],
)
def test_dense_teachers_answer_in_bfloat16_where_that_is_fast(
    architecture: str, amx: bool, mixed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "has_fast_bf16", lambda: amx)
    teacher = create_model(architecture, labels=CLASSES, input=SPEC, seed=1)
    kinds: list[torch.dtype] = []
    panel = Panel([teacher], net(), features=False)
    panel.nets[0].get_submodule("block1.conv").register_forward_hook(lambda *seen: kinds.append(seen[2].dtype))
    images = torch.randn(5, 1, 12, 12)
    with torch.inference_mode():
        answers = asking(panel, mixed=True)(images)
    assert answers.dtype == torch.float32
    assert kinds == [torch.bfloat16 if mixed else torch.float32]
    expected = torch.from_numpy(teacher.module(images).detach().numpy())
    torch.testing.assert_close(answers, expected, atol=0.05 if mixed else 1e-6, rtol=0)


def test_the_features_of_the_first_teacher_stand_behind_the_logits() -> None:
    teacher, student = net("4, 6", seed=1), net()
    panel = Panel([teacher, net(seed=2)], student, features=True).eval()
    images = torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        answers = panel(images)
        maps: Any = teacher.module.block2(teacher.module.block1(images))  # type: ignore[operator]
    torch.testing.assert_close(answers[:, 3:], maps.mean((2, 3)))
    seen = watch_features(teacher.module)
    teacher.module(images)
    assert seen[0].shape == (3, 6)


@pytest.mark.parametrize(
    ("teacher", "code"),
    [
        (net(labels=("a", "b", "c")), "C87"),
        (net(spec=InputSpec(16, 16, 1, mean=(0.5,), std=(0.5,))), "C88"),
        (net(spec=InputSpec(12, 12, 3)), "C88"),
    ],
)
def test_teachers_of_something_else_are_refused(teacher: Model, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Panel([teacher], net(), features=False)
    assert caught.value.code == code


@pytest.fixture
def context(tmp_path: Path) -> Context:
    dataset: Dataset = make_dataset()
    options = TrainOptions(epochs=3, batch_size=16, lr=0.01, threads=1)

    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        fitted = fit(model, dataset, Setup(options, 0, tmp_path / "work", epochs=epochs, loss=loss))
        records.append(fitted.history[-1])
        return fitted.model

    records: list[dict[str, Any]] = []
    said: list[str] = []
    made = Context(dataset, train, train, net("8, 16", seed=5), seed=0, say=said.append)
    object.__setattr__(made, "records", records)
    object.__setattr__(made, "said", said)
    return made


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("options", [{"loss": "dkd"}, {"loss": "dist"}, {"standardize": True}, {"similarity": 50.0}])
def test_each_loss_trains_and_its_parts_are_logged(context: Context, options: Any, augmented: bool) -> None:
    given_context = replace(context, augmented=augmented)
    distill(net(), DistillOptions(epochs=2, **options), given_context)
    (record,) = context.records  # type: ignore[attr-defined]
    parts = {name for name in record if name.startswith("loss_")}
    assert parts == {"loss_hard", "loss_soft"} | ({"loss_similarity"} if "similarity" in options else set())
    assert all(np.isfinite(record[name]) for name in parts)


def test_self_teaches_a_fresh_net_of_its_own_structure(context: Context) -> None:
    model = net("4, 8", seed=3)
    made = distill(model, DistillOptions(teacher="self", alpha=1.0, epochs=1), context)
    assert made.architecture == model.architecture
    assert not torch.equal(made.module.block1.conv.weight, model.module.block1.conv.weight)  # type: ignore[union-attr]


def test_a_model_folder_teaches(context: Context, tmp_path: Path) -> None:
    """Its answers are those that are kept: with all the weight on them the loss starts at the distance to them."""
    save_model(context.teacher, tmp_path / "kept")
    losses: list[Any] = []

    def keep(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        losses.append(loss)
        return model

    listening = replace(context, finetune=keep)
    for teacher in ("base", str(tmp_path / "kept"), ("base", str(tmp_path / "kept"))):
        distill(net(), DistillOptions(teacher=teacher), listening)
    one = Batch(torch.zeros(4, 1, 12, 12), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    values = [loss(torch.ones(4, 3), one).item() for loss in losses]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


def test_a_named_teacher_is_trained_first_and_that_is_said(context: Context) -> None:
    distill(net(), DistillOptions(teacher="convnet(6, 6)", epochs=1), context)
    assert context.said == ["training the teacher convnet(6, 6) first"]  # type: ignore[attr-defined]
    assert [record["epoch"] for record in context.records] == [3, 1]  # type: ignore[attr-defined]


def test_a_teacher_that_is_not_there_is_told(context: Context) -> None:
    with pytest.raises(ConfigError, match="there is no such teacher") as caught:
        distill(net(), DistillOptions(teacher="runs/nowhere"), context)
    assert caught.value.code == "C89"


@pytest.mark.parametrize(
    "options", [{"loss": "dist", "standardize": True}, {"teacher": ()}, {"loss": "l2"}, {"beta": -1}]
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        DistillOptions(**options)
