"""The contract of the techniques that change structure or training, and their chains on real digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.bundle import CENTER, InputSpec
from edgewise.compress import TECHNIQUES, Context, apply_plan, check_plan
from edgewise.data import Dataset, load_data
from edgewise.device.ort import OrtRuntime
from edgewise.errors import NoEffect
from edgewise.export.base import ExportSpec
from edgewise.export.onnx import OnnxExporter
from edgewise.models import Model, create_model, open_model, rebuild, save_model
from edgewise.models.cost import cost
from edgewise.recipe import DataOptions, TrainOptions, meanings
from edgewise.train import Setup, fit, logits

SPEC = InputSpec(16, 16, 1, mean=(CENTER,), std=(0.5,))
PLANS = {
    "decompose": ["decompose(0.7, min_gain=0)", "decompose(by=macs, keep=0.5, conv=cp)", "decompose(by=vbmf)"],
    "width": ["width(0.5)", "width(0.5, inherit=True)"],
    "truncate": ["truncate(block2)"],
    "prune": ["prune(0.5, criterion=taylor)", "prune(macs=0.5, scope=net)", "prune(0.5, steps=2, criterion=apoz)"],
    "distill": ["distill(loss=dkd)", "distill(teacher=self, loss=dist)", "distill(standardize=True, similarity=100)"],
}
CHAINS = ["decompose(0.8, min_gain=0) > distill", "prune(0.5, criterion=taylor) > distill"]
"""Others go through a whole run on the digits in tests/test_further.py."""
IDLE = {
    "decompose": "decompose(1.0)",
    "width": "width(1.0)",
    "truncate": "truncate(block3)",
    "prune": "prune(0.0, criterion=bn)",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_data(DataOptions(source="digits", limit_train=500), SPEC, seed=0)


def options(epochs: int) -> TrainOptions:
    return TrainOptions(epochs=epochs, batch_size=32, lr=0.01, threads=1)


@pytest.fixture(scope="module")
def base(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(8, 16, 32)", labels=digits.classes, input=SPEC, seed=0)
    return fit(model, digits, Setup(options(5), 0, tmp_path_factory.mktemp("base"))).model


@pytest.fixture
def context(digits: Dataset, base: Model, tmp_path: Path) -> Context:
    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        return fit(model, digits, Setup(options(4), 0, tmp_path / "work", epochs=epochs, loss=loss)).model

    return Context(digits, train, train, base, seed=0)


def onnx_scores(model: Model, images: np.ndarray, folder: Path) -> np.ndarray:
    OnnxExporter().write(model, ExportSpec("fp32", folder / "work"), folder / "model.onnx")
    return OrtRuntime().load(folder / "model.onnx", threads=1).scores(images)


@pytest.mark.slow
@pytest.mark.parametrize("plan", [*(plan for plans in PLANS.values() for plan in plans), *CHAINS])
def test_contract_on_digits(plan: str, base: Model, digits: Dataset, context: Context, tmp_path: Path) -> None:
    images = digits.test.images
    before = logits(base, images)
    made = apply_plan(base, plan, context)
    assert np.array_equal(logits(base, images), before), "the given model was changed"
    scores = logits(made, images)
    assert scores.shape == before.shape
    assert made.labels == base.labels
    small, large = cost(made.module, made.input), cost(base.module, base.input)
    assert small.params_total <= large.params_total
    assert small.macs <= large.macs
    save_model(made, tmp_path / "model")
    assert np.array_equal(logits(open_model(tmp_path / "model"), images), scores), (
        "the reopened model answers otherwise"
    )
    assert str(rebuild(made, seed=1).module) == str(made.module)
    assert np.abs(onnx_scores(made, images, tmp_path) - scores).max() < 1e-3
    assert (scores.argmax(1) == digits.test.labels).mean() > 0.5


@pytest.mark.parametrize(("name", "plans"), PLANS.items())
def test_options_round_trip(name: str, plans: list[str]) -> None:
    for plan in plans:
        ((found, technique, given),) = check_plan(plan)
        assert found == name
        assert technique.options.model_validate(given.model_dump()) == given
        assert technique.options.model_validate_json(given.model_dump_json()) == given
        assert set(meanings(technique.options)) == set(technique.options.model_fields)
        assert TECHNIQUES[name].summary
        assert TECHNIQUES[name].paper


@pytest.mark.parametrize("plan", IDLE.values())
def test_nothing_to_do_is_told(plan: str, base: Model, context: Context) -> None:
    with pytest.raises(NoEffect):
        apply_plan(base, plan, context)


def test_what_is_left_alone_is_said(base: Model, context: Context) -> None:
    said: list[str] = []
    apply_plan(base, "decompose(0.7, min_gain=0, epochs=0)", replace(context, say=said.append))
    assert said == ["decompose leaves alone: classifier (the classifier)"]


def test_a_chain_records_each_change_in_order(base: Model, context: Context) -> None:
    made = apply_plan(
        base, "prune(0.25, epochs=0) > decompose(0.6, min_gain=0, epochs=0) > truncate(block2, epochs=0)", context
    )
    assert [edit["edit"] for edit in made.structure] == ["resize", "factor", "truncate"]
