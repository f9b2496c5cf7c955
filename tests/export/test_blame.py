"""The layer that is named is the one that was written wrongly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.blame import first_difference
from edgewise.export.onnx import OnnxExporter
from edgewise.models import Model
from tests.train.conftest import CLASSES, SPEC


class Wrong(OnnxExporter):
    """Writes one layer of the net as something else."""

    def __init__(self, alter: Callable[[nn.Module], None]) -> None:
        self.alter = alter
        self.written = 0

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        copy = model.copy()
        self.alter(copy.module)
        self.written += 1
        super().write(copy, spec, path)


def scaled(name: str) -> Callable[[nn.Module], None]:
    """The named layer's weights are 2 % too large; in a cut net the layer has the same name behind a prefix."""

    def alter(net: nn.Module) -> None:
        for path, module in net.named_modules():
            if path.removeprefix("net.") == name:
                with torch.no_grad():
                    module.weight.mul_(1.02)  # type: ignore[union-attr, operator]

    return alter


class Branches(nn.Module):
    """Two branches that are run one after the other and added by an operation that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.first(image)
        total = self.left(image)
        total += self.right(image)
        out: torch.Tensor = self.head(self.pool(self.act(total)).flatten(1))
        return out


@pytest.fixture(scope="module")
def branches() -> Model:
    torch.manual_seed(1)
    return Model(Branches().eval(), "by hand", SPEC, CLASSES)


def named(model: Model, exporter: OnnxExporter, dataset: Dataset, folder: Path, precision: str = "fp32") -> str:
    images = dataset.test.images[:8]
    return first_difference(model, exporter, RUNTIMES["onnx"], images, ExportSpec(precision, folder))


def test_each_layer_of_a_chain_is_found(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    layers = {name: module for name, module in trained.module.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(layers) == 2
    for name in layers:
        exporter = Wrong(scaled(name))
        assert named(trained, exporter, dataset, tmp_path) == f"{name} (Conv2d)"
        assert exporter.written <= 6, "cuts are bisected, not tried one by one"


@pytest.mark.parametrize("name", ["first", "left.0", "right.0", "right.3", "head"])
def test_a_layer_in_either_branch_is_found(branches: Model, dataset: Dataset, tmp_path: Path, name: str) -> None:
    assert named(branches, Wrong(scaled(name)), dataset, tmp_path).startswith(f"{name} (")


def test_an_operation_that_is_no_layer_is_told_by_its_neighbours(
    branches: Model, dataset: Dataset, tmp_path: Path
) -> None:
    def alter(net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, Branches):

                def forward(image: torch.Tensor, self: Branches = module) -> torch.Tensor:
                    image = self.first(image)
                    total = self.left(image) + 1.1 * self.right(image)
                    return self.head(self.pool(self.act(total)).flatten(1))  # type: ignore[no-any-return]

                module.forward = forward  # type: ignore[method-assign, assignment]

    found = named(branches, Wrong(alter), dataset, tmp_path)
    assert found in {"act (ReLU), after right.3 (Conv2d)", "act (ReLU), after right (Sequential)"}


def test_nothing_is_named_where_nothing_is_wrong(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    exporter = FORMATS["onnx"]
    assert isinstance(exporter, OnnxExporter)
    for precision in ("fp32", "fp16"):
        assert named(trained, exporter, dataset, tmp_path / precision, precision) == ""


def test_values_that_are_not_finite_are_a_difference(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    def alter(net: nn.Module) -> None:
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.fill_(np.nan)

    name = next(name for name, module in trained.module.named_modules() if isinstance(module, nn.Linear))
    assert named(trained, Wrong(alter), dataset, tmp_path) == f"{name} (Linear)"


def test_the_net_is_left_as_it_was(branches: Model, dataset: Dataset, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in branches.module.state_dict().items()}
    named(dataclasses.replace(branches), Wrong(scaled("left.0")), dataset, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in branches.module.state_dict().items())
    assert all(module.inplace for module in branches.module.modules() if isinstance(module, nn.ReLU))
    assert not any(module._forward_hooks for module in branches.module.modules())
