"""Structural edits: cutting nets short, recording and replaying layer sizes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, UntrustedError
from edgewise.models import create_model, rebuild
from edgewise.models.surgery import apply, resize_edit, truncate_model

SPEC = InputSpec(64, 64)
LABELS = ("a", "b", "c")


def make(architecture: str, seed: int = 0) -> Any:
    return create_model(architecture, labels=LABELS, input=SPEC, seed=seed)


def shuffle_statistics(module: nn.Module) -> nn.Module:
    """Fresh batch norms are the identity; give them something to do."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator) / 10)
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return module


@pytest.mark.parametrize(
    ("architecture", "after", "maps"),
    [
        ("torchvision/resnet18", "layer2", 128),
        ("torchvision/mobilenet_v2", "features.6", 32),
        ("torchvision/mobilenet_v3_small", "features.4", 40),
        ("shufflenet_v2_x0_5", "stage3", 96),
        ("resnet18", "layer1", 64),
        ("mobilenetv3_small_050", "blocks.3", 24),
        ("tinynet_e", "blocks", 160),
        ("convnet(4, 8, 16)", "block2", 8),
    ],
)
def test_a_cut_net_computes_what_the_whole_net_computes_there(architecture: str, after: str, maps: int) -> None:
    model = make(architecture)
    shuffle_statistics(model.module)
    cut = truncate_model(model, after)
    seen: list[torch.Tensor] = []
    model.module.get_submodule(after).register_forward_hook(lambda _, inputs, output: seen.append(output.clone()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.module(images)
        assert torch.equal(cut.module.features(images), seen[0])
        classifier = cut.module.classifier
        torch.testing.assert_close(cut.module(images), classifier(seen[0].mean((2, 3))))
    assert (classifier.in_features, classifier.out_features) == (maps, 3)


def test_truncating_a_model_is_recorded_and_replayed_and_leaves_the_model_alone() -> None:
    model = make("resnet18")
    before = copy.deepcopy(model.module.state_dict())
    cut = truncate_model(model, "layer2", seed=4)
    assert cut.structure == ({"edit": "truncate", "after": "layer2", "input": [3, 64, 64], "classes": 3},)
    assert model.structure == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    again = rebuild(cut, seed=9)
    assert again.structure == cut.structure
    shapes = [{name: tensor.shape for name, tensor in each.module.state_dict().items()} for each in (cut, again)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(cut.module.features.conv1.weight, again.module.features.conv1.weight)


def test_truncate_is_seeded_and_leaves_the_random_state_alone() -> None:
    model = make("convnet(4, 8)")
    state = torch.get_rng_state()
    first, again, other = (truncate_model(model, "block1", seed=seed).module.classifier.weight for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class _Skips(nn.Module):
    """`second` runs on something else than what `first` returned, in a way that only values show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.second(torch.relu_(self.first(images)))
        return self.head(maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("second", 'up to "second" do not simply follow one another'),
        ("unused", '"unused" does not run'),
        ("head", "do not simply follow|cannot be multiplied|shapes"),
        ("secnd", 'did you mean "second"'),
        ("second.deeper", "do not simply follow"),
    ],
)
def test_what_is_not_a_chain_is_refused(after: str, told: str) -> None:
    model = make("convnet(4)")
    skips = type(model)(_Skips().eval(), "skips", SPEC, LABELS)
    with pytest.raises(ConfigError, match=told) as caught:
        truncate_model(skips, after)
    assert caught.value.code == "C44"
    assert truncate_model(skips, "first").module.classifier.in_features == 4


@pytest.mark.parametrize(
    ("architecture", "after"), [("vit_tiny_patch16_224", "blocks"), ("torchvision/swin_t", "features")]
)
def test_transformers_are_refused(architecture: str, after: str) -> None:
    with pytest.raises(ConfigError, match="cannot be cut there"):
        truncate_model(make(architecture), after)


def test_resize_edit_of_equal_nets_is_none() -> None:
    assert resize_edit(make("mobilenetv3_small_050").module, make("mobilenetv3_small_050", seed=1).module) is None


def test_resizing_reaches_the_sizes_of_a_narrower_net() -> None:
    wide, narrow = make("convnet(8, 16)").module, make("convnet(5, 9)").module
    edit = resize_edit(wide, narrow)
    assert edit is not None
    assert edit["layers"]["block2.conv"] == {"out_channels": 9, "in_channels": 5, "groups": 1}
    assert edit["layers"]["block1.norm"] == {"num_features": 5}
    assert edit["layers"]["classifier"] == {"out_features": 3, "in_features": 9}
    resized = apply(wide, [edit])
    assert str(resized) == str(narrow)
    assert {n: t.shape for n, t in resized.state_dict().items()} == {n: t.shape for n, t in narrow.state_dict().items()}


def test_a_resized_layer_starts_with_the_spread_of_a_layer_made_that_size() -> None:
    """Torch draws weights from +-1/sqrt(fan-in); a slice of a wider layer must be scaled to that."""
    wide, narrow = make("convnet(64, 64)").module, make("convnet(8, 64)").module
    edit = resize_edit(wide, narrow)
    assert edit is not None
    weight = apply(wide, [edit]).block2.conv.weight
    bound = (8 * 9) ** -0.5
    assert bound * 0.98 < float(weight.detach().abs().max()) <= bound * 1.0001


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"edit": "explode"}, "unknown edit 'explode'"),
        ({"layers": {}}, "unknown edit None"),
        ({"edit": ["resize"], "layers": {}}, "unknown edit"),
        ({"edit": "resize"}, "holds the sizes of layers"),
        ({"edit": "resize", "layers": {}, "more": 1}, "and nothing else"),
        ({"edit": "resize", "layers": {"block9.conv": {}}}, 'no layer "block9.conv"'),
        ({"edit": "resize", "layers": {"classifier": {"in_features": 2}}}, "described by out_features, in_features"),
        ({"edit": "resize", "layers": {"classifier": 3}}, "described by"),
        ({"edit": "resize", "layers": {"classifier": {"out_features": 3, "in_features": 99}}}, "cannot go from"),
        ({"edit": "resize", "layers": {"classifier": {"out_features": 3, "in_features": 0}}}, "at least 1"),
        ({"edit": "resize", "layers": {"classifier": {"out_features": 3, "in_features": "8"}}}, "whole numbers"),
        ({"edit": "resize", "layers": {"classifier": {"out_features": 3, "in_features": True}}}, "whole numbers"),
        ({"edit": "resize", "layers": {"block1.norm": {"num_features": [4]}}}, ""),
        (
            {"edit": "resize", "layers": {"block2.conv": {"out_channels": 8, "in_channels": 4, "groups": 3}}},
            "not multiples of its 3 groups",
        ),
        ({"edit": "truncate", "after": "block1"}, "holds after, input and classes"),
        ({"edit": "truncate", "after": "block1", "input": [3, 64], "classes": 3}, r"\[channels, height, width\]"),
        (
            {"edit": "truncate", "after": "block1", "input": [3, 64, 10**9], "classes": 3},
            r"\[channels, height, width\]",
        ),
    ],
)
def test_edits_that_do_not_fit_are_refused(edit: Any, told: str) -> None:
    module = make("convnet(4, 8)").module
    if told:
        with pytest.raises(UntrustedError, match=told) as caught:
            apply(module, [edit])
        assert (caught.value.code, caught.value.exit_code) == ("U12", 6)
    else:
        assert apply(module, [edit]) is module
