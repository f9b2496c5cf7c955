"""ONNX files: right on their own runtime, single, self-explaining, readable by old runtimes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgewise.bundle import InputSpec
from edgewise.data import Dataset
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.base import OPSET
from edgewise.export.desk import calibration_images
from edgewise.export.onnx import SCHEMES
from edgewise.export.verify import parity
from edgewise.models import Model, create_model
from edgewise.train import logits
from tests.train.conftest import CLASSES

EXPORTER = FORMATS["onnx"]


def write(model: Model, folder: Path, precision: str, scheme: str = "", images: Dataset | None = None) -> Path:
    calibration = images.train.images if images else None
    path = folder / f"{precision}{scheme}.onnx"
    EXPORTER.write(model, ExportSpec(precision, folder / "work", scheme, calibration), path)
    return path


def test_fp32_is_the_model_for_any_batch_size(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    session = RUNTIMES["onnx"].load(write(trained, tmp_path, "fp32"))
    images = dataset.test.images
    checked = parity(logits(trained, images), session.scores(images), "fp32")
    assert checked.passed
    alone = np.concatenate([session.scores(images[i : i + 1]) for i in range(7)])
    assert np.allclose(alone, session.scores(images[:7]), atol=1e-5)


def test_halves_are_stored_and_floats_are_computed(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    """Every weight is its nearest float16, and the graph is otherwise that of fp32."""
    floating, halves = write(trained, tmp_path, "fp32"), write(trained, tmp_path, "fp16")
    assert halves.stat().st_size < 0.75 * floating.stat().st_size
    proto = onnx.load(halves)
    kinds = [tensor.data_type for tensor in proto.graph.initializer]
    assert kinds.count(onnx.TensorProto.FLOAT16) >= 3
    (image,), (scores,) = proto.graph.input, proto.graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert scores.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    rounded = trained.copy()
    images = dataset.test.images
    with torch.no_grad():
        for parameter in rounded.module.parameters():
            parameter.copy_(parameter.half().float())
    exact, got = logits(trained, images), RUNTIMES["onnx"].load(halves).scores(images)
    assert 0 < np.abs(exact - got).max() < 3 * np.abs(exact - logits(rounded, images)).max() + 1e-3


def test_weights_beyond_half_precision_stay_floats(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    large = trained.copy()
    with torch.no_grad():
        last = [module for module in large.module.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight.mul_(1e6)
    scores = RUNTIMES["onnx"].load(write(large, tmp_path, "fp16")).scores(dataset.test.images)
    expected = logits(large, dataset.test.images)
    assert np.abs(scores - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("opset", [13, 15, 17, 20])
def test_the_opset_is_the_one_asked_for(trained: Model, dataset: Dataset, tmp_path: Path, opset: int) -> None:
    for precision, scheme in (("fp32", ""), ("fp16", ""), ("int8", "u8s8-rr")):
        path = tmp_path / f"{precision}.onnx"
        spec = ExportSpec(precision, tmp_path / "work", scheme, dataset.train.images, opset)
        EXPORTER.write(trained, spec, path)
        assert [one.version for one in onnx.load(path).opset_import if one.domain == ""] == [opset]
        agreed = RUNTIMES["onnx"].load(path).scores(dataset.test.images).argmax(1)
        assert (agreed == logits(trained, dataset.test.images).argmax(1)).mean() >= 0.9


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("mean", [(0.5, 0.4, 0.3), (0.5, 0.5, 0.5)])
def test_the_scale_is_folded_into_the_first_layer_and_the_shift_where_nothing_is_padded(
    tmp_path: Path, padding: int, mean: tuple[float, float, float]
) -> None:
    torch.manual_seed(0)
    pool = torch.nn.AdaptiveAvgPool2d(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=padding), pool, torch.nn.Flatten())
    model = Model(net.eval(), "by hand", InputSpec(8, 8, 3, mean=mean, std=(0.2, 0.3, 0.25)), ("a", "b", "c", "d"))
    path = write(model, tmp_path, "fp32")
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "Mul" not in operators
    assert ("Add" in operators) == (padding > 0)
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    assert np.abs(RUNTIMES["onnx"].load(path).scores(images) - logits(model, images)).max() < 1e-5


def test_the_file_is_single_small_old_and_explains_itself(trained: Model, tmp_path: Path) -> None:
    path = write(trained, tmp_path, "fp32")
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["fp32.onnx"]
    proto = onnx.load(path)
    assert [imported.version for imported in proto.opset_import if imported.domain == ""] == [OPSET]
    assert proto.ir_version <= 8  # what onnxruntime 1.10 reads
    assert not any(tensor.data_location for tensor in proto.graph.initializer)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["edgewise.labels"]) == list(CLASSES)
    assert json.loads(facts["edgewise.input"])["height"] == 12
    (image,), (scores,) = proto.graph.input, proto.graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 12, 12, 1]
    assert scores.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("scheme", SCHEMES)
def test_int8_schemes_are_what_they_say_and_decide_like_the_model(
    trained: Model, dataset: Dataset, tmp_path: Path, scheme: str
) -> None:
    path = write(trained, tmp_path, "int8", scheme, dataset)
    proto = onnx.load(path)
    operators = {node.op_type for node in proto.graph.node}
    assert ("QLinearConv" in operators) == SCHEMES[scheme].qoperator
    assert ("DequantizeLinear" in operators and "Conv" in operators) == (not SCHEMES[scheme].qoperator)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    kernels = [value for value in values.values() if value.ndim == 4 and value.size > 4]
    assert kernels
    assert all(kernel.dtype == np.int8 for kernel in kernels)
    limit = 64 if SCHEMES[scheme].reduced else 127
    assert all(np.abs(kernel.astype(int)).max() <= limit for kernel in kernels)
    if not SCHEMES[scheme].reduced:
        assert any(np.abs(kernel.astype(int)).max() > 64 for kernel in kernels)
    bytes_ = {value.dtype.name for value in values.values() if value.ndim == 0 and value.dtype.itemsize == 1}
    assert ("uint8" in bytes_) == SCHEMES[scheme].unsigned  # zero points of activations
    checked = parity(
        logits(trained, dataset.test.images), RUNTIMES["onnx"].load(path).scores(dataset.test.images), "int8"
    )
    assert checked.top1_agreement >= 0.9
    assert 0 < checked.max_abs_logit_delta < 2.0


@pytest.mark.parametrize("scheme", ["u8s8-rr", "u8s8-rr-qop"])
def test_pixels_are_taken_as_quantized_where_the_mean_allows_it(
    trained: Model, dataset: Dataset, tmp_path: Path, scheme: str
) -> None:
    """Without the rewrite the same model answers the same, to within one step of the first layer's input."""
    proto = onnx.load(write(trained, tmp_path, "int8", scheme, dataset))
    assert not {"Cast", "Mul", "Add"} & {node.op_type for node in proto.graph.node}
    other = Model(trained.module, trained.architecture, InputSpec(12, 12, 1, mean=(0.5,), std=(0.5,)), trained.labels)
    plain = onnx.load(write(other, tmp_path / "plain", "int8", scheme, dataset))
    assert {"Cast", "Mul", "Add"} <= {node.op_type for node in plain.graph.node}
    images = dataset.test.images
    for model, folder in ((trained, tmp_path), (other, tmp_path / "plain")):
        scores = RUNTIMES["onnx"].load(folder / f"int8{scheme}.onnx").scores(images)
        assert np.abs(scores - logits(model, images)).max() < 1.0


def test_names_inside_the_graph_take_little_room(trained: Model, dataset: Dataset, tmp_path: Path) -> None:
    """What is not weights stays under 4 kB in fp32 and 8 kB in int8, nodes keep their layers' names."""
    weights = sum(parameter.numel() for parameter in trained.module.parameters())
    floating, quantized = write(trained, tmp_path, "fp32"), write(trained, tmp_path, "int8", "u8s8-rr", dataset)
    assert floating.stat().st_size - 4 * weights < 4_000
    assert quantized.stat().st_size - weights < 8_000
    nodes = [node.name for node in onnx.load(quantized).graph.node]
    assert any("conv" in name.lower() for name in nodes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3_small_050",
        "resnet18",
        "torchvision/shufflenet_v2_x0_5",
        "flatnet(8, 16, hidden=16)",
        "dscnn(8, 16, 16)",
    ],
)
def test_library_models_export_with_parity(name: str, tmp_path: Path) -> None:
    model = create_model(name, labels=CLASSES, input=InputSpec(32, 32), seed=0)
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    session = RUNTIMES["onnx"].load(write(model, tmp_path, "fp32"))
    delta = np.abs(logits(model, images) - session.scores(images)).max()
    assert delta < 1e-3
    assert len(np.unique(session.scores(images), axis=0)) > 1


def test_calibration_images_come_from_train_evenly_and_seeded(dataset: Dataset) -> None:
    chosen = calibration_images(dataset.train, 30, seed=4)
    rows = {image.tobytes(): label for image, label in zip(dataset.train.images, dataset.train.labels, strict=True)}
    labels = [rows[image.tobytes()] for image in chosen]
    assert [labels.count(label) for label in range(3)] == [10, 10, 10]
    assert np.array_equal(chosen, calibration_images(dataset.train, 30, seed=4))
    assert not np.array_equal(chosen, calibration_images(dataset.train, 30, seed=5))
    assert len(calibration_images(dataset.train, 10_000, seed=0)) == len(dataset.train)
