"""sparsify: exactly so many zeros, the smallest weights, kept through training; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.compress import check_plan
from edgewise.compress.held import weighted
from edgewise.compress.sparsify import SparsifyOptions, keep_largest, keep_pattern, sparsify
from edgewise.errors import ConfigError, NoEffect
from edgewise.models import Model
from edgewise.models.cost import cost
from tests.compress.test_palettize import Tuner, make, weights_of


def run(model: Model, tuner: Tuner | None = None, **options: Any) -> Model:
    return sparsify(model, SparsifyOptions(**options), tuner or Tuner())  # type: ignore[arg-type]


@pytest.mark.parametrize("epochs", [0, 1])
def test_zeros_are_counted_exactly(epochs: int) -> None:
    model = make("convnet(8, 16)")
    sizes = [layer.weight.numel() for layer in weighted(model.module).values()]
    made = run(model, ratio=0.8, epochs=epochs)
    counted, before = cost(made.module, made.input), cost(model.module, model.input)
    zeros = [int((layer.weight == 0).sum()) for layer in weighted(made.module).values()]
    assert zeros == [int(0.8 * size + 1e-9) for size in sizes]
    assert counted.params_zero == sum(int((value == 0).sum()) for value in made.module.parameters())
    assert (counted.params_total, counted.macs) == (before.params_total, before.macs)
    assert made.structure == ({"edit": "sparsify", "layers": list(weights_of(made))},)


def test_the_share_grows_as_a_cubic_with_an_epoch_after_each_step() -> None:
    shares = []

    class Watching(Tuner):
        def finetune(
            self, model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None
        ) -> Model:
            shares.append(
                np.mean([(layer.weight == 0).float().mean().item() for layer in weighted(model.module).values()])
            )
            return super().finetune(model, epochs=epochs)

    watching = Watching()
    run(make("convnet(32, 64)"), watching, ratio=0.8, steps=3, epochs=4)
    assert watching.asked == [1, 1, 4]
    assert shares == pytest.approx([0.8 * (1 - (2 / 3) ** 3), 0.8 * (1 - (1 / 3) ** 3), 0.8], abs=0.01)


def test_a_weight_that_is_zero_once_stays_zero() -> None:
    first = run(make(), ratio=0.6, steps=1, epochs=0)
    later = run(make(), ratio=0.6, steps=1, epochs=2)
    for name, weight in weights_of(first).items():
        assert (weights_of(later)[name][weight == 0] == 0).all()
        assert not torch.equal(torch.from_numpy(weights_of(later)[name]), torch.from_numpy(weight))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99), st.sampled_from(["layer", "net"]))
def test_the_largest_stay(seed: int, share: float, scope: str) -> None:
    random = np.random.default_rng(seed)
    weights = {name: random.normal(size=(4, size)).astype(np.float32) for name, size in (("a", 3), ("b", 11))}
    keeps = keep_largest(weights, share, scope)
    pairs = [(np.abs(weights[name]), keeps[name]) for name in weights]
    if scope == "net":
        stay, go = (np.concatenate([size[keep == side] for size, keep in pairs]) for side in (True, False))
        assert len(go) in range(int(share * 56 + 1e-9) - 1, int(share * 56 + 1e-9) + 1)
        assert all(keep.any() for keep in keeps.values())
        assert len(go) == 0 or np.sort(stay)[2 if len(stay) > 2 else -1] >= go.max(), "but for each layer's largest"
        return
    for size, keep in pairs:
        assert (~keep).sum() == int(share * keep.size + 1e-9)
        assert keep.all() or size[keep].min() >= size[~keep].max()


def test_n_of_m_along_the_input_channels() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 8, 3, 3)).astype(np.float32)
    keep = keep_pattern(weight, "2:4")
    assert keep is not None
    shaped = keep.reshape(weight.shape)
    for start in (0, 4):
        run_ = np.abs(weight[:, start : start + 4])
        stays = shaped[:, start : start + 4]
        assert (stays.sum(1) == 2).all()
        assert (np.where(stays, run_, np.inf).min(1) >= np.where(stays, 0, run_).max(1)).all()
    assert keep_pattern(weight[:, :6], "2:4") is None
    made = run(make("convnet(8, 16)"), pattern="2:4", epochs=0)
    assert made.structure[0]["layers"] == ["block2.conv", "classifier"], "one input channel is no multiple of four"
    assert (weights_of(made)["classifier"] == 0).mean() == 0.5


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"pattern": "2:7"}, {"ratio": 0.001}])
def test_where_no_weight_goes_it_is_said(options: dict[str, Any]) -> None:
    with pytest.raises(NoEffect, match="sparsify found nothing") as caught:
        run(make("convnet(4)"), **options)
    assert caught.value.code == "N21"


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("sparsify(1)", "less than 1"),
        ('sparsify(pattern="4:2")', "the first number below the second"),
        ('sparsify(pattern="a")', "written like"),
        ('sparsify(0.5, pattern="2:4")', "a pattern has its own share"),
    ],
)
def test_wrong_options_are_told(plan: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_plan(plan)
