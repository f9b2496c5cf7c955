"""Rewrites of ONNX graphs that change how a model is stored or run, and not what it answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

CAST_BYTES = 64
"""About what a Cast node takes in the file: weights that save less stay float32."""


def store_halves(proto: onnx.ModelProto) -> None:
    """Store the weights as float16, each followed by a Cast to float32, which the runtime does once when it loads.

    Arithmetic stays float32: on x86 onnxruntime (1.32) casts to and fro around every float16 layer. Weights beyond the
    range of float16 stay as they are.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        if values.nbytes // 2 <= CAST_BYTES or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.float", to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def answer_in_float(proto: onnx.ModelProto) -> None:
    """Let the last layer of an int8 graph give its sums as they are: 256 levels for logits make ties.

    Where the answer does not come straight from a layer, the graph is left as it is.
    """
    graph = proto.graph
    answer = graph.output[0].name
    made = {name: node for node in graph.node for name in node.output}
    last = made.get(answer)
    if last is None or last.op_type != "DequantizeLinear":
        return
    whole = made.get(last.input[0])
    if whole is None or [node for node in graph.node if whole.output[0] in node.input] != [last]:
        return
    if whole.op_type == "QGemm":
        del whole.input[7:]  # without an output scale it gives floats
        whole.output[0] = answer
    elif whole.op_type == "QuantizeLinear" and whole.input[0] in made:
        layer = made[whole.input[0]]
        if len([node for node in graph.node if whole.input[0] in node.input]) > 1:
            return
        layer.output[:] = [answer if name == whole.input[0] else name for name in layer.output]
        graph.node.remove(whole)
    else:
        return
    graph.node.remove(last)
    drop_unread(graph)


def keep_float(proto: onnx.ModelProto, layers: Collection[str]) -> None:
    """Have layers computed in float that stand between rounded values.

    onnxruntime 1.31 makes 8-bit weights of its own for a layer between DequantizeLinear and QuantizeLinear whose
    weights are float. A Max with the least number, or with 0 in place of a ReLU, gives the same values and is nothing
    it looks behind.

    Args:
        layers: names of nodes.
    """
    from onnx import helper, numpy_helper

    graph = proto.graph
    answers = {value.name for value in graph.output}
    for node in [one for one in graph.node if one.name in layers and one.output[0] not in answers]:
        tensor = node.output[0]
        readers = [one for one in graph.node if tensor in one.input]
        relu = [one.op_type for one in readers] == ["Relu"]
        least = np.array(0 if relu else np.finfo(np.float32).min, np.float32)
        graph.initializer.append(numpy_helper.from_array(least, f"{tensor}.least"))
        if relu:
            readers[0].op_type = "Max"
            readers[0].input.append(f"{tensor}.least")
            continue
        for reader in readers:
            reader.input[:] = [f"{tensor}.float" if one == tensor else one for one in reader.input]
        barrier = helper.make_node("Max", [tensor, f"{tensor}.least"], [f"{tensor}.float"], name=f"{node.name}.float")
        graph.node.insert(list(graph.node).index(node) + 1, barrier)


def fold_scale(proto: onnx.ModelProto) -> None:
    """Take the normalisation into the first convolution, as far as that is exact.

    A convolution of ``scale x + shift`` is one of ``x + shift / scale`` with weights times scale, whatever the padding,
    because the padded zeros stay zeros. Without padding the shift goes into the bias too. Graphs of another shape are
    left as they are.
    """
    from onnx import numpy_helper

    graph = proto.graph
    constants = {one.name: one for one in graph.initializer}
    chain = _normalisation(graph, constants)
    if chain is None:
        return
    scale_node, shift_node, conv = chain
    scale, shift = (numpy_helper.to_array(constants[node.input[1]]) for node in (scale_node, shift_node))
    weight = numpy_helper.to_array(constants[conv.input[1]])
    per_channel = np.broadcast_to(scale.reshape(-1), (weight.shape[1],)).reshape(1, -1, 1, 1)
    before = numpy_helper.from_array((shift / scale).astype(np.float32), shift_node.input[1])
    constants[shift_node.input[1]].CopyFrom(before)
    folded = (weight.astype(np.float64) * per_channel).astype(np.float32)
    constants[conv.input[1]].CopyFrom(numpy_helper.from_array(folded, conv.input[1]))
    shift_node.input[0] = scale_node.input[0]
    graph.node.remove(scale_node)
    padded = any(value for one in conv.attribute if one.name in {"pads", "auto_pad"} for value in one.ints or [one.s])
    if not padded and len(conv.input) == 3:
        moved = (weight * np.broadcast_to(shift.reshape(-1), (weight.shape[1],)).reshape(1, -1, 1, 1)).sum((1, 2, 3))
        bias = numpy_helper.to_array(constants[conv.input[2]])
        constants[conv.input[2]].CopyFrom(numpy_helper.from_array((bias + moved).astype(np.float32), conv.input[2]))
        conv.input[0] = shift_node.input[0]
        graph.node.remove(shift_node)
    drop_unread(graph)


def _normalisation(
    graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """The Mul, Add and Conv after the cast of the pixels, each read by the next alone and with constant weights."""
    cast = next((node for node in graph.node if node.op_type == "Cast"), None)
    if cast is None:
        return None
    found, tensor = [], cast.output[0]
    for wanted in ("Mul", "Add", "Conv"):
        readers = [node for node in graph.node if tensor in node.input]
        if [node.op_type for node in readers] != [wanted] or readers[0].input[0] != tensor:
            return None
        constant = readers[0].input[1]
        if constant not in constants or len([node for node in graph.node if constant in node.input]) > 1:
            return None
        found.append(readers[0])
        tensor = readers[0].output[0]
    grouped = any(one.name == "group" and one.i != 1 for one in found[2].attribute)
    return None if grouped else (found[0], found[1], found[2])


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that no output of the graph depends on."""
    made = {name: node for node in graph.node for name in node.output}
    wanted, waiting = set[str](), [one.name for one in graph.output]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting.extend(made[name].input if name in made else ())
    for node in [node for node in graph.node if not wanted & set(node.output)]:
        graph.node.remove(node)
    for unread in [one for one in graph.initializer if one.name not in wanted]:
        graph.initializer.remove(unread)
