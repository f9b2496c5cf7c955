"""What must hold for every technique, as a table: a new technique is one line in `TABLE`.

For each plan: the given model is not changed, shapes and labels stay, the net costs no more, it decides better than
chance, it reopens to identical outputs, and it exports to a file that answers the same. For each technique: options
round-trip and are documented, and where there is nothing to do it says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.compress import TECHNIQUES, TRAITS, Context, apply_plan, check_plan
from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.errors import ConfigError, NoEffect
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.verify import parity
from edgewise.models import Model, create_model, open_model, rebuild, save_model
from edgewise.models.cost import cost
from edgewise.recipe import TrainOptions, meanings
from edgewise.train import Setup, fit, logits
from tests.train.conftest import CLASSES, SPEC, make_dataset


@dataclass(frozen=True)
class Contract:
    """Plans of one technique that work on a small net, and one with nothing to do (None where that cannot be)."""

    plans: tuple[str, ...]
    nothing: str | None = None


TABLE = {
    "prune": Contract(("prune(ratio=0.5)", "prune(0.25, round_to=4)"), "prune(ratio=0)"),
    "distill": Contract(("distill(student=convnet(4, 8))", "distill(tau=2, alpha=0.9, epochs=1)")),
    "palettize": Contract(
        ("palettize(4, epochs=1)", "palettize(3, method=kmeans, groups=2, ends=8, epochs=1)", "palettize(average=4)"),
        "palettize(32)",
    ),
    "decompose": Contract(("decompose(0.7, min_gain=0)", "decompose(by=macs, keep=0.6, conv=cp)"), "decompose(1.0)"),
    "width": Contract(("width(0.5, round_to=4)", "width(0.5, inherit=True, round_to=4)"), "width(1.0)"),
    "truncate": Contract(("truncate(block1, epochs=15)",), "truncate(block2)"),
    "qat": Contract(("qat(epochs=2)", "qat(s8s8, ranges=ema, start=minmax, epochs=2)")),
    "sparsify": Contract(("sparsify(0.5, epochs=1)", 'sparsify(pattern="2:4", scope=net, epochs=1)'), "sparsify(0)"),
}
CHAINS = (
    "prune(ratio=0.5) > distill(epochs=1)",
    "distill(student=convnet(8, 8)) > prune(ratio=0.5)",
    "prune(0.5) > distill > palettize(4)",
    "distill > palettize(bits=3)",
    "sparsify(0.8, steps=2) > palettize(4, epochs=1)",
    "prune(0.5) > distill(epochs=1) > qat(epochs=1)",
    "distill(epochs=1) > qat(epochs=1)",
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def base(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(8, 16)", labels=CLASSES, input=SPEC, seed=0)
    options = TrainOptions(epochs=4, batch_size=16, lr=0.01, threads=1)
    return fit(model, dataset, Setup(options, 0, tmp_path_factory.mktemp("base"))).model


@pytest.fixture
def context(dataset: Dataset, base: Model, tmp_path: Path) -> Context:
    options = TrainOptions(epochs=3, batch_size=16, lr=0.01, threads=1)

    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        more = {} if loss is None else {"loss": loss}
        return fit(model, dataset, Setup(options, 0, tmp_path / "work", epochs=epochs, **more)).model

    return Context(dataset, train, train, base, seed=0)


def test_every_technique_stands_in_the_table() -> None:
    assert set(TABLE) == set(TECHNIQUES)


@pytest.mark.parametrize("plan", [row.plans[0] for row in TABLE.values()])
def test_every_technique_trains_at_the_rate_that_it_is_given(plan: str, base: Model, dataset: Dataset) -> None:
    rates = []

    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        rates.append(lr)
        return model

    context = Context(dataset, train, train, base, seed=0)
    apply_plan(base, f"{plan[:-1]}, lr=0.0123)", context)
    apply_plan(base, plan, context)
    half = len(rates) // 2
    assert half
    assert rates == [0.0123] * half + [None] * half


@pytest.mark.parametrize("plan", [*(plan for row in TABLE.values() for plan in row.plans), *CHAINS])
def test_plans(plan: str, base: Model, context: Context, tmp_path: Path) -> None:
    images = context.dataset.test.images
    before = logits(base, images)
    made = apply_plan(base, plan, context)
    assert np.array_equal(logits(base, images), before), "the given model was changed"
    scores = logits(made, images)
    assert scores.shape == before.shape
    assert (made.labels, made.input) == (base.labels, base.input)
    small, large = cost(made.module, made.input), cost(base.module, base.input)
    assert small.params_total <= large.params_total
    assert small.params_nonzero <= large.params_nonzero
    assert small.macs <= large.macs
    save_model(made, tmp_path / "model")
    reopened = open_model(tmp_path / "model")
    assert np.array_equal(logits(reopened, images), scores), "the reopened model answers otherwise"
    assert reopened.structure == made.structure
    assert not [path for path in (tmp_path / "model").iterdir() if path.suffix in {".pt", ".pth", ".pkl", ".bin"}]
    assert (scores.argmax(1) == context.dataset.test.labels).mean() > 0.5
    assert cost(rebuild(made, seed=1).module, made.input).params_total == small.params_total
    for format_, exporter in FORMATS.items():
        if format_ not in {"onnx", "packed"}:
            continue  # these are what every installation has; the others have tests of their own
        path = tmp_path / f"file{exporter.suffix}"
        exporter.write(made, ExportSpec("fp32", tmp_path / "work"), path)
        assert parity(scores, RUNTIMES[format_].load(path).scores(images), "fp32").passed


@pytest.mark.parametrize(("name", "plan"), [(name, plan) for name, row in TABLE.items() for plan in row.plans])
def test_options_round_trip(name: str, plan: str) -> None:
    ((found, technique, options),) = check_plan(plan)
    assert found == name
    assert technique.options.model_validate(options.model_dump(exclude_unset=True)) == options
    assert set(meanings(technique.options)) == set(technique.options.model_fields)


@pytest.mark.parametrize("plan", [row.nothing for row in TABLE.values() if row.nothing])
def test_nothing_to_do_is_said(plan: str, base: Model, context: Context) -> None:
    with pytest.raises(NoEffect):
        apply_plan(base, plan, context)


def test_every_technique_says_what_it_is() -> None:
    for technique in TECHNIQUES.values():
        assert "arXiv:" in technique.paper
        assert technique.leaves | technique.keeps <= set(TRAITS)
        assert technique.summary


@pytest.mark.parametrize("later", sorted(TECHNIQUES))
@pytest.mark.parametrize("earlier", sorted(TECHNIQUES))
def test_a_step_that_undoes_an_earlier_one_is_refused_before_anything_runs(earlier: str, later: str) -> None:
    plan = f"{TABLE[earlier].plans[0]} > {TABLE[later].plans[0]}"
    if not TECHNIQUES[earlier].leaves - TECHNIQUES[later].keeps:
        assert len(check_plan(plan)) == 2
        return
    with pytest.raises(ConfigError, match=f'"{later}" cannot follow "{earlier}"') as caught:
        check_plan(plan)
    assert caught.value.exit_code == 2
    assert "would undo that" in caught.value.why


@pytest.mark.parametrize(
    "plan",
    [
        *("palettize(4) > prune(0.5)", "palettize(4) > distill", "sparsify > distill", "palettize > palettize"),
        *("qat > prune(0.5)", "qat > palettize", "palettize > qat", "qat > distill", "qat > qat"),
    ],
)
def test_the_pairs_that_are_refused(plan: str) -> None:
    with pytest.raises(ConfigError, match="cannot follow"):
        check_plan(plan)
