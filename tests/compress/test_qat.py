"""qat: the gradients of the paper, norms folded as the exporter folds them, ranges that follow, an ordinary model."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.fake import MEMORY, OnInts, OnSteps, settle_layer, whole_steps
from edgewise.compress.held import OnGrid, weighted
from edgewise.compress.levels import fit_grid
from edgewise.compress.qat import QatOptions, qat
from edgewise.compress.simulate import SCHEMES, layout, pixel_steps, simulation
from edgewise.errors import ConfigError, NoEffect, UntrustedError
from edgewise.models import Model, create_model, open_model, save_model
from edgewise.train import logits
from tests.compress.test_palettize import Tuner
from tests.train.conftest import CLASSES, SPEC, make_dataset

DATA = make_dataset()


def make(name: str = "convnet(8, 16)", spec: InputSpec = SPEC) -> Model:
    return create_model(name, labels=CLASSES, input=spec, seed=0)


@dataclasses.dataclass
class Quiet(Tuner):
    """A context that trains for a few steps, and keeps what it is told."""

    told: list[str] = dataclasses.field(default_factory=list)

    def say(self, text: str) -> None:
        self.told.append(text)


def run(model: Model, context: Quiet | None = None, **options: Any) -> Model:
    return qat(model, QatOptions(**options), context or Quiet())  # type: ignore[arg-type]


# --- What training does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_the_gradients_of_a_learnt_step_are_those_of_lsq(signed: bool) -> None:
    """Inside: 1 for the value, rounded - v/s for the step; outside: 0, and the end of the range (equations 2, 3)."""
    point = OnSteps((-1.0, 1.55), signed=signed, learnt=True).train()
    step, zero = whole_steps(-1.0, 1.55, signed=signed)
    values = torch.tensor([[0.3, -0.5, 40.0, -40.0, 1.234]], requires_grad=True)
    out = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10_000.0])
    (point(values)[0] * out).sum().backward()
    bottom, top = (-128, 127) if signed else (0, 255)
    steps = values.detach()[0] / step
    inside = torch.tensor([True, True, False, False, True])
    rounded = (steps + zero).round().clamp(bottom, top) - zero
    expected = torch.where(inside, rounded - steps, rounded)
    assert values.grad is not None
    assert point.drift is not None
    assert values.grad[0].tolist() == [1, 10, 0, 0, 10_000]
    slower = (5 * top) ** -0.5
    assert point.drift.grad is not None
    # the step is the exponential of what is trained: its gradient has the step as a factor
    assert point.drift.grad.item() == pytest.approx((expected * out).sum().item() * step * slower, rel=1e-4)


def test_training_and_evaluation_round_alike() -> None:
    point = OnSteps((-2.0, 3.0), signed=False, learnt=True)
    values = torch.linspace(-4, 5, 1001)[None]
    step, _ = point.steps()
    apart = (point.train()(values) - point.eval()(values)).abs()
    assert (apart < 1e-6).float().mean() > 0.995  # those half-way between two levels may go either way
    assert apart.max() < 1.01 * step
    assert len(torch.unique(point(values))) == 256


def test_moving_ranges_follow_for_so_many_images_and_then_stay() -> None:
    point = OnSteps((0.0, 1.0), signed=False, learnt=False, follow=8).train()
    batch = torch.full((4, 2), 3.0)
    expected = 1.0
    for _ in range(2):
        point(batch)
        expected = MEMORY * expected + (1 - MEMORY) * 3
    assert float(point.high) == pytest.approx(expected)
    point(batch)
    assert float(point.high) == pytest.approx(expected)
    assert int(point.seen) == 8
    assert float(point.low) == 0


def test_a_range_behind_a_relu6_never_ends_above_it() -> None:
    point = OnSteps((0.0, 5.0), signed=False, learnt=True, most=6.0)
    assert point.drift is not None
    with torch.no_grad():
        point.drift.fill_(1.0)
    assert point.steps()[0] * 255 == pytest.approx(6.0)
    assert point.train()(torch.full((1, 1), 100.0)).item() == pytest.approx(6.0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_norm_gives_what_layer_and_norm_give(bias: bool, affine: bool) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 5, 3, padding=1, bias=bias), nn.BatchNorm2d(5, affine=affine)
    for value in [*norm.parameters(), norm.running_mean, norm.running_var]:
        nn.init.uniform_(value, 0.5, 1.5)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 6, 6)
    expected = norm.eval()(conv(images))
    held = OnInts(conv, norm)
    torch.testing.assert_close(held(images), expected, rtol=1e-5, atol=1e-5)
    weight, shift = (value.detach().clone() for value in held.folded())  # type: ignore[union-attr]
    settle_layer(conv, norm, weight, shift)
    torch.testing.assert_close(norm(conv(images)), expected, rtol=1e-5, atol=1e-5)
    assert norm.running_var is not None
    assert (torch.sqrt(norm.running_var + norm.eps) == 1).all(), "an exporter that folds it again changes the weights"
    assert torch.equal(conv.weight, weight)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear])
def test_a_norm_goes_by_the_batch_for_so_many_images_and_then_stays(kind: Any) -> None:
    """Without a grid it is layer and norm as they train; the last batch that counts may begin before the limit."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3) if kind is nn.Conv2d else nn.Linear(3, 5)
    norm: Any = nn.BatchNorm2d(5) if kind is nn.Conv2d else nn.BatchNorm1d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 0.7, 0.1, 1.0]))
    own = copy.deepcopy(norm)
    held = OnInts(layer, norm, follow=8).train()
    for _ in range(3):
        batch = torch.randn(4, 3, 6, 6) if kind is nn.Conv2d else torch.randn(4, 3)
        if int(held.seen) >= 8:
            own.eval()
        torch.testing.assert_close(held(batch), own(layer(batch)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, own.running_var)
    assert int(held.seen) == 8
    still = norm.running_mean.clone()
    held(batch)
    assert torch.equal(norm.running_mean, still)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_whole_steps_of_their_channel(scheme: Any) -> None:
    made = run(make(), scheme=scheme, epochs=1)
    bits, _ = SCHEMES[scheme]
    (edit,) = made.structure
    assert edit["scheme"] == scheme
    for name, layer in weighted(made.module).items():
        steps = 2 * np.array(edit["layers"][name]["scales"])
        whole = layer.weight.detach().numpy().reshape(len(steps), -1) / steps[:, None]
        assert np.array_equal(whole, np.rint(whole))
        assert -(2 ** (bits - 1)) <= whole.min()
        assert whole.max() <= 2 ** (bits - 1) - 1


def test_levels_of_an_integer_grid_are_whole_multiples() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    grid = fit_grid(weight, 8, "integer")
    assert set(grid.centres.tolist()) == {256}
    error = ((grid.nearest(weight) - weight) ** 2).sum(1)
    steps = np.abs(weight).max(1) / 127  # the usual choice
    usual = ((np.rint(weight / steps[:, None]) * steps[:, None] - weight) ** 2).sum(1)
    assert (error <= 1.15 * usual).all()


def test_nothing_is_trained_without_epochs_and_the_net_stays_near() -> None:
    context = Quiet()
    model = make()
    made = run(model, context, epochs=0)
    assert context.asked == []
    before, after = (logits(one, DATA.test.images) for one in (model, simulation(made)))
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()
    assert [edit["edit"] for edit in made.structure] == ["qat"]


def test_zeros_that_were_made_stay_zero() -> None:
    from edgewise.compress import apply_plan

    sparse = apply_plan(make(), "sparsify(0.7, epochs=0)", Quiet())  # type: ignore[arg-type]
    made = run(sparse, epochs=1)
    for name, layer in weighted(made.module).items():
        gone = weighted(sparse.module)[name].weight == 0
        assert (layer.weight[gone] == 0).all()


# --- Where int8 begins and ends ----------------------------------------------------------------------------------


def test_points_lie_behind_activations_and_the_logits_have_none() -> None:
    found = layout(make())
    assert found.layers == {"block1.conv": "block1.norm", "block2.conv": "block2.norm", "classifier": ""}
    assert found.points == ["input_1", "block1_act", "block2_act", "pool"]


def test_pixels_are_levels_themselves_where_the_mean_allows_it() -> None:
    made = run(make(), epochs=0)
    step, zero = made.structure[0]["points"]["input_1"]
    assert zero == 128
    assert step == pytest.approx(1 / (255 * 0.5))
    assert pixel_steps(make(spec=InputSpec(12, 12, 1, mean=(0.5,), std=(0.5,))), "u8s8") is None
    assert pixel_steps(make(), "s8s8") is None


def test_norms_with_an_activation_are_opened_and_closed_again() -> None:
    model = create_model("mobilenetv3_small_050", labels=CLASSES, input=InputSpec(32, 32), seed=0)
    images = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    train = dataclasses.replace(DATA.train, images=images, labels=np.arange(48) % 3)
    context = Quiet(dataset=dataclasses.replace(DATA, train=train))
    made = run(model, context, epochs=0)
    assert made.module.state_dict().keys() == model.module.state_dict().keys()
    assert type(made.module.get_submodule("bn1")) is type(model.module.get_submodule("bn1"))
    assert len(made.structure[0]["layers"]) == 54  # all of its convolutions and its classifier
    assert context.told == []


def test_a_net_that_cannot_be_followed_is_refused() -> None:
    class Winding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            out = self.conv(image).mean((2, 3))
            return out if out.sum() > 0 else -out

    with pytest.raises(ConfigError, match="cannot follow") as caught:
        run(Model(Winding(), "winding", SPEC, CLASSES))
    assert caught.value.code == "Q20"


def test_a_net_without_layers_has_nothing_to_do_and_a_layer_of_its_own_kind_is_named() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input * 2)

    net = nn.Sequential(Own(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    context = Quiet()
    with pytest.raises(NoEffect, match="Q21"):
        run(Model(net, "own", SPEC, CLASSES), context)
    both = nn.Sequential(*net, nn.Linear(3, 3))
    run(Model(both, "own", SPEC, CLASSES), context, epochs=0)
    assert [line.split(":")[0] for line in context.told] == ["qat leaves 0 in float"]


# --- The model stays an ordinary one -----------------------------------------------------------------------------


def test_the_simulation_of_a_reopened_model_is_the_same(tmp_path: Path) -> None:
    made = run(make(), epochs=1)
    save_model(made, tmp_path)
    images = DATA.test.images
    expected = logits(simulation(made), images)
    assert np.array_equal(logits(simulation(open_model(tmp_path)), images), expected)
    assert not np.array_equal(expected, logits(made, images))


def test_a_model_that_learnt_no_ranges_has_no_simulation() -> None:
    with pytest.raises(ConfigError, match="no learnt int8 ranges") as caught:
        simulation(make())
    assert caught.value.code == "Q22"


def test_ranges_of_another_net_are_refused() -> None:
    made = run(make(), epochs=0)
    edit = {**made.structure[0], "points": {"elsewhere": [0.1, 0]}}
    with pytest.raises(UntrustedError, match="do not fit"):
        simulation(dataclasses.replace(made, structure=(edit,)))


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": "u4"},
        {"layers": {"nowhere": {}}},
        {"layers": {"classifier": {"bits": 8, "scales": [1.0], "centres": [256]}}},
        {"layers": {"classifier": {"bits": 3, "scales": [1.0] * 3, "centres": [256] * 3}}},
        {"points": {"input_1": [0.1]}},
        {"points": {"input_1": [-0.1, 0]}},
        {"points": {"input_1": [0.1, 300]}},
        {"points": {"input_1": [float("nan"), 0]}},
        {"more": 1},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    made = run(make(), epochs=0)
    damaged = dataclasses.replace(made, structure=({**json.loads(json.dumps(made.structure[0])), **change},))
    save_model(damaged, tmp_path)
    with pytest.raises(UntrustedError) as caught:
        open_model(tmp_path)
    assert caught.value.code == "U12"


def test_grids_hold_under_autocast() -> None:
    """bfloat16 has fewer levels than int8 simulates."""
    held = OnInts(nn.Conv2d(1, 2, 3), None)
    held.grid = OnGrid(fit_grid(held.layer.weight.detach().numpy().reshape(2, -1), 8, "integer"), None)  # type: ignore[union-attr, operator]
    point = OnSteps((-1.0, 1.0), signed=False, learnt=True).train()
    images = torch.randn(1, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = point(held(images))
    assert under.dtype == torch.float32
    assert torch.equal(under, point(held(images)))
