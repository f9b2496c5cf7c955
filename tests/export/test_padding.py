""" "Same" padding: worked out once, the net unchanged, and an attribute of the convolution in ONNX files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgewise.bundle import InputSpec
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.onnx import SCHEMES, float_file
from edgewise.export.padding import fold_pads, with_fixed_padding
from edgewise.models import Model, create_model
from edgewise.train import logits


@pytest.fixture(scope="module")
def lite() -> Model:
    return create_model("tf_efficientnet_lite0", labels=("a", "b"), input=InputSpec(33, 46), seed=0)


def test_the_net_answers_alike_and_is_not_changed(lite: Model) -> None:
    before = str(lite.module)
    fixed = with_fixed_padding(lite).eval()
    image = torch.randn(2, 3, 33, 46, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(fixed(image), lite.module.eval()(image))
    assert str(lite.module) == before
    assert [name for name, _ in fixed.named_parameters()] == [name for name, _ in lite.module.named_parameters()]


def test_other_nets_are_left_as_they_are() -> None:
    model = create_model("convnet(4)", labels=("a", "b"), input=InputSpec(8, 8), seed=0)
    assert with_fixed_padding(model) is model.module


def test_the_file_has_no_padding_nodes_and_answers_as_the_net(lite: Model, tmp_path: Path) -> None:
    kinds = Counter(node.op_type for node in onnx.load(float_file(lite, ExportSpec("fp32", tmp_path))).graph.node)
    assert kinds["Pad"] == kinds["Shape"] == kinds["Ceil"] == 0
    images = np.random.default_rng(0).integers(0, 256, (3, 33, 46, 3), dtype=np.uint8)
    FORMATS["onnx"].write(lite, ExportSpec("fp32", tmp_path), tmp_path / "m.onnx")
    answers = RUNTIMES["onnx"].load(tmp_path / "m.onnx").scores(images)
    np.testing.assert_allclose(answers, logits(lite, images), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_int8_scheme_can_be_written(lite: Model, scheme: str, tmp_path: Path) -> None:
    """onnxruntime's quantizer left graphs that are none behind where it met a padding after a clipping."""
    images = np.random.default_rng(0).integers(0, 256, (4, 33, 46, 3), dtype=np.uint8)
    FORMATS["onnx"].write(lite, ExportSpec("int8", tmp_path, scheme, images), tmp_path / "m.onnx")
    assert np.isfinite(RUNTIMES["onnx"].load(tmp_path / "m.onnx").scores(images)).all()


def padded(amounts: list[int], filling: float = 0.0, mode: str = "constant") -> onnx.ModelProto:
    """A padding, and a convolution that pads by one itself."""
    nodes = [
        helper.make_node("Pad", ["x", "amounts", "filling"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {"amounts": np.array(amounts), "filling": np.float32(filling), "w": np.ones((1, 1, 3, 3), np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def answer(proto: onnx.ModelProto) -> np.ndarray:
    import onnxruntime

    image = np.random.default_rng(0).random((1, 1, 6, 7), np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": image})[0])


def test_amounts_are_added_to_those_of_the_convolution() -> None:
    proto = padded([0, 0, 1, 0, 0, 0, 2, 3])
    before = answer(proto)
    fold_pads(proto)
    assert [node.op_type for node in proto.graph.node] == ["Conv"]
    assert list(proto.graph.node[0].attribute[0].ints) == [2, 1, 3, 4]
    np.testing.assert_array_equal(answer(proto), before)


@pytest.mark.parametrize(
    "proto",
    [
        padded([0, 0, 1, 0, 0, 0, 2, 3], filling=1.0),
        padded([0, 0, 1, 0, 0, 0, 2, 3], mode="edge"),
        padded([0, 0, -1, 0, 0, 0, 2, 3]),
    ],
    ids=["ones", "edge", "cropping"],
)
def test_other_paddings_stay(proto: onnx.ModelProto) -> None:
    before = answer(proto)
    fold_pads(proto)
    assert [node.op_type for node in proto.graph.node] == ["Pad", "Conv"]
    np.testing.assert_array_equal(answer(proto), before)
