"""Decomposition: what the factors compute, which layers are replaced, targets, records, and refusals."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.decompose import DecomposeOptions, factorise
from edgewise.errors import ConfigError, NoEffect, UntrustedError
from edgewise.models import Model, create_model, rebuild
from edgewise.models.cost import cost
from edgewise.models.factor import counted_places, full_ranks, macs_of, macs_of_factors, replacement
from edgewise.models.surgery import apply


def make(architecture: str, size: int = 32, classes: int = 3, seed: int = 0) -> Model:
    labels = [f"class {index}" for index in range(classes)]
    return create_model(architecture, labels=labels, input=InputSpec(size, size), seed=seed)


def of(layer: nn.Module, shape: tuple[int, ...]) -> Model:
    """A model around one layer, so that it can be decomposed alone."""
    made = make("convnet(4)", 8)
    net = nn.Sequential()
    net.add_module("layer", layer)
    net.add_module("pool", nn.AdaptiveAvgPool2d(1) if len(shape) == 3 else nn.Identity())
    net.add_module("flatten", nn.Flatten())
    with torch.no_grad():
        width = net(torch.zeros(1, *shape)).shape[1]
    net.add_module("head", nn.Linear(width, 3))
    return replace(made, module=net.eval(), input=InputSpec(shape[1], shape[2]), architecture="one layer")


CONVOLUTIONS = [
    nn.Conv2d(3, 12, 3, padding=1),
    nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(3, 12, (1, 5), padding=(0, 2), dilation=(1, 2), stride=(2, 1)),
    nn.Conv2d(3, 9, 5),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=range(len(CONVOLUTIONS)))
@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_the_replacement_has_the_shape_and_the_cost_that_were_counted(conv: nn.Conv2d, form: str) -> None:
    """Multiply-adds by formula against those of the counter, which sees the operators that run."""
    images = InputSpec(17, 16)
    with counted_places(conv) as places:
        expected = conv(torch.zeros(1, 3, 17, 16))
    assert cost(conv, images).macs == macs_of(conv, places[""])
    ranks = {"tucker": (2, 5), "cp": (4,)}[form]
    made = replacement(conv, form, ranks)
    assert made(torch.zeros(1, 3, 17, 16)).shape == expected.shape
    counted = cost(made, images)
    assert counted.macs == macs_of_factors(conv, form, ranks, places[""])
    bias = 0 if conv.bias is None else conv.out_channels
    assert counted.params_total == macs_of_factors(conv, form, ranks, (1, 1, 1)) + bias


@pytest.mark.parametrize("stride", [1, 2])
def test_the_costs_of_points_and_depthwise_layers(stride: int) -> None:
    point = nn.Conv2d(3, 12, 1, stride=stride)
    depthwise = nn.Conv2d(3, 3, 5, stride=stride, padding=2, groups=3)
    for layer, form, ranks in ((point, "svd", (2,)), (depthwise, "separable", (1,)), (depthwise, "separable", (2,))):
        with counted_places(layer) as places:
            expected = layer(torch.zeros(1, 3, 16, 12))
        made = replacement(layer, form, ranks)
        assert made(torch.zeros(1, 3, 16, 12)).shape == expected.shape
        assert cost(made, InputSpec(16, 12)).macs == macs_of_factors(layer, form, ranks, places[""])


@pytest.mark.parametrize(
    ("layer", "form"),
    [(CONVOLUTIONS[0], "tucker"), (nn.Conv2d(3, 8, 1), "svd"), (nn.Conv2d(3, 3, 5, padding=2, groups=3), "separable")],
)
def test_at_full_rank_the_outputs_stay(layer: nn.Module, form: str) -> None:
    from edgewise.compress.decompose import _Candidate, _factors
    from edgewise.compress.lowrank import energies

    weight: Any = layer.weight.detach().double().numpy()  # type: ignore[union-attr]
    candidate = _Candidate(layer, form, (1, 1, 1), weight, energies(weight, form))
    made = _factors(candidate, full_ranks(layer, form))
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(made(images), layer(images), atol=1e-5, rtol=1e-4)


def test_a_planted_low_rank_convolution_is_found_and_nothing_is_lost() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 32, 3, padding=1)
    wide = nn.Conv2d(32, 40, 3, padding=1)
    with torch.no_grad():
        core = torch.randn(6, 5, 3, 3)
        wide.weight.copy_(torch.einsum("os,srhw,ri->oihw", torch.randn(40, 6), core, torch.randn(5, 32)))
    model = of(nn.Sequential(conv, nn.ReLU(), wide), (3, 8, 8))
    made = factorise(model, DecomposeOptions(keep=0.999999, min_gain=0.5))
    assert made.structure[-1]["layers"] == {"layer.2": {"form": "tucker", "ranks": [5, 6]}}
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(made.module(images), model.module(images), atol=1e-3, rtol=1e-3)


def test_more_energy_means_smaller_error_and_more_cost() -> None:
    model = make("convnet(16, 24, 32)", 16)
    maps = torch.randn(4, 24, 16, 16)
    errors, macs = [], []
    for keep in (0.5, 0.7, 0.9):
        made = factorise(model, DecomposeOptions(keep=keep, min_gain=0))
        with torch.no_grad():
            errors.append(float((made.module.block3.conv(maps) - model.module.block3.conv(maps)).square().mean()))
        macs.append(cost(made.module, made.input).macs)
    assert errors[0] > errors[1] > errors[2] > 0
    assert macs[0] < macs[1] < macs[2] < cost(model.module, model.input).macs


@pytest.mark.parametrize(
    "options", [{"keep": 0.5}, {"keep": 0.3}, {"keep": 0.3, "conv": "cp"}, {"keep": 0.4, "round_to": 8}]
)
def test_a_target_for_multiply_adds_is_met_and_not_by_far(options: dict[str, Any]) -> None:
    model = make("convnet(16, 32, 32)", 16)
    made = factorise(model, DecomposeOptions(by="macs", **options))
    share = cost(made.module, made.input).macs / cost(model.module, model.input).macs
    assert options["keep"] - 0.12 < share <= options["keep"]
    if "round_to" in options:
        ranks = [rank for layer in made.structure[-1]["layers"].values() for rank in layer["ranks"]]
        assert all(rank % 8 == 0 or rank == 3 for rank in ranks)


def test_a_target_out_of_reach_is_told() -> None:
    with pytest.raises(ConfigError, match=r"multiply-adds down to 0\.01") as caught:
        factorise(make("convnet(8, 8)"), DecomposeOptions(by="macs", keep=0.01))
    assert (caught.value.code, caught.value.exit_code) == ("C82", 2)


def test_vbmf_keeps_what_stands_out_of_the_noise() -> None:
    torch.manual_seed(1)
    model = make("convnet(16, 48)", 16)
    conv: Any = model.module.block2.conv
    with torch.no_grad():
        signal = torch.einsum("os,srhw,ri->oihw", torch.randn(48, 3), torch.randn(3, 2, 3, 3), torch.randn(2, 16))
        conv.weight.copy_(signal + 0.1 * torch.randn_like(signal))
    made = factorise(model, DecomposeOptions(by="vbmf"))
    assert made.structure[-1]["layers"]["block2.conv"] == {"form": "tucker", "ranks": [2, 3]}


def test_depthwise_and_point_layers_of_a_mobile_net() -> None:
    model = make("mobilenetv2_050", 32)
    made = factorise(model, DecomposeOptions(by="ratio", keep=0.3))
    forms = {layer["form"] for layer in made.structure[-1]["layers"].values()}
    assert forms == {"svd", "separable", "tucker"}
    assert cost(made.module, made.input).macs < 0.8 * cost(model.module, model.input).macs


def test_what_is_left_alone_is_named_with_the_reason() -> None:
    said: list[str] = []
    made = factorise(
        make("convnet(8, 64, 64)"), DecomposeOptions(keep=0.6, ignore=("*2.conv",), min_gain=0.5), said.append
    )
    (line,) = said
    assert "classifier (the classifier)" in line
    assert "block2.conv (ignored)" in line
    assert "block1.conv (would not save 50% of its multiply-adds)" in line
    assert set(made.structure[-1]["layers"]) == {"block3.conv"}


def test_nothing_that_pays_is_told() -> None:
    with pytest.raises(NoEffect, match="no layer for which it pays") as caught:
        factorise(make("convnet(4, 4)"), DecomposeOptions(keep=1.0))
    assert caught.value.code == "N25"
    assert "block1.conv, block2.conv (would not save" in caught.value.why


def test_the_given_model_is_not_changed_and_the_change_is_recorded() -> None:
    model = make("convnet(16, 32)")
    before = copy.deepcopy(model.module.state_dict())
    random_state = torch.get_rng_state()
    made = factorise(model, DecomposeOptions(keep=0.7))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert model.structure == ()
    edits = json.loads(json.dumps(made.structure))
    assert str(apply(make("convnet(16, 32)").module, edits)) == str(made.module)
    assert not made.module.training


def test_the_control_has_the_same_structure_fresh_weights_and_the_spread_of_the_full_net() -> None:
    """What a factored layer puts out must vary as much as what the full one does, or the control would start worse."""
    model = make("convnet(32, 64)", 16)
    made = factorise(model, DecomposeOptions(keep=0.6))
    control, again = rebuild(made, seed=5), rebuild(made, seed=5)
    assert str(control.module) == str(made.module)
    own = control.module.state_dict()
    assert not torch.equal(own["block2.conv.core.weight"], made.module.state_dict()["block2.conv.core.weight"])
    assert all(torch.equal(own[name], tensor) for name, tensor in again.module.state_dict().items())
    maps = torch.randn(8, 32, 16, 16)
    with torch.no_grad():
        full = model.module.block2.conv(maps).std()
        spread = [rebuild(made, seed=seed).module.block2.conv(maps).std() / full for seed in range(4)]
    assert 0.7 < float(torch.stack(spread).mean()) < 1.4


def test_a_decomposed_net_can_be_decomposed_and_pruned_again() -> None:
    from edgewise.compress.prune import PruneOptions, remove_channels

    model = make("convnet(16, 64, 64)", 16)
    once = factorise(model, DecomposeOptions(keep=0.7))
    pruned = remove_channels(once, PruneOptions(ratio=0.5))
    assert [edit["edit"] for edit in pruned.structure] == ["factor", "resize"]
    assert cost(pruned.module, model.input).macs < 0.5 * cost(once.module, model.input).macs
    assert str(apply(make("convnet(16, 64, 64)", 16).module, pruned.structure)) == str(pruned.module)
    again = factorise(remove_channels(model, PruneOptions(ratio=0.3)), DecomposeOptions(keep=0.7))
    assert [edit["edit"] for edit in again.structure] == ["resize", "factor"]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([], "holds layers"),
        ({"block9.conv": {"form": "tucker", "ranks": [1, 1]}}, 'no layer "block9.conv"'),
        ({"block1.conv": {"form": "tucker"}}, "form and ranks"),
        ({"block1.conv": {"form": "magic", "ranks": [1]}}, "unknown form"),
        ({"block1.conv": {"form": "tucker", "ranks": [1]}}, "takes ranks up to"),
        ({"block1.conv": {"form": "tucker", "ranks": [4, 1]}}, "takes ranks up to"),
        ({"block1.conv": {"form": "tucker", "ranks": [0, 1]}}, "takes ranks up to"),
        ({"block1.conv": {"form": "tucker", "ranks": [True, 1]}}, "takes ranks up to"),
        ({"block1.conv": {"form": "svd", "ranks": [1]}}, "not a form for this layer"),
        ({"block1.norm": {"form": "svd", "ranks": [1]}}, "BatchNorm2d cannot be replaced"),
    ],
)
def test_records_that_do_not_fit_are_refused(layers: Any, told: str) -> None:
    with pytest.raises(UntrustedError, match=told) as caught:
        apply(make("convnet(4, 8)").module, [{"edit": "factor", "layers": layers}])
    assert caught.value.code == "U12"


class _Touches(nn.Module):
    """Uses the weight of its convolution beside calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).mean((2, 3)) * self.conv.weight.mean())


def test_a_net_that_needs_its_layers_as_they_are_is_refused() -> None:
    model = replace(make("convnet(4)", 8), module=_Touches().eval(), architecture="touches")
    with pytest.raises(ConfigError, match="does not run with its layers decomposed") as caught:
        factorise(model, DecomposeOptions(keep=0.5, min_gain=0))
    assert caught.value.code == "C83"


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 0},
        {"keep": 1.1},
        {"by": "vbmf", "keep": 0.5},
        {"conv": "cp"},
        {"by": "vbmf", "conv": "cp"},
        {"by": "no"},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        DecomposeOptions(**options)
