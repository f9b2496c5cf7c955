"""The int8 ONNX file of a model that was trained for it: the ranges and weights are those of training, bit for bit.

The simulation (`edgewise.compress.simulate`) is written as a float graph in which each point is a pair of
QuantizeLinear and DequantizeLinear. What is added here makes int8 operators of it when a runtime opens the file:
weights become int8 with a scale for each output channel, biases int32, pairs follow what only hands values on, and a
ReLU that rounding to 0..255 does anyway falls away.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewise.errors import ExportError
from edgewise.export.graph import drop_unread, keep_float

if TYPE_CHECKING:
    import onnx

    from edgewise.models import Model

HANDS_ON = {
    *("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace"),
    *("Split", "Slice", "Gather"),
}
"""Operators that give on the values they are given, so that a pair behind them rounds nothing."""
LAYERS = {"Conv", "Gemm", "MatMul"}
LEARNT_SCHEME = "qat"
"""The int8 scheme of formats that read this graph in place of quantizing for themselves."""


def learnt_scheme(model: Model) -> str:
    """The int8 scheme that a model was trained for, "" for none."""
    from edgewise.compress.simulate import learnt

    edit = learnt(model)
    return "" if edit is None else str(edit["scheme"])


def write_learnt(model: Model, path: Path, opset: int) -> onnx.ModelProto:
    """The int8 graph of a model that `qat` trained.

    Args:
        path: where the simulation is written, in float with pairs.

    Raises:
        ExportError: X40, a layer that was trained for int8 is not found in the written graph; X01.
        UntrustedError: U12, the recorded ranges are not those of this net.
    """
    import onnx

    from edgewise.compress.simulate import simulation
    from edgewise.export.onnx import write_float

    path.parent.mkdir(parents=True, exist_ok=True)
    write_float(simulation(model), path, opset)
    proto = onnx.load(path)
    _name_constants(proto)
    _drop_relus(proto)
    _pair_behind(proto)
    _whole_weights(proto, model)
    constants = {one.name for one in proto.graph.initializer}
    left = [node.name for node in proto.graph.node if node.op_type in LAYERS and node.input[1] in constants]
    keep_float(proto, left)
    _sort(proto)
    return proto


def learnt_file(model: Model, workspace: Path, opset: int) -> Path:
    """The int8 graph as a file that other converters read; made once in a workspace."""
    path = workspace / "learnt.onnx"
    if not path.exists():
        proto = write_learnt(model, workspace / "simulated.onnx", opset)
        path.write_bytes(proto.SerializeToString())
    return path


def _name_constants(proto: onnx.ModelProto) -> None:
    """Constant nodes become initializers; scales and zeros too that stand behind an Identity or a Cast."""
    from onnx import numpy_helper

    graph = proto.graph
    known = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Constant":
            value = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in known:
            value = known[node.input[0]]
        elif node.op_type == "Cast" and node.input[0] in known:
            value = known[node.input[0]].astype(_numpy_type(node.attribute[0].i))
        else:
            continue
        known[node.output[0]] = value
        graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), node.output[0]))
        graph.node.remove(node)


def _numpy_type(kind: int) -> Any:
    from onnx import helper

    return helper.tensor_dtype_to_np_dtype(kind)


def _drop_relus(proto: onnx.ModelProto) -> None:
    """Rounding to 0..255 with zero at 0 leaves nothing below zero, and nothing above 255 steps."""
    from onnx import numpy_helper

    graph = proto.graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in [one for one in graph.node if one.op_type in {"Relu", "Clip"}]:
        readers = _readers(graph, node.output[0])
        if [one.op_type for one in readers] != ["QuantizeLinear"] or len(_readers(graph, node.input[0])) > 1:
            continue
        step, zero = (constants[name] for name in readers[0].input[1:])
        low, high = 0.0, np.inf
        if node.op_type == "Clip":
            ends = [constants.get(name, np.array(np.nan)) for name in node.input[1:]]
            low, high = (float(end) for end in ends) if len(ends) == 2 else (np.nan, np.nan)
        if zero.dtype == np.uint8 and zero == 0 and low == 0 and 255 * float(step) <= high * (1 + 1e-6):
            readers[0].input[0] = node.input[0]
            graph.node.remove(node)


def _pair_behind(proto: onnx.ModelProto) -> None:
    """Behind what hands on rounded values stands the same pair again: runtimes make int8 operators of what is between
    pairs."""
    from onnx import helper

    graph = proto.graph
    made = {name: node for node in graph.node for name in node.output}
    answers = {value.name for value in graph.output}
    for node in list(graph.node):
        before = made.get(node.input[0]) if node.input else None
        if node.op_type not in HANDS_ON or before is None or before.op_type != "DequantizeLinear":
            continue
        scale, zero = before.input[1:3]
        for tensor in node.output:
            readers = _readers(graph, tensor)
            if not readers or tensor in answers or any(one.op_type == "QuantizeLinear" for one in readers):
                continue
            whole, rounded = f"{tensor}.whole", f"{tensor}.rounded"
            for reader in readers:
                reader.input[:] = [rounded if name == tensor else name for name in reader.input]
            place = list(graph.node).index(node) + 1
            for back, (kind, given, made_) in enumerate(
                (("QuantizeLinear", tensor, whole), ("DequantizeLinear", whole, rounded))
            ):
                pair = helper.make_node(kind, [given, scale, zero], [made_], name=f"{tensor}.{kind}")
                graph.node.insert(place + back, pair)
            made[rounded] = graph.node[place + 1]


def _whole_weights(proto: onnx.ModelProto, model: Model) -> None:
    """Weights in int8 behind a DequantizeLinear for each channel, biases in int32 with the scale of their sums.

    Raises:
        ExportError: X40.
    """
    from onnx import numpy_helper

    from edgewise.compress.simulate import learnt

    graph = proto.graph
    made = {name: node for node in graph.node for name in node.output}
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    edit = learnt(model)
    assert edit is not None
    layers = dict(_layers(model, edit))
    found = set()
    for node in [one for one in graph.node if one.op_type in LAYERS]:
        weight = constants.get(node.input[1])
        before = made.get(node.input[0])
        if weight is None or before is None or before.op_type != "DequantizeLinear":
            continue
        turned = _upright(node, weight)
        names = [one for one, (values, _) in layers.items() if _same(values, turned)]
        if not names:
            continue
        found.update(names)  # several with the same weights: the steps of any give them
        scale = layers[names[0]][1]
        whole = np.rint(turned / scale.reshape((-1,) + (1,) * (turned.ndim - 1))).astype(np.int8)
        axis = 0 if turned is weight else 1
        _dequantized(graph, node, 1, whole if axis == 0 else whole.T, scale, axis)
        if len(node.input) > 2 and node.input[2]:
            steps = np.float32(constants[before.input[1]]) * scale
            bias = constants[node.input[2]].astype(np.float64) / steps
            limits = np.iinfo(np.int32)
            _dequantized(graph, node, 2, np.clip(np.rint(bias), limits.min, limits.max).astype(np.int32), steps, 0)
    missing = sorted(set(layers) - found)
    if missing:
        raise ExportError(
            "layers that were trained for int8 are not found in the written graph",
            code="X40",
            where={"model": model.architecture, "layers": ", ".join(missing)},
            why="the exporter changed their weights",
            fix="take the fp32 file, or leave qat out of the plan; and report this with the model's name",
        )
    drop_unread(graph)


def _layers(model: Model, edit: dict[str, Any]) -> Iterator[tuple[str, tuple[NDArray[np.float32], Any]]]:
    """The weights of each trained layer, and the step of each of its channels."""
    for name, record in edit["layers"].items():
        layer: Any = model.module.get_submodule(name)
        yield name, (layer.weight.detach().cpu().numpy(), 2 * np.asarray(record["scales"], np.float32))


def _upright(node: onnx.NodeProto, weight: Any) -> Any:
    """The weight with output channels first."""
    turned = node.op_type == "MatMul" or (
        node.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in node.attribute)
    )
    return weight.T if turned else weight


def _same(values: NDArray[np.float32], written: NDArray[np.float32]) -> bool:
    """Equal up to the rounding of a norm that was folded in again."""
    return values.shape == written.shape and np.allclose(values, written, rtol=1e-6, atol=0)


def _dequantized(graph: Any, node: onnx.NodeProto, place: int, whole: Any, scale: Any, axis: int) -> None:
    """Let a node read whole numbers through a DequantizeLinear in place of floats."""
    from onnx import helper, numpy_helper

    name = f"{node.name}.{('', 'weight', 'bias')[place]}"
    values = {
        f"{name}.whole": np.ascontiguousarray(whole),
        f"{name}.scale": np.ascontiguousarray(scale, np.float32),
        f"{name}.zero": np.zeros(len(scale), whole.dtype),
    }
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in values.items())
    graph.node.insert(0, helper.make_node("DequantizeLinear", list(values), [name], name=f"{name}.read", axis=axis))
    node.input[place] = name


def _sort(proto: onnx.ModelProto) -> None:
    """Every node behind those whose outputs it reads."""
    graph = proto.graph
    ready = {value.name for value in graph.input} | {one.name for one in graph.initializer} | {""}
    left, ordered = list(graph.node), []
    while left:
        now = [node for node in left if all(name in ready for name in node.input)]
        if not now:
            raise AssertionError("the graph has a cycle")
        ordered += now
        ready |= {name for node in now for name in node.output}
        left = [node for node in left if not any(node is one for one in now)]
    del graph.node[:]
    graph.node.extend(ordered)


def _readers(graph: Any, tensor: str) -> list[Any]:
    return [node for node in graph.node if tensor in node.input]
