"""Depthwise-separable nets: counts by hand, what a block computes, and that every technique works on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgewise.bundle import InputSpec
from edgewise.compress import Context, apply_plan
from edgewise.compress.prune import PruneOptions, remove_channels
from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.desk import calibration_images
from edgewise.export.verify import parity
from edgewise.models import Model, create_model, rebuild
from edgewise.models.cost import cost
from edgewise.models.dscnn import Separable
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit, logits
from tests.train.conftest import CLASSES, SPEC, make_dataset

GRAY = InputSpec(28, 28, 1, mean=(0.5,), std=(0.5,))
TEN = [str(index) for index in range(10)]


def by_hand(widths: tuple[int, ...], strides: tuple[int, ...], side: int, classes: int) -> tuple[int, int]:
    """Parameters and MACs of a gray net, from the formula of its docstring."""
    side = -(-side // strides[0])
    params, macs = 9 * widths[0] + 2 * widths[0], 9 * widths[0] * side**2
    for before, width, stride in zip(widths, widths[1:], strides[1:], strict=False):
        side = -(-side // stride)
        params += 9 * before + before * width + 2 * width
        macs += (9 * before + before * width) * side**2
    return params + (widths[-1] + 1) * classes, macs + widths[-1] * classes


@pytest.mark.parametrize(
    ("written", "widths", "strides", "params"),
    [
        ("dscnn(16, 32, 32, 64)", (16, 32, 32, 64), (1, 2, 1, 2), 5_386),
        ("dscnn(16, 32, 32, strides=(2, 1, 2))", (16, 32, 32), (2, 1, 2), 2_602),
        ("dscnn(8)", (8,), (1,), 178),
    ],
)
def test_counts_by_hand(written: str, widths: tuple[int, ...], strides: tuple[int, ...], params: int) -> None:
    model = create_model(written, labels=TEN, input=GRAY)
    counted = cost(model.module, GRAY)
    assert counted.params_total == params
    assert (counted.params_total, counted.macs) == by_hand(widths, strides, 28, 10)


def test_what_a_block_computes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 9)
    for width, stride in ((6, 1), (6, 2), (8, 1)):
        block = Separable(6, width, stride)
        norm = block.norm
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        block.eval()
        y = F.conv2d(x, block.depthwise.weight, stride=stride, padding=1, groups=6)
        y = F.conv2d(y, block.pointwise.weight)
        y = F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        expected = (y + x if (width, stride) == (6, 1) else y).relu()
        assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="module")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("dscnn(8, 16, 16)", labels=CLASSES, input=SPEC, seed=0)
    options = TrainOptions(epochs=4, batch_size=16, lr=0.01, threads=1)
    return fit(model, dataset, Setup(options, 0, tmp_path_factory.mktemp("dscnn"))).model


@pytest.mark.parametrize("scheme", ["", "u8s8", "u8s8-rr", "s8s8-qop"])
def test_files_answer_as_torch_does(scheme: str, trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    images = dataset.test.images
    calibration = calibration_images(dataset.train, 60, seed=0)
    more = {"scheme": scheme, "calibration": calibration} if scheme else {}
    FORMATS["onnx"].write(trained, ExportSpec("int8" if scheme else "fp32", tmp_path / "work", **more), path)
    scores = RUNTIMES["onnx"].load(path).scores(images)
    found = parity(logits(trained, images), scores, "int8" if scheme else "fp32")
    assert found.passed
    assert found.top1_agreement >= (0.9 if scheme else 1.0)


def test_pruning_keeps_the_channels_of_a_shortcut_together() -> None:
    model = create_model("dscnn(8, 16, 16, 16)", labels=TEN, input=GRAY, seed=0)
    small = remove_channels(model, PruneOptions(ratio=0.5))
    assert cost(small.module, GRAY).params_total == by_hand((4, 8, 8, 8), (1, 2, 1, 1), 28, 10)[0]
    assert [name for name, part in small.module.named_modules() if getattr(part, "residual", False)] == [
        "block3",
        "block4",
    ]


@pytest.mark.parametrize(
    "plan",
    [
        "prune(0.5, epochs=1) > distill(epochs=1)",
        "decompose(0.5, min_gain=0)",
        "width(0.5)",
        "width(0.5, inherit=True)",
        "truncate(block2)",
        "palettize(4, epochs=1)",
        "sparsify(0.5, epochs=1)",
        "distill(student=dscnn(8, 16), epochs=8)",
    ],
)
def test_every_technique_works_on_it(plan: str, trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    options = TrainOptions(epochs=3, batch_size=16, lr=0.01, threads=1)

    def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        more = {} if loss is None else {"loss": loss}
        return fit(model, dataset, Setup(options, 0, tmp_path / "work", epochs=epochs, **more)).model

    made = apply_plan(trained, plan, Context(dataset, train, train, trained, seed=0))
    scores = logits(made, dataset.test.images)
    assert (scores.argmax(1) == dataset.test.labels).mean() > 0.5
    small, large = cost(made.module, made.input), cost(trained.module, trained.input)
    assert small.params_nonzero <= large.params_nonzero
    assert small.macs <= large.macs
    assert cost(rebuild(made, seed=1).module, made.input).params_total == small.params_total
    FORMATS["packed"].write(made, ExportSpec("fp32", tmp_path / "work"), tmp_path / "file")
    assert parity(scores, RUNTIMES["packed"].load(tmp_path / "file").scores(dataset.test.images), "fp32").passed
    assert np.isfinite(scores).all()
