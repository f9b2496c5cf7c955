"""A bundle small enough to make in a test: its model calls a picture red, green or blue by its mean colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgewise.bundle import InputSpec, Manifest, write_bundle
from edgewise.device.standalone import runner_source

LABELS = ["red", "green", "blue"]
SIZE = 8


def write_model(path: Path, size: int = SIZE) -> Path:
    """uint8 (N, size, size, 3) -> float32 (N, 3): the mean of each channel, doubled, over 255."""
    weights = numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2 / 255, "weights")
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


Edit = Callable[[onnx.ModelProto], None]
"""A change to a model, in place."""


def outside(location: str) -> Edit:
    """Puts the weights into another file."""

    def edit(model: onnx.ModelProto) -> None:
        weights = model.graph.initializer[0]
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)

    return edit


def make_bundle(folder: Path, size: int = SIZE, **changes: object) -> Path:
    """Write the bundle to `folder`/bundle, with a runner as it would be shipped."""
    facts: dict[str, object] = {
        "name": "tiny",
        "format": "onnx",
        "precision": "fp32",
        "scheme": "",
        "model_file": "model.onnx",
        "input": InputSpec(size, size),
        "labels": LABELS,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    model = write_model(folder / "written.onnx", size)
    write_bundle(folder / "bundle", Manifest(**facts), model, {"runner.py": runner_source()})  # type: ignore[arg-type]
    return folder / "bundle"
