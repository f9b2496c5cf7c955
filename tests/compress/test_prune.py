"""Pruning: exact counts, which channels stay, that the pruned net computes what it should, and refusals."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress import check_plan
from edgewise.compress.prune import PruneOptions, prune, remove_channels
from edgewise.errors import ConfigError, NoEffect
from edgewise.models import Model, create_model, rebuild
from edgewise.models.cost import cost
from edgewise.models.surgery import apply
from edgewise.recipe import meanings


def make(architecture: str, size: int = 32, classes: int = 2, seed: int = 0) -> Model:
    labels = [f"class {index}" for index in range(classes)]
    model = create_model(architecture, labels=labels, input=InputSpec(size, size), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):  # a fresh one is the identity and would hide a mistake
            for tensor, low in ((layer.running_mean, -0.2), (layer.running_var, 0.5), (layer.bias, -0.2)):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return model


def channels(model: Model) -> tuple[int, ...]:
    return tuple(layer.out_channels for layer in model.module.modules() if isinstance(layer, nn.Conv2d))


@dataclass
class FakeContext:
    """Notes what it is asked to fine-tune and gives it back."""

    asked: list[tuple[Model, int | None]] = field(default_factory=list)
    seed: int = 0
    speeds: Any = None

    def say(self, text: str) -> None:
        """Not looked at."""

    def finetune(self, model: Model, *, epochs: int | None = None, lr: float | None = None) -> Model:
        self.asked.append((model, epochs))
        return replace(model, labels=("tuned", "too"))


def run(model: Model, context: FakeContext, **options: Any) -> Model:
    return prune(model, PruneOptions(**options), context)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- exact counts


@pytest.mark.parametrize(
    ("ratio", "widths", "params"),
    [(0.3, (22, 44, 89), 45_195), (0.5, (16, 32, 64), 23_938), (0.7, (9, 19, 38), 8_556)],
)
def test_the_published_counts_of_system_1(ratio: float, widths: tuple[int, ...], params: int) -> None:
    pruned = remove_channels(make("convnet(32,64,128, dropout=0.2)"), PruneOptions(ratio=ratio))
    assert channels(pruned) == widths
    assert cost(pruned.module, pruned.input).params_total == params


@pytest.mark.parametrize(
    ("ratios", "widths"),
    [((0.2, 0.3, 0.4), (12, 22, 28)), ((0.3, 0.4, 0.5), (11, 19, 24)), ((0.4, 0.5, 0.6), (9, 16, 19))],
)
def test_the_published_filters_of_system_5(ratios: tuple[float, ...], widths: tuple[int, ...]) -> None:
    model = make("flatnet(16, 32, 48, hidden=128, dropout=0.3)", 48, 7)
    pruned = remove_channels(model, PruneOptions(ratio=ratios))
    assert channels(pruned) == widths
    hidden: Any = pruned.module.hidden
    assert (hidden.in_features, hidden.out_features) == (widths[-1] * 6 * 6, 128)


def test_a_single_ratio_also_prunes_hidden_linear_layers_and_never_the_classifier() -> None:
    pruned = remove_channels(make("flatnet(8, 8, hidden=20)", classes=4), PruneOptions(ratio=0.5))
    hidden, classifier = pruned.module.hidden, pruned.module.classifier
    assert (hidden.in_features, hidden.out_features) == (4 * 8 * 8, 10)
    assert (classifier.in_features, classifier.out_features) == (10, 4)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(2, 40), hundredths=st.integers(1, 99))
def test_the_ratio_counts_as_the_decimal_it_is_written_as(width: int, hundredths: int) -> None:
    """In binary, 10 x (1 - 0.9) is a little below 1 and 100 x (1 - 0.07) a little above or below 93."""
    ratio = float(f"0.{hundredths:02}")
    pruned = remove_channels(make(f"convnet({width})", 8), PruneOptions(ratio=ratio))
    assert channels(pruned) == (max(1, int(width * (1 - Fraction(hundredths, 100)))),)


@pytest.mark.parametrize(
    ("round_to", "ratio", "widths"),
    [
        (1, 0.3, (22, 44, 89)),
        (8, 0.3, (24, 40, 88)),
        (8, 0.99, (8, 8, 8)),
        (32, 0.6, (32, 32, 64)),
        (48, 0.5, (32, 48, 48)),
    ],
)
def test_rounding_keeps_the_nearest_multiple(round_to: int, ratio: float, widths: tuple[int, ...]) -> None:
    pruned = remove_channels(make("convnet(32,64,128)", 16), PruneOptions(ratio=ratio, round_to=round_to))
    assert channels(pruned) == widths


def test_a_layer_with_ratio_zero_keeps_everything_even_when_rounding() -> None:
    pruned = remove_channels(make("convnet(10, 20)"), PruneOptions(ratio=(0.0, 0.5), round_to=4))
    assert channels(pruned) == (10, 8)


# --------------------------------------------------------------------------------------------- which channels stay


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2)])
def test_the_filters_of_the_largest_norm_stay_in_their_order(norm: Any, order: int) -> None:
    model = make("convnet(10, 12)", seed=3)
    pruned = remove_channels(model, PruneOptions(ratio=0.4, criterion=norm))
    inputs = np.arange(3)
    for name in ("block1", "block2"):
        before, after = model.module.get_submodule(name), pruned.module.get_submodule(name)
        weight = before.conv.weight.detach().numpy()
        norms = np.linalg.norm(weight.reshape(len(weight), -1), ord=order, axis=1)
        kept = np.sort(np.argsort(-norms)[: int(len(weight) * 0.6)])
        np.testing.assert_array_equal(after.conv.weight.detach().numpy(), weight[kept][:, inputs])
        for old, new in zip(before.norm.state_dict().values(), after.norm.state_dict().values(), strict=True):
            np.testing.assert_array_equal(new.numpy(), old.numpy()[kept] if old.dim() else old.numpy())
        inputs = kept
    weight = model.module.classifier.weight.detach().numpy()
    np.testing.assert_array_equal(pruned.module.classifier.weight.detach().numpy(), weight[:, inputs])


def test_l1_and_l2_can_differ() -> None:
    model = make("convnet(2)", 8)
    with torch.no_grad():
        model.module.block1.conv.weight[0] = 0.5  # l1 13.5, l2 2.6
        model.module.block1.conv.weight[1] = 0.0
        model.module.block1.conv.weight[1, 0, 0, 0] = 4.0  # l1 4, l2 4
    kept = {
        norm: remove_channels(model, PruneOptions(ratio=0.5, criterion=norm)).module.block1.conv.weight.detach()
        for norm in ("l1", "l2")
    }
    assert float(kept["l1"].max()) == 0.5
    assert float(kept["l2"].max()) == 4.0


def test_of_equal_filters_the_earlier_stay() -> None:
    model = make("convnet(4)", 8)
    with torch.no_grad():
        model.module.block1.conv.weight.copy_(torch.ones(4, 3, 3, 3))
        model.module.block1.conv.bias.copy_(torch.arange(4.0))
    pruned = remove_channels(model, PruneOptions(ratio=0.5))
    assert pruned.module.block1.conv.bias.tolist() == [0.0, 1.0]


def test_layers_that_are_added_together_are_ranked_together() -> None:
    """In a ResNet stage the stem and every block's last convolution write into the same channels."""
    model = make("resnet18", 32)
    pruned = remove_channels(model, PruneOptions(ratio=0.5))
    writers = ["conv1", "layer1.0.conv2", "layer1.1.conv2"]
    filters = [model.module.get_submodule(name).weight.detach().numpy().reshape(64, -1) for name in writers]
    kept = np.sort(np.argsort(-np.linalg.norm(np.concatenate(filters, axis=1), axis=1))[:32])
    stem = model.module.conv1.weight.detach().numpy()[kept]
    np.testing.assert_array_equal(pruned.module.conv1.weight.detach().numpy(), stem)
    assert cost(pruned.module, pruned.input).params_total < 0.3 * cost(model.module, model.input).params_total


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["mobilenetv2_050", "resnet18", "mobilenetv3_small_050", "shufflenet_v2_x0_5"])
def test_a_pruned_net_can_be_traced_for_export(architecture: str) -> None:
    pruned = remove_channels(make(architecture, 64, 5), PruneOptions(ratio=0.5))
    images = torch.randn(2, 3, 64, 64)
    traced = torch.export.export(pruned.module, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(traced(images), pruned.module(images))


def test_removing_dead_channels_changes_no_output() -> None:
    """Channels that stay zero after their norm are planted at random places; exactly these go."""
    model = make("convnet(8, 12, 16, dropout=0.2)", classes=5, seed=2)
    random = np.random.default_rng(0)
    with torch.no_grad():
        for name, width in (("block1", 8), ("block2", 12), ("block3", 16)):
            dead = random.permutation(width)[: width // 2]
            block = model.module.get_submodule(name)
            for tensor in (block.conv.weight, block.conv.bias, block.norm.weight, block.norm.bias):
                tensor[dead] = 0
    pruned = remove_channels(model, PruneOptions(ratio=0.5))
    assert channels(pruned) == (4, 6, 8)
    assert cost(pruned.module, pruned.input).params_zero == 0
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pruned.module(images), model.module(images))


NETS = [
    "truncate(resnet18, layer2)",
    "mobilenetv3_small_050",
    "truncate(shufflenet_v2_x0_5, stage3)",
]
SLOW_NETS = [
    "mobilenetv2_050",
    "mobilenetv4_conv_small",
    "torchvision/mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "regnety_002",
]


@pytest.mark.parametrize("architecture", [*NETS, *(pytest.param(net, marks=pytest.mark.slow) for net in SLOW_NETS)])
def test_library_nets_compute_what_they_did_without_the_removed_channels(architecture: str) -> None:
    """Oracle: in the full net, every weight that is not in the pruned net is set to 0. All weights of a layer differ
    from one another, so that which those are is found from the values alone."""
    model = make(architecture, 64, 5)
    for layer in model.module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            draw_distinct(layer)
    pruned = remove_channels(model, PruneOptions(ratio=0.5))
    before, after = cost(model.module, model.input), cost(pruned.module, pruned.input)
    assert after.params_total < 0.85 * before.params_total
    assert after.macs < 0.85 * before.macs
    reference = copy.deepcopy(model.module).double()
    parts = dict(pruned.module.named_modules())
    for name, layer in reference.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            keep_only_what_is_found_in(parts[name].weight.detach().double(), layer)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        found, expected = copy.deepcopy(pruned.module).double()(images), reference(images)
    spread = float((expected[0] - expected[1]).abs().max())
    assert float((found - expected).abs().max()) < 1e-6 * spread


def draw_distinct(layer: Any) -> None:
    """Uniform weights of about He's spread; the bound is a power of two, so that scaling keeps them distinct."""
    count = layer.weight.numel()
    bound = 2.0 ** round(np.log2(np.sqrt(6 / layer.weight[0].numel())))
    steps = torch.randperm(count, generator=torch.Generator().manual_seed(count)).view_as(layer.weight)
    with torch.no_grad():
        layer.weight.copy_(((steps + 0.5) / count * 2 - 1) * bound)
    assert layer.weight.unique().numel() == count


def keep_only_what_is_found_in(kept: torch.Tensor, layer: Any) -> None:
    """Zero all of a layer's weights that are not among `kept`."""
    with torch.no_grad():
        layer.weight *= torch.isin(layer.weight, kept)
    assert int(torch.count_nonzero(layer.weight)) == kept.numel()


# --------------------------------------------------------------------------------------------- a pure function


def test_the_given_model_is_not_changed_and_the_change_is_recorded() -> None:
    model = make("mobilenetv3_small_050", 32)
    model.module.conv_stem.weight.requires_grad_(False)
    before = copy.deepcopy(model.module.state_dict())
    random_state = torch.get_rng_state()
    pruned = remove_channels(model, PruneOptions(ratio=0.5))
    assert torch.equal(random_state, torch.get_rng_state())
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.structure == ()
    assert not pruned.module.training
    assert [name for name, p in pruned.module.named_parameters() if not p.requires_grad] == ["conv_stem.weight"]
    assert all(parameter.dtype == torch.float32 for parameter in pruned.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in pruned.module.modules())
    (edit,) = pruned.structure
    assert edit["edit"] == "resize"
    assert json.loads(json.dumps(edit)) == edit
    replayed = apply(make("mobilenetv3_small_050", 32).module, [edit])
    assert str(replayed) == str(pruned.module)


def test_it_prunes_the_same_way_each_time() -> None:
    model = make("convnet(8, 8)")
    first, again = (remove_channels(model, PruneOptions()).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_the_control_has_the_same_shapes_and_other_weights() -> None:
    pruned = remove_channels(make("mobilenetv2_050", 32), PruneOptions(ratio=0.5))
    control = rebuild(pruned, seed=5)
    assert str(control.module) == str(pruned.module)
    assert control.structure == pruned.structure
    assert not torch.equal(control.module.conv_stem.weight, pruned.module.conv_stem.weight)


def test_more_ratio_means_fewer_parameters_and_macs() -> None:
    model = make("mobilenetv3_small_050", 32)
    counts = [cost(remove_channels(model, PruneOptions(ratio=ratio)).module, model.input) for ratio in (0.2, 0.5, 0.8)]
    assert counts[0].params_total > counts[1].params_total > counts[2].params_total
    assert counts[0].macs > counts[1].macs > counts[2].macs


@pytest.mark.parametrize(("epochs", "asked"), [(None, [None]), (3, [3]), (0, [])])
def test_fine_tuning_is_left_to_the_context(epochs: int | None, asked: list[int | None]) -> None:
    context = FakeContext()
    pruned = run(make("convnet(4, 8)"), context, ratio=0.5, epochs=epochs)
    assert [epochs for _, epochs in context.asked] == asked
    assert pruned.labels == (("tuned", "too") if asked else ("class 0", "class 1"))
    for model, _ in context.asked:
        assert channels(model) == (2, 4)


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("convnet(4, 8)", {"ratio": 0.0}),
        ("convnet(1, 1)", {"ratio": 0.9}),
        ("convnet(4, 8)", {"ratio": 0.5, "round_to": 8}),
        ("convnet(4, 8)", {"ratio": (0.0, 0.0)}),
    ],
)
def test_nothing_to_remove_is_told(architecture: str, options: dict[str, Any]) -> None:
    context = FakeContext()
    with pytest.raises(NoEffect, match="prune found nothing to remove") as caught:
        run(make(architecture, 8), context, **options)
    assert (caught.value.code, context.asked) == ("N10", [])


def test_a_list_that_does_not_match_the_net_names_its_layers() -> None:
    with pytest.raises(ConfigError, match="2 ratios for 3 convolutions that can be pruned") as caught:
        remove_channels(make("convnet(4, 4, 4)", 16), PruneOptions(ratio=(0.5, 0.5)))
    assert (caught.value.code, caught.value.exit_code) == ("C46", 2)
    assert "block1.conv, block2.conv, block3.conv" in caught.value.why


@pytest.mark.slow
def test_mixed_convolutions_that_split_their_channels_are_left_alone_and_named() -> None:
    said: list[str] = []
    model = make("mixnet_s", 32)
    pruned = remove_channels(model, PruneOptions(ratio=0.5), said.append)
    (line,) = said
    assert "blocks.1.0.conv_pw" in line
    assert cost(pruned.module, pruned.input).params_total < 0.7 * cost(model.module, model.input).params_total


def test_a_net_that_cannot_be_pruned_is_told_with_the_reason() -> None:
    model = replace(make("convnet(4)", 8), module=_Fixed().eval(), architecture="fixed")
    with pytest.raises(ConfigError, match="this model cannot be pruned") as caught:
        remove_channels(model, PruneOptions(ratio=0.5))
    assert (caught.value.code, caught.value.exit_code) == ("C45", 2)
    assert "no longer works" in caught.value.why


class _Fixed(nn.Module):
    """Cuts its channels into two parts of a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.head = nn.Conv2d(3, 8, 1), nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        one, two = torch.split(self.make(images), [5, 3], 1)
        return self.head(torch.cat([one.relu(), two], 1).mean((2, 3)))


class _Shuffled(nn.Module):
    """Reads its channels in another order than they are made in, which no dependency graph can see."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(self.make(images).flip(1)).relu().mean((2, 3)))


def test_channels_that_would_be_scrambled_are_left_alone() -> None:
    torch.manual_seed(0)  # other weights may have channels removed that happen to be each other's mirror images
    model = replace(make("convnet(4)", 8), module=_Shuffled().eval(), architecture="shuffled")
    said: list[str] = []
    pruned: Any = remove_channels(model, PruneOptions(ratio=0.5), said.append).module
    assert (pruned.make.out_channels, pruned.read.out_channels) == (8, 4)
    (line,) = said
    assert line.startswith("prune leaves alone: make (its logits differ by up to")


def test_a_net_of_nothing_but_such_channels_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), _Flip(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    model = replace(make("convnet(4)", 8), module=net.eval(), architecture="flipped")
    with pytest.raises(ConfigError, match="logits differ by up to") as caught:
        remove_channels(model, PruneOptions(ratio=0.5))
    assert caught.value.code == "C45"


class _Flip(nn.Module):
    """Turns the order of the channels round."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.flip(1)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.0},
        {"ratio": -0.1},
        {"ratio": ()},
        {"ratio": (0.5, 1.5)},
        {"criterion": "l3"},
        {"round_to": 0},
        {"epochs": -1},
        {"rate": 0.5},
    ],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        PruneOptions(**options)


@pytest.mark.parametrize(
    ("plan", "ratio"),
    [("prune", None), ("prune(0.7)", 0.7), ("prune(ratio=0.3)", 0.3), ("prune(ratio=(.2,.3,.4))", (0.2, 0.3, 0.4))],
)
def test_options_from_a_plan_and_back(plan: str, ratio: Any) -> None:
    ((_, _, options),) = check_plan(plan)
    assert isinstance(options, PruneOptions)
    assert options.ratio == ratio
    assert PruneOptions.model_validate_json(options.model_dump_json()) == options


def test_every_option_is_described() -> None:
    assert set(meanings(PruneOptions)) == set(PruneOptions.model_fields)


def test_reading_the_options_imports_no_torch() -> None:
    code = "import sys; from edgewise.compress.prune import PruneOptions; PruneOptions(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
