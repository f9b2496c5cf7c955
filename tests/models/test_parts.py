"""Heads and stages of every family: found by name, checked by what the net computes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.errors import ConfigError
from edgewise.models import Model, create_model
from edgewise.models.parts import freeze, head_names, keep_frozen, stages
from edgewise.models.surgery import truncate_model
from tests.models.stitching import PUBLISHED

LABELS = ("a", "b", "c")
OWN = ["convnet(4, 8, 16)", "convnet(4)", "flatnet(4, 8, hidden=6)", "dscnn(4, 8, 8)"]
CUT = ["truncate(shufflenet_v2_x0_5, stage3)", 'truncate(mobilenetv3_small_050, "blocks.3")']
TORCHVISION = [
    f"torchvision/{name}"
    for name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "vgg11", "densenet121", "squeezenet1_1")
]
NETS = [*OWN, *CUT, *TORCHVISION, *(row["model"] for row in PUBLISHED), "convnext_atto", "vit_tiny_patch16_224"]
SIDES = {"vit_tiny_patch16_224": 224}


def make(architecture: str) -> Model:
    side = SIDES.get(architecture, 64)
    return create_model(architecture, labels=LABELS, input=InputSpec(side, side))


def images(model: Model, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, model.input.height, model.input.width, generator=generator)


def first_runs(model: Model) -> dict[str, int]:
    """Parameter name -> when the part that holds it first ran; parts that are not called as modules are left out."""
    order: dict[str, int] = {}

    def note(held: list[str]) -> Any:
        def hook(*_: object) -> None:
            for key in held:
                order.setdefault(key, len(order))

        return hook

    for name, part in model.module.named_modules():
        held = [f"{name}.{key}" for key, _ in part.named_parameters(recurse=False)]
        if held and name:
            part.register_forward_pre_hook(note(held))
    with torch.no_grad():
        model.module(images(model))
    return order


@pytest.mark.parametrize("architecture", NETS)
def test_head_and_stages_are_every_parameter_once_in_the_order_they_run(architecture: str) -> None:
    model = make(architecture)
    cut, head = stages(model.module), head_names(model.module)
    everything = [name for name, _ in model.module.named_parameters()]
    assert [*(name for _, names in cut for name in names), *head] == everything
    assert len({name for name, _ in cut}) == len(cut)
    order = first_runs(model)
    times = [[order[name] for name in names if name in order] for names in (*(names for _, names in cut), head)]
    assert all(times)
    assert all(max(before) < min(after) for before, after in itertools.pairwise(times))


@pytest.mark.parametrize("architecture", NETS)
def test_the_head_gives_the_logits(architecture: str) -> None:
    """Its bias moved by one in one class moves that logit by one and no other (behind ReLU and pooling: upwards)."""
    model = make(architecture)
    parameters = dict(model.module.named_parameters())
    weight, bias = (parameters[name] for name in head_names(model.module))
    assert (weight.shape[0], tuple(bias.shape)) == (3, (3,))
    with torch.no_grad():
        before = model.module(images(model))
        bias[1] += 1
        moved = model.module(images(model)) - before
    assert torch.equal(moved[:, [0, 2]], torch.zeros(2, 2))
    if "squeezenet" in architecture:
        assert bool(((moved[:, 1] > 0) & (moved[:, 1] <= 1 + 1e-5)).all())
    else:
        torch.testing.assert_close(moved[:, 1], torch.ones(2))


def test_the_head_of_a_pruned_and_of_a_cut_net() -> None:
    pruned = remove_channels(make("convnet(8, 8)"), PruneOptions(ratio=0.5))
    assert head_names(pruned.module) == ("classifier.weight", "classifier.bias")
    assert [name for name, _ in stages(pruned.module)] == ["block1", "block2"]
    cut = truncate_model(make("torchvision/resnet18"), "layer2")
    assert head_names(cut.module) == ("classifier.weight", "classifier.bias")
    assert [name for name, _ in stages(cut.module)] == ["stem", "features.layer1", "features.layer2"]


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("torchvision/resnet18", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("tinynet_e", ["stem", *(f"blocks.{number}" for number in range(7)), "neck"]),
        ("torchvision/shufflenet_v2_x0_5", ["stem", "stage2", "stage3", "stage4", "neck"]),
        ("torchvision/densenet121", ["stem", *(f"features.denseblock{number}" for number in (1, 2, 3, 4)), "neck"]),
        ("flatnet(4, 8, hidden=6)", ["block1", "block2", "neck"]),
        ("dscnn(4, 8, 8)", ["block1", "block2", "block3"]),
        ("convnet(4)", ["block1"]),
    ],
)
def test_stages_have_the_names_of_the_net(architecture: str, names: list[str]) -> None:
    assert [name for name, _ in stages(make(architecture).module)] == names


def test_a_net_without_a_classifier_is_told() -> None:
    with pytest.raises(ConfigError, match="no linear layer or 1x1 convolution") as caught:
        head_names(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    assert caught.value.code == "C62"


def train_a_step(module: nn.Module, model: Model) -> None:
    module.train()
    keep_frozen(module)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    torch.nn.functional.cross_entropy(module(images(model, 4)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


@pytest.mark.parametrize("architecture", ["convnet(4, 8, 16)", "mobilenetv3_small_050", "torchvision/resnet18"])
@pytest.mark.parametrize("spec", [0, 2, "backbone"])
def test_a_training_step_changes_what_is_not_frozen_and_nothing_else(architecture: str, spec: Any) -> None:
    model = make(architecture)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    cut = stages(model.module)
    frozen = freeze(model.module, spec)
    assert frozen == tuple(name for _, names in (cut if spec == "backbone" else cut[:spec]) for name in names)
    train_a_step(model.module, model)
    after = model.module.state_dict()
    owners = {name.rpartition(".")[0] for name in frozen}
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert not {name for name in changed if name.rpartition(".")[0] in owners}
    assert set(head_names(model.module)) <= changed
    moving = {name for name in after if "running_mean" in name and name.rpartition(".")[0] not in owners}
    assert moving <= changed


def test_without_keep_frozen_the_statistics_would_move() -> None:
    model = make("convnet(4, 8)")
    freeze(model.module, "backbone")
    before = model.module.block1.norm.running_mean.clone()
    model.module.train()
    model.module(images(model))
    assert not torch.equal(model.module.block1.norm.running_mean, before)


def test_a_norm_without_parameters_follows_the_part_around_it() -> None:
    net = nn.Sequential()
    for number in (1, 2):
        net.add_module(f"block{number}", nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)))
    net.add_module("classifier", nn.Conv2d(3, 2, 1))
    freeze(net, 1)
    net.train()
    keep_frozen(net)
    assert (net.block1[1].training, net.block2[1].training) == (False, True)


def test_freezing_less_sets_the_rest_free_again() -> None:
    module = make("convnet(4, 8)").module
    freeze(module, "backbone")
    assert freeze(module, 1) == ("block1.conv.weight", "block1.conv.bias", "block1.norm.weight", "block1.norm.bias")
    assert module.block2.conv.weight.requires_grad


def test_more_stages_than_there_are_is_told_with_their_names() -> None:
    with pytest.raises(ConfigError, match="2 stages, not 3") as caught:
        freeze(make("convnet(4, 8)").module, 3)
    assert (caught.value.code, caught.value.why) == ("C62", "block1, block2")
