"""An ONNX file that holds given tensors."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def model_of(tensors: dict[str, np.ndarray]) -> bytes:
    """An ONNX file with these initializers and a graph that returns its input."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    held = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:], held)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    return data
