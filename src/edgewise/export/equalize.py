"""Two changes of a float ONNX graph before it is quantized: channels evened out, and biases that take up a shift.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv:1906.04721.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from edgewise.compress.ranges import Seen

SCALES_ALONG = {
    *("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Dropout", "Identity"),
    *("Flatten", "Squeeze"),
}
"""Operators with ``f(s x) = s f(x)`` for each channel's own ``s > 0``. Not so: a Clip (ReLU6), hard-swish, sigmoid."""
ROUNDS = 20
SETTLED = 1e-3
LIMIT = 1e3
"""A channel is scaled by no more than this, and no less than one over it, in one round."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two layers (names of nodes) of which the first alone feeds the second."""

    first: str
    second: str


def equalize(proto: onnx.ModelProto) -> tuple[list[Pair], dict[str, str]]:
    """Scale the output channels of a layer, and the next layer's input channels by the inverse, in place.

    Channel i gets ``s_i = sqrt(r1_i / r2_i)``, with r1 and r2 the largest magnitudes of the two layers' weights for it:
    both are sqrt(r1 r2) afterwards, so that no channel is small in the steps of the others. The graph answers the same
    up to rounding, because only operators of `SCALES_ALONG` stand between. Pairs are gone through until nothing moves.

    Returns:
        The pairs, and for each other layer what keeps it from being the first of one.
    """
    from onnx import numpy_helper

    graph = proto.graph
    constants = {one.name: one for one in graph.initializer}
    pairs, reasons = _pairs(graph, constants)
    values = {name: numpy_helper.to_array(one).copy() for name, one in constants.items()}
    nodes = {node.name: node for node in graph.node}
    for _ in range(ROUNDS):
        moved = [_even_out(nodes[pair.first], nodes[pair.second], values) for pair in pairs]
        if max(moved, default=0.0) < SETTLED:
            break
    for name in {name for pair in pairs for part in (pair.first, pair.second) for name in nodes[part].input[1:]}:
        if name in values:
            constants[name].CopyFrom(numpy_helper.from_array(values[name].astype(np.float32), name))
    return pairs, reasons


def _even_out(first: onnx.NodeProto, second: onnx.NodeProto, values: dict[str, Any]) -> float:
    """Even out one pair; the largest change of a channel, as the logarithm of its factor."""
    rows = _rows(first, values)
    columns, repeat = _columns(second, values, len(rows))
    largest = np.abs(rows.reshape(len(rows), -1)).max(1), np.abs(columns.reshape(len(rows), -1)).max(1)
    alive = (largest[0] > 0) & (largest[1] > 0)
    scale = np.sqrt(np.where(alive, largest[0], 1) / np.where(alive, largest[1], 1)).clip(1 / LIMIT, LIMIT)
    _scale_rows(first, values, 1 / scale)
    _scale_columns(second, values, np.repeat(scale, repeat))
    return float(np.abs(np.log(scale)).max())


def _pairs(graph: Any, constants: Mapping[str, Any]) -> tuple[list[Pair], dict[str, str]]:
    answers = {value.name for value in graph.output}
    pairs, reasons = [], {}
    readers: dict[str, list[Any]] = {}
    made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if not _has_weights(node, constants):
            continue
        if any(len(readers[name]) > 1 for name in node.input[1:] if name):
            reasons[node.name] = "it shares its weights with another layer"
            continue
        at = node
        while True:
            after = readers.get(at.output[0], [])
            if len(after) != 1 or at.output[0] in answers:
                reasons[node.name] = "its output is the answer" if not after else "its output is read more than once"
                break
            at = after[0]
            own = _has_weights(at, constants) and len(readers[at.input[1]]) == 1
            if own and at.input[0] in made and _takes(at, node, constants):
                pairs.append(Pair(node.name, at.name))
                break
            if at.op_type not in SCALES_ALONG and not _is_flattening(at, constants):
                reasons[node.name] = f"{at.op_type} follows"
                break
    return pairs, reasons


def _is_flattening(node: Any, constants: Mapping[str, Any]) -> bool:
    """A Reshape to (N, everything), or a mean over height and width."""
    from onnx import numpy_helper

    if node.op_type == "Reshape" and node.input[1] in constants:
        shape = numpy_helper.to_array(constants[node.input[1]])
        return len(shape) == 2 and (shape[0] == 0 or -1 in shape)
    if node.op_type == "ReduceMean":
        axes = next((list(one.ints) for one in node.attribute if one.name == "axes"), [])
        return sorted(axes) in ([2, 3], [-2, -1])
    return False


def _has_weights(node: Any, constants: Mapping[str, Any]) -> bool:
    plain = node.op_type == "Conv" or (node.op_type == "Gemm" and not _set(node, "transA"))
    return plain and node.input[1] in constants and all(name in constants for name in node.input[2:] if name)


def _takes(second: Any, first: Any, constants: Mapping[str, Any]) -> bool:
    """Whether the second layer's weights have a part for each output channel of the first."""
    out = _count(first, constants)
    shape = list(constants[second.input[1]].dims)
    if second.op_type == "Gemm":
        return int(shape[1 if _set(second, "transB") else 0]) % out == 0
    group = _number(second, "group", 1)
    return (group == 1 and shape[1] == out) or (group == out and shape[0] == out and shape[1] == 1)


def _count(node: Any, constants: Mapping[str, Any]) -> int:
    """Output channels of a layer."""
    shape = list(constants[node.input[1]].dims)
    return int(shape[1 if node.op_type == "Gemm" and not _set(node, "transB") else 0])


def _rows(node: Any, values: Mapping[str, Any]) -> Any:
    weight = values[node.input[1]]
    return weight.T if node.op_type == "Gemm" and not _set(node, "transB") else weight


def _columns(node: Any, values: Mapping[str, Any], channels: int) -> tuple[Any, int]:
    """A layer's weights with its input channels first, and how many inputs a channel has (flattened maps: several)."""
    weight = values[node.input[1]]
    if node.op_type == "Conv":
        return (weight if _number(node, "group", 1) > 1 else np.moveaxis(weight, 1, 0)), 1
    columns = weight.T if _set(node, "transB") else weight
    return columns, len(columns) // channels


def _scale_rows(node: Any, values: dict[str, Any], scale: Any) -> None:
    weight = values[node.input[1]]
    axis = 1 if node.op_type == "Gemm" and not _set(node, "transB") else 0
    values[node.input[1]] = weight * scale.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
    if len(node.input) > 2 and node.input[2]:
        values[node.input[2]] = values[node.input[2]] * scale


def _scale_columns(node: Any, values: dict[str, Any], scale: Any) -> None:
    weight = values[node.input[1]]
    if node.op_type == "Conv":
        axis = 0 if _number(node, "group", 1) > 1 else 1
    else:
        axis = 1 if _set(node, "transB") else 0
    values[node.input[1]] = weight * scale.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])


def correct_biases(proto: onnx.ModelProto, seen: Mapping[str, Seen], *, reduced: bool) -> list[str]:
    """Take from each bias what rounding the weights adds to the mean of its channel, in place.

    Rounding turns weights W into W + e; the mean output of a channel moves by the sum of e times the mean input, which
    calibration has measured for each input channel (section 4.2 of the paper, with measured means in place of those of
    batch norms). At the borders of padded maps, where zeros come in, it is an approximation.

    Args:
        seen: tensor -> what it took, with the means of its channels.
        reduced: weights of 7 bits.

    Returns:
        The layers that were changed.
    """
    from onnx import numpy_helper

    graph = proto.graph
    constants = {one.name: one for one in graph.initializer}
    changed = []
    for node in graph.node:
        means = seen[node.input[0]].means if node.input and node.input[0] in seen else np.zeros(0)
        if not _has_weights(node, constants) or not len(means):
            continue
        rows = _rows(node, {node.input[1]: numpy_helper.to_array(constants[node.input[1]])})
        error = rounded(rows, reduced=reduced) - rows
        error = error.reshape(*error.shape[:2], -1).sum(2)  # (outputs, inputs of its group)
        groups = _number(node, "group", 1) if node.op_type == "Conv" else 1
        inputs = means.reshape(groups, -1)
        if inputs.shape[1] != error.shape[1]:
            continue
        group = np.arange(len(error)) * groups // len(error)
        shift = (error * inputs[group]).sum(1)
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(constants[node.input[2]]) - shift
            constants[node.input[2]].CopyFrom(numpy_helper.from_array(bias.astype(np.float32), node.input[2]))
        else:
            name = f"{node.name}.shift"
            graph.initializer.append(numpy_helper.from_array((-shift).astype(np.float32), name))
            node.input[:] = [*node.input[:2], name]
        changed.append(node.name)
    return changed


def rounded(rows: Floats, *, reduced: bool) -> Any:
    """Weights (outputs, ...) as int8 stores them: symmetric, a scale for each output from its largest magnitude."""
    largest = np.abs(rows.reshape(len(rows), -1)).max(1)
    steps = np.where(largest > 0, largest, 1) / (64 if reduced else 127)
    steps = steps.reshape((-1,) + (1,) * (rows.ndim - 1))
    return np.rint(rows / steps) * steps


def _number(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _set(node: Any, name: str) -> bool:
    return bool(_number(node, name, 0))
