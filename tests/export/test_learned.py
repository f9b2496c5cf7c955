"""The int8 file of a model that was trained for it: its simulation, in int8 operators, on several nets and runtimes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress import Context, apply_plan
from edgewise.compress.simulate import simulation
from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.errors import ExportError
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.deliver import LEARNT, deliver
from edgewise.export.desk import Order
from edgewise.export.learned import learnt_scheme, write_learnt
from edgewise.export.packed import layout as packed_layout
from edgewise.export.verify import parity
from edgewise.models import Model, create_model
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions, TrainOptions
from edgewise.train import Setup, fit, logits
from tests.train.conftest import CLASSES, make_dataset

DATA = make_dataset(noise=90.0)


def context_of(model: Model, folder: Path, dataset: Dataset = DATA) -> Context:
    options = TrainOptions(epochs=2, batch_size=16, lr=0.005, threads=1, patience=0)

    def train(one: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        more = {} if loss is None else {"loss": loss}
        return fit(one, dataset, Setup(options, 0, folder / "work", epochs=epochs, **more)).model

    return Context(dataset, train, train, model, seed=0)


@pytest.fixture(scope="module")
def learnt(trained: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return apply_plan(trained, "qat", context_of(trained, tmp_path_factory.mktemp("qat")))


def write(model: Model, folder: Path, scheme: str = "", opset: int = 13) -> Path:
    path = folder / "int8.onnx"
    scheme = scheme or learnt_scheme(model)
    FORMATS["onnx"].write(model, ExportSpec("int8", folder / "work", scheme, DATA.train.images, opset), path)
    return path


def everything() -> np.ndarray:
    return np.concatenate([DATA.test.images, DATA.train.images, DATA.val.images])


def operators(path: Path, folder: Path) -> list[str]:
    """What onnxruntime makes of a file when it opens it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize("plan", ["qat(epochs=1)", "qat(u8s8, epochs=1)", "qat(s8s8, ranges=ema, epochs=1)"])
def test_the_file_decides_like_its_simulation(trained: Model, tmp_path: Path, plan: str) -> None:
    """At least 99.5 % of decisions, and logits within a step or two of the last layer's input."""
    made = apply_plan(trained, plan, context_of(trained, tmp_path))
    images = everything()
    expected = logits(simulation(made), images)
    got = RUNTIMES["onnx"].load(write(made, tmp_path)).scores(images)
    assert (expected.argmax(1) == got.argmax(1)).mean() >= 0.995
    assert np.abs(expected - got).max() < 0.1 * np.abs(expected - logits(made, images)).max() + 0.02


def test_the_file_holds_what_was_learnt_in_int8_operators_alone(learnt: Model, tmp_path: Path) -> None:
    path = write(learnt, tmp_path)
    values = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    kernels = [value for value in values.values() if value.ndim == 4]
    (edit,) = learnt.structure
    for name, record in edit["layers"].items():
        layer: Any = learnt.module.get_submodule(name)
        steps = 2 * np.asarray(record["scales"], np.float32)
        whole = layer.weight.detach().numpy() / steps.reshape((-1,) + (1,) * (layer.weight.dim() - 1))
        assert any(value.shape == whole.shape and np.array_equal(value, whole) for value in values.values())
        assert any(value.shape == steps.shape and np.array_equal(value, steps) for value in values.values())
    assert all(kernel.dtype == np.int8 and np.abs(kernel.astype(int)).max() <= 64 for kernel in kernels)
    scalars = [float(value) for value in values.values() if value.ndim == 0 and value.dtype == np.float32]
    for step, _ in edit["points"].values():
        assert any(step == pytest.approx(scalar, rel=1e-6) for scalar in scalars)
    made = operators(path, tmp_path)
    assert made.count("QLinearConv") == 2
    assert "QGemm" in made
    assert not {"Conv", "Gemm", "Relu", "Cast", "Mul", "BatchNormalization"} & set(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "float_layers"),
    [("mobilenetv2_050", 0), ("torchvision/shufflenet_v2_x0_5", 1), ("flatnet(4, 8, hidden=16)", 0)],
)
def test_residual_shuffled_and_flattened_nets_become_int8_throughout(
    name: str, float_layers: int, tmp_path: Path
) -> None:
    """Additions, ReLU6, channel shuffles and splits, norms behind activations; no layer computes in float. The last
    convolution of an untrained ShuffleNet feeds a mean over places, which onnxruntime leaves in float."""
    spec = InputSpec(32, 32)
    images = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    train = dataclasses.replace(DATA.train, images=images, labels=np.arange(48) % 3)
    model = create_model(name, labels=CLASSES, input=spec, seed=0)
    made = apply_plan(model, "qat(epochs=0)", context_of(model, tmp_path, dataclasses.replace(DATA, train=train)))
    path = write(made, tmp_path)
    ran = operators(path, tmp_path)
    assert sum(ran.count(kind) for kind in ("Conv", "FusedConv", "Gemm", "MatMul", "Add")) <= 14 * float_layers
    assert not {"Conv", "FusedConv", "Gemm"} & set(ran)
    expected, got = logits(simulation(made), images), RUNTIMES["onnx"].load(path).scores(images)
    off = np.abs(expected - logits(made, images)).max()
    assert np.abs(expected - got).max() <= off + 1e-6
    assert (expected.argmax(1) == got.argmax(1)).mean() >= 0.95


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_every_opset_is_written(learnt: Model, tmp_path: Path, opset: int) -> None:
    path = write(learnt, tmp_path, opset=opset)
    assert [one.version for one in onnx.load(path).opset_import if one.domain == ""] == [opset]
    got = RUNTIMES["onnx"].load(path).scores(DATA.test.images)
    assert (got.argmax(1) == logits(learnt, DATA.test.images).argmax(1)).mean() >= 0.9


def test_every_precision_is_still_written(learnt: Model, tmp_path: Path) -> None:
    images = DATA.test.images
    for precision in ("fp32", "fp16"):
        path = tmp_path / f"{precision}.onnx"
        FORMATS["onnx"].write(learnt, ExportSpec(precision, tmp_path / "work"), path)
        assert parity(logits(learnt, images), RUNTIMES["onnx"].load(path).scores(images), precision).passed
    packed = tmp_path / "model.packed"
    FORMATS["packed"].write(learnt, ExportSpec("fp32", tmp_path / "packed"), packed)
    assert [tensor["kind"] for tensor in packed_layout(packed.read_bytes())["tensors"]].count("grid") >= 2


def test_another_scheme_is_calibrated_anew(learnt: Model, tmp_path: Path) -> None:
    got = RUNTIMES["onnx"].load(write(learnt, tmp_path, "u8s8-qop")).scores(DATA.test.images)
    assert (got.argmax(1) == logits(learnt, DATA.test.images).argmax(1)).mean() >= 0.9
    assert not (tmp_path / "work" / "simulated.onnx").exists()


def test_an_order_keeps_what_was_learnt(learnt: Model, tmp_path: Path) -> None:
    order = Order("m", learnt, ("int8",), tmp_path / "bundles", tmp_path / "work", {})
    outcome = deliver(order, "onnx", DATA, ExportOptions(int8_max_drop=0.5), seed=0, progress=Silent())
    assert [one.scheme for one in outcome.candidates] == ["u8s8-rr"]
    (made,) = outcome.exported
    assert made.manifest.lineage["int8"] == LEARNT
    assert made.manifest.scheme == "u8s8-rr"


def test_a_layer_that_is_not_found_in_the_graph_is_told(trained: Model, tmp_path: Path) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = trained.copy().module, nn.Linear(3, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.net(image)  # type: ignore[no-any-return]

    model = dataclasses.replace(trained, module=Spare().eval())
    made = apply_plan(model, "qat(epochs=0)", context_of(model, tmp_path))
    (edit,) = made.structure
    record = {"bits": 7, "scales": [1.0] * 3, "centres": [128] * 3}
    damaged = dataclasses.replace(made, structure=({**edit, "layers": {**edit["layers"], "spare": record}},))
    with pytest.raises(ExportError, match="not found") as caught:
        write_learnt(damaged, tmp_path / "f.onnx", 13)
    assert caught.value.code == "X40"
    assert caught.value.where["layers"] == "spare"
