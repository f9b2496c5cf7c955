"""Grad-CAM: against a net with a planted detector, against autograd written out, and on nets of every family."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.models import Model, create_model
from edgewise.train.feed import Pixels
from edgewise.train.gradcam import COLOURS, find_target, heat_maps, overlay
from tests.models.stitching import PUBLISHED

SIDE = 24
GRAY = InputSpec(SIDE, SIDE, 1, mean=(0.0,), std=(1.0,))
LABELS = ("bright", "dark")


def detector() -> Model:
    """A net worked out by hand: a 3 x 3 mean, minus a threshold, ReLU, mean over places, +1 for bright, -1 for dark."""
    conv = nn.Conv2d(1, 2, 3, padding=1)
    with torch.no_grad():
        conv.weight[:] = 1 / 9
        conv.weight[1] *= -1
        conv.bias[:] = torch.tensor([-0.5, 0.2])
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight[:] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    parts = OrderedDict(conv=conv, act=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=linear)
    return Model(nn.Sequential(parts).eval(), "by hand", GRAY, LABELS)


def spot(row: int, column: int, size: int = 8) -> NDArray[np.uint8]:
    """A gray picture with a white square; (SIDE, SIDE, 1)."""
    image = np.full((SIDE, SIDE, 1), 80, dtype=np.uint8)
    image[row : row + size, column : column + size] = 255
    return image


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 12), (16, 9)])
def test_heat_is_where_the_planted_object_is(row: int, column: int) -> None:
    model = detector()
    assert find_target(model).name == "act"
    (heat,) = heat_maps(model, "act", spot(row, column)[None], np.array([0]))
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[row : row + 8, column : column + 8] = True
    assert heat[inside].mean() > 0.5
    assert heat[inside].mean() > 20 * heat[~inside].mean()
    assert (heat.min(), heat.max()) == (0.0, 1.0)


def test_heat_by_hand() -> None:
    """One filter fires; its gradient is the same at every place, so the map is the filter's own answer."""
    (heat,) = heat_maps(detector(), "act", spot(8, 8)[None], np.array([0]))
    padded = np.pad(spot(8, 8)[..., 0] / 255, 1)
    mean = sum(padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)) / 9
    expected = np.maximum(mean - 0.5, 0)
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-6)


def test_what_speaks_against_a_class_is_no_heat() -> None:
    everywhere = np.full((1, SIDE, SIDE, 1), 255, dtype=np.uint8)
    assert heat_maps(detector(), "act", everywhere, np.array([1])).max() == 0.0


def written_out(model: Model, layer: str, images: NDArray[np.uint8], targets: list[int]) -> NDArray[np.float64]:
    """Equations 1 and 2 of the paper, one image at a time, with autograd on a clone of the layer's output."""
    kept: list[torch.Tensor] = []

    def keep(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output)
        return output.clone()  # what follows may change it in place

    maps = []
    hook = model.module.get_submodule(layer).register_forward_hook(keep)
    for image, target in zip(images, targets, strict=True):
        kept.clear()
        score = model.module(Pixels(model.input, torch.device("cpu"))(image[None]))[0, target]
        (gradient,) = torch.autograd.grad(score, kept[0])
        weights = gradient[0].mean(dim=(1, 2))
        maps.append(torch.relu((weights[:, None, None] * kept[0][0]).sum(dim=0)).detach())
    hook.remove()
    scaled = nn.functional.interpolate(torch.stack(maps)[:, None], images.shape[1:3], mode="bilinear")[:, 0]
    largest = scaled.amax(dim=(1, 2), keepdim=True)
    return (scaled / torch.where(largest > 0, largest, 1)).double().numpy()


OTHERS = [
    "convnet(8, 16)",
    "flatnet(8, 16, hidden=16)",
    "torchvision/resnet18",
    "torchvision/densenet121",  # changes the layer's output in place afterwards
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v2",
    "truncate(shufflenet_v2_x0_5, stage3)",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OTHERS, *(row["model"] for row in PUBLISHED)])
def test_maps_of_all_families_are_those_of_the_paper(name: str) -> None:
    model = create_model(name, labels=("a", "b", "c"), input=InputSpec(64, 64), seed=3)
    target = find_target(model)
    assert target.name is not None
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = heat_maps(model, target.name, images, np.array([0, 1, 2]))
    np.testing.assert_allclose(found, written_out(model, target.name, images, [0, 1, 2]), atol=2e-3)


def test_the_last_map_is_found_and_its_size_said() -> None:
    net = create_model("convnet(8, 16)", labels=LABELS, input=GRAY)
    assert find_target(net).name == "block2"
    assert find_target(net).note == "12 x 12 places, 16 channels"
    flat = create_model("flatnet(8, 16, hidden=16)", labels=LABELS, input=GRAY)
    assert (find_target(flat).name, find_target(flat).note) == ("block2", "6 x 6 places, 16 channels")


def test_a_pruned_net_has_its_map() -> None:
    net = create_model("convnet(16, 32)", labels=LABELS, input=GRAY)
    pruned = remove_channels(net, PruneOptions(ratio=0.5))
    target = find_target(pruned)
    assert (target.name, target.note) == ("block2", "12 x 12 places, 16 channels")
    assert heat_maps(pruned, "block2", spot(3, 3)[None], np.array([1])).shape == (1, SIDE, SIDE)


class Shared(nn.Module):
    """One ReLU that runs twice: captum would mix up its two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.act(self.second(self.act(self.first(images))))
        return torch.as_tensor(self.head(maps.mean(dim=(2, 3))))


def test_a_layer_that_runs_twice_is_passed_over() -> None:
    torch.manual_seed(0)
    model = Model(Shared().eval(), "by hand", GRAY, LABELS)
    assert find_target(model).name == "second"
    images = np.stack([spot(2, 3), spot(9, 9)])
    found = heat_maps(model, "second", images, np.array([0, 1]))
    np.testing.assert_allclose(found, written_out(model, "second", images, [0, 1]), atol=1e-5)


class Tokens(nn.Module):
    """Patches as tokens, mixed along the image: what a transformer returns, without its size."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 6, 4, stride=4)
        self.mix = nn.Linear(36, 36)
        self.head = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.mix(self.patch(images).flatten(2)).transpose(1, 2)
        return torch.as_tensor(self.head(tokens.mean(dim=1)))


class ChannelsLast(nn.Module):
    """A map with its channels at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.norm(self.conv(images).permute(0, 2, 3, 1)).mean(dim=(1, 2))))


@pytest.mark.parametrize(
    ("module", "note"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2)), "no layer of it returns a map of places"),
        (Tokens(), 'its last layer with places, "mix", returns 6 x 36 and not channels x height x width'),
        (ChannelsLast(), 'its last layer with places, "norm", returns 24 x 24 x 6 and not channels x height x width'),
    ],
)
def test_a_net_without_a_map_says_so(module: nn.Module, note: str) -> None:
    found = find_target(Model(module.eval(), "by hand", GRAY, LABELS))
    assert (found.name, found.note) == (None, note)


@pytest.mark.slow
def test_a_vision_transformer_has_no_map() -> None:
    net = create_model("vit_tiny_patch16_224", labels=LABELS, input=InputSpec(224, 224))
    assert find_target(net).name is None
    assert '"norm", returns 197 x 192' in find_target(net).note


def test_hooks_are_taken_off_and_weights_get_no_gradient() -> None:
    model = detector()
    before = model.module(torch.ones(1, 1, SIDE, SIDE))
    find_target(model)
    heat_maps(model, "act", spot(1, 1)[None], np.array([0]))
    assert not any(part._forward_hooks for part in model.module.modules())
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert torch.equal(before, model.module(torch.ones(1, 1, SIDE, SIDE)))


def test_overlay_leaves_cold_places_alone_and_colours_hot_ones() -> None:
    image = np.full((1, 3, 3), 100, dtype=np.uint8)
    laid = overlay(image, np.array([[0.0, 0.5, 1.0]]))
    assert laid[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_array_equal(laid[0, 1], (0.65 * 100 + 0.35 * COLOURS[2]).round())
    np.testing.assert_array_equal(laid[0, 2], (0.3 * 100 + 0.7 * COLOURS[4]).round())
    assert overlay(np.full((2, 2, 1), 7, dtype=np.uint8), np.zeros((2, 2))).tolist() == [[[7] * 3] * 2] * 2
