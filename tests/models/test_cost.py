"""Counts: exact published figures, and an independent counting tool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.models import create_model, profile
from edgewise.models.cost import cost

from .stitching import PUBLISHED, TRAINING_MODE


@pytest.mark.parametrize(
    ("architecture", "classes", "size", "params", "macs"),
    [
        ("convnet(32,64,128, dropout=0.2)", 2, 128, 93_954, 165_150_976),
        ("convnet(8,16,32)", 2, 128, 6_210, 12_976_192),
        ("convnet(24,48,96, dropout=0.1)", 2, 128, 53_186, 95_551_680),
        ("truncate(shufflenet_v2_x0_5, stage3)", 9, 64, 54_057, 1_975_392),
        ("truncate(shufflenet_v2_x0_5, stage3)", 9, 32, 54_057, 494_496),
    ],
)
def test_the_published_counts_of_the_systems(
    architecture: str, classes: int, size: int, params: int, macs: int
) -> None:
    row = profile(architecture, classes=classes, size=size)
    assert (row["params_total"], row["macs"], row["flops"]) == (params, macs, 2 * macs)
    assert row["size_bytes"] == 4 * params
    assert row["params_zero"] + row["params_nonzero"] == params


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["model"])
def test_the_published_parameters_of_the_stitching_table(row: dict[str, Any]) -> None:
    ours = profile(row["model"], classes=11, size=224)
    assert ours["params_total"] == row["params"]
    assert round(ours["size_bytes"] / 2**20, 4) == row["size_mb"]


def assert_published_operations(row: dict[str, Any]) -> None:
    """The published column is fvcore's own total; in training mode batch norm counts 5 per value there instead of 2."""
    spec = InputSpec(224, 224)
    module = create_model(row["model"], labels=[str(index) for index in range(11)], input=spec).module
    by_operator = count_with_fvcore(module, 224)
    assert cost(module, spec).macs == by_operator["conv"] + by_operator["linear"]
    further = by_operator["batch_norm"] * 3 // 2 if row["model"] in TRAINING_MODE else 0
    assert sum(by_operator.values()) + further == row["ops_published"]


@pytest.mark.parametrize("model", ["mobilenetv3_small_050", "tinynet_e"])
def test_the_published_operations_are_our_macs_plus_norms_and_pools(model: str) -> None:
    assert_published_operations(next(row for row in PUBLISHED if row["model"] == model))


@pytest.mark.slow
@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["model"])
def test_the_published_operations_of_every_row(row: dict[str, Any]) -> None:
    assert_published_operations(row)


def count_with_fvcore(module: nn.Module, size: int) -> Any:
    analysis = FlopCountAnalysis(module, torch.zeros(1, 3, size, size))
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("convnet(4, 8)", 32),
        ("flatnet(4, 8)", 32),
        ("dscnn(4, 8, 8)", 32),
        ("resnet18", 64),
        ("mobilenetv3_small_050", 64),
        ("shufflenet_v2_x0_5", 64),
    ],
)
def test_macs_are_what_fvcore_counts_for_convolutions_and_linear_layers(architecture: str, size: int) -> None:
    spec = InputSpec(size, size)
    module = create_model(architecture, labels=["a", "b", "c"], input=spec).module
    by_operator = count_with_fvcore(module, size)
    assert cost(module, spec).macs == by_operator["conv"] + by_operator["linear"]


class _Odd(nn.Module):
    """Linear layers on sequences, with and without bias, and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.second(self.first(images.flatten(2)))  # (N, 3, 6) -> (N, 3, 4)
        return (tokens @ tokens.transpose(1, 2)).flatten(1)


def test_linear_layers_count_per_position_and_products_of_activations_do_not() -> None:
    assert cost(_Odd(), InputSpec(2, 3)).macs == 3 * 6 * 5 + 3 * 5 * 4


def test_grouped_convolutions_count_their_own_inputs_only() -> None:
    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, groups=3), nn.Conv2d(12, 12, 3, stride=2, groups=12))
    assert cost(net, InputSpec(9, 9)).macs == 12 * 81 * 9 + 12 * 16 * 9


def test_zeros_are_counted_exactly_and_once() -> None:
    spec = InputSpec(8, 8)
    module = create_model("convnet(4)", labels=["a", "b"], input=spec).module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(1e-30)
        module.block1.conv.weight[1:3] = 0
        module.classifier.bias[0] = -0.0
    counted = cost(module, spec)
    assert counted.params_zero == 2 * 27 + 1
    assert counted.params_total == counted.params_zero + counted.params_nonzero == 4 * 27 + 4 + 8 + 8 + 2


def test_bytes_follow_the_number_format() -> None:
    spec = InputSpec(8, 8)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    assert cost(module, spec).size_bytes == 4 * (192 * 2 + 2)
    assert cost(module.double(), spec).size_bytes == 8 * (192 * 2 + 2)


def test_counting_changes_neither_modes_nor_statistics() -> None:
    spec = InputSpec(16, 16)
    module = create_model("convnet(4, 8, dropout=0.5)", labels=["a", "b"], input=spec).module.train()
    module.block1.norm.eval()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    cost(module, spec)
    modes = {name: part.training for name, part in module.named_modules()}
    assert modes.pop("block1.norm") is False
    assert all(modes.values())
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_macs_follow_the_area_and_the_input_channels() -> None:
    small, large = (profile("convnet(4)", classes=2, size=size)["macs"] for size in (16, 32))
    assert large - 8 == 4 * (small - 8)
    assert profile("convnet(4)", classes=2, size=16, channels=1)["macs"] - 8 == (small - 8) // 3


def test_a_channel_count_that_is_neither_gray_nor_colour() -> None:
    with pytest.raises(ValueError, match="channels is 1 or 3, not 4"):
        profile("convnet(4)", classes=2, size=16, channels=4)
