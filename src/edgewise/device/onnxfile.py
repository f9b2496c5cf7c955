"""What an ONNX file is, read from its own bytes before any runtime sees them.

ONNX is protobuf: nested messages of numbered fields. This walks the few fields that decide whether a file may be
opened: weights outside the file, operators of strangers, tensors larger than any picture needs, inputs that are not
pictures. Nothing is imported, nothing else is opened, and lengths are checked before they are believed. The syntax is
that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import os
import stat
from typing import Any, Dict, List, Tuple

from edgewise.device.protobuf import Fields, read_fields, read_message, read_number, read_numbers, read_text, signed

MAX_BYTES = (1 << 31) - 1  # no protobuf message can be larger
MAX_ELEMENTS = 1 << 30  # of one tensor
MAX_DEPTH = 16  # of graphs within graphs
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # operators that come with onnxruntime itself
FILE_OPERATORS = ("EPContext",)  # the only one of them that reads further files
SHAPED_BY = {
    "ConstantOfShape": 0,
    "Expand": 1,
    "Tile": 1,
    "Reshape": 1,
}  # which input is a shape, or how often to repeat
SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""Bytes of one element by TensorProto.data_type; smaller and newer types are not checked against their shape."""
FLOAT, UINT8, INT64 = 1, 2, 7


class BadModel(ValueError):
    """A model file that is refused, with the code under which docs/errors.md explains it."""

    def __init__(self, code: str, what: str, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.what = what


def read_model(path: str) -> bytes:
    """The bytes of a model file; links, pipes, devices and files that no protobuf can be are not read.

    Raises:
        BadModel: U60.
        OSError: it is not there or may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        if os.path.islink(path):
            raise BadModel("U60", "the model is not a plain file", "it is a symbolic link") from None
        raise
    state = os.fstat(handle)
    if not stat.S_ISREG(state.st_mode):
        os.close(handle)
        raise BadModel("U60", "the model is not a plain file", "it is a folder, a pipe or a device")
    with os.fdopen(handle, "rb") as stream:
        if state.st_size > MAX_BYTES:
            why = "{} bytes, more than the {} of the largest ONNX file".format(state.st_size, MAX_BYTES)
            raise BadModel("U60", "the model file is too large", why)
        return stream.read(MAX_BYTES + 1)


def check_model(data: bytes) -> Dict[str, Any]:
    """Refuse an ONNX file that no runtime shall open; else say what it is.

    Returns:
        input and output (name, data type, dimensions, of which None are free), opsets by domain, metadata.

    Raises:
        BadModel: U61 damaged, U62 data outside the file, U63 not a picture classifier, U64 foreign operators, U65 huge.
    """
    facts = check_any_model(data)
    inputs, outputs = facts.pop("inputs"), facts.pop("outputs")
    _check_ends(inputs, outputs)
    return dict(facts, input=inputs[0], output=outputs[0])


def check_any_model(data: bytes) -> Dict[str, Any]:
    """As `check_model`, for nets that are no classifiers: all inputs and outputs, whatever they are.

    Returns:
        inputs and outputs (each name, data type, dimensions), opsets by domain, metadata.

    Raises:
        BadModel: U61, U62, U64, U65.
    """
    try:
        model = read_fields(memoryview(data))
        graphs = [read_message(value) for value in model.get(7, [])]
        if len(graphs) != 1:
            raise BadModel("U61", "not an ONNX file", "{} graphs instead of one".format(len(graphs)))
        for function in model.get(25, []):
            _check_nodes(read_message(function), {}, 7, 1)
        if 20 in model:
            raise BadModel("U64", "the model carries what a device does not run", "training graphs")
        _check_graph(graphs[0], 0)
        opsets = {}
        for one in model.get(8, []):
            entry = read_message(one)
            opsets[read_text(entry, 1)] = read_number(entry, 2)
        known = {read_text(_tensor(value), 8) for value in graphs[0].get(5, [])}
        inputs = [one for one in map(_value, graphs[0].get(11, [])) if one[0] not in known]
        outputs = [_value(value) for value in graphs[0].get(12, [])]
        metadata = {}
        for one in model.get(14, []):
            entry = read_message(one)
            metadata[read_text(entry, 1)] = read_text(entry, 2)
    except (IndexError, UnicodeDecodeError, TypeError) as problem:
        raise BadModel("U61", "not an ONNX file", "damaged: {}".format(problem)) from None
    return {"inputs": inputs, "outputs": outputs, "opsets": opsets, "metadata": metadata}


def _check_ends(inputs: List[Any], outputs: List[Any]) -> None:
    what = "the model does not take pictures and give one score for each label"
    if len(inputs) != 1 or not outputs:  # further outputs are ignored
        raise BadModel("U63", what, "{} inputs and {} outputs".format(len(inputs), len(outputs)))
    (_, kind, shape), (_, out_kind, out_shape) = inputs[0], outputs[0]
    if kind != UINT8 or len(shape) != 4 or shape[3] not in (1, 3, None):
        why = "the input has type {} and shape {}: uint8 (type 2), (N, height, width, 1 or 3) is needed"
        raise BadModel("U63", what, why.format(kind, shape))
    if out_kind != FLOAT or len(out_shape) not in (0, 2):
        why = "the output has type {} and shape {}: float32 (type 1), (N, classes) is needed"
        raise BadModel("U63", what, why.format(out_kind, out_shape))


def _check_graph(graph: Fields, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BadModel("U61", "not an ONNX file", "graphs within graphs, more than {} deep".format(MAX_DEPTH))
    constants = {}  # type: Dict[str, Any]
    for value in graph.get(5, []):
        tensor = _tensor(value)
        constants[read_text(tensor, 8)] = tensor
    for value in graph.get(15, []):
        _sparse(value)
    for field in (11, 12, 13):
        for value in graph.get(field, []):
            _value(value)
    _check_nodes(graph, constants, 1, depth)


def _check_nodes(parent: Fields, constants: Dict[str, Any], field: int, depth: int) -> None:
    for one in parent.get(field, []):
        node = read_message(one)
        operator, domain = read_text(node, 4), read_text(node, 7)
        if domain not in DOMAINS or operator in FILE_OPERATORS:
            why = "operator {}.{} does not come with onnxruntime".format(domain, operator)
            raise BadModel("U64", "the model carries what a device does not run", why)
        for attribute in map(read_message, node.get(5, [])):
            for tensor in attribute.get(5, []) + attribute.get(10, []):
                checked = _tensor(tensor)
                if operator == "Constant" and node.get(2):
                    constants[bytes(node[2][0]).decode("utf-8")] = checked
            for sparse in attribute.get(22, []) + attribute.get(23, []):
                _sparse(sparse)
            for graph in attribute.get(6, []) + attribute.get(11, []):
                _check_graph(read_message(graph), depth + 1)
        place = SHAPED_BY.get(operator, len(node.get(1, [])))
        if place < len(node.get(1, [])):
            shape = constants.get(bytes(node[1][place]).decode("utf-8"))
            if shape is not None:
                _check_size([abs(value) for value in _whole_numbers(shape)], "what {} makes".format(operator))


def _tensor(value: Any) -> Fields:
    """A stored tensor: all of it inside the file, and as large as its shape says."""
    tensor = read_message(value)
    name = read_text(tensor, 8)
    if 13 in tensor or read_number(tensor, 14) == 1:
        places = [
            read_text(read_message(entry), 2)
            for entry in tensor.get(13, [])
            if read_text(read_message(entry), 1) == "location"
        ]
        why = "tensor {!r} is stored in {}".format(name, ", ".join(map(repr, places)) or "another file")
        raise BadModel("U62", "the model wants data from outside its file", why)
    count = _check_size(read_numbers(tensor, 1), "tensor {!r}".format(name))
    size = SIZES.get(read_number(tensor, 2))
    if 9 in tensor and size is not None and len(tensor[9][-1]) != count * size:
        why = "tensor {!r} of {} elements has {} bytes".format(name, count, len(tensor[9][-1]))
        raise BadModel("U61", "not an ONNX file", why)
    return tensor


def _sparse(value: Any) -> None:
    sparse = read_message(value)
    for field in (1, 2):
        for part in sparse.get(field, []):
            _tensor(part)
    _check_size(read_numbers(sparse, 3), "a sparse tensor")


def _value(value: Any) -> Tuple[str, int, List[Any]]:
    """Name, data type and dimensions of an input, output or inner value; (name, 0, []) when nothing is said."""
    info = read_message(value)
    name = read_text(info, 1)
    for kind in info.get(2, []):
        for tensor in map(read_message, read_message(kind).get(1, [])):
            shape = []  # type: List[Any]
            for dims in tensor.get(2, []):
                for dim in map(read_message, read_message(dims).get(1, [])):
                    said = signed(dim[1][-1]) if 1 in dim else -1
                    shape.append(said if said >= 0 else None)
            _check_size([dim for dim in shape if dim is not None], "value {!r}".format(name))
            return name, read_number(tensor, 1), shape
    return name, 0, []


def _check_size(shape: List[int], of: str) -> int:
    count = 1
    for dim in shape:
        if dim < 0:
            raise BadModel("U65", "the model has a tensor of an impossible size", "{}: {}".format(of, shape))
        count *= dim
    if count > MAX_ELEMENTS:
        why = "{}: {} elements, more than the {} allowed".format(of, count, MAX_ELEMENTS)
        raise BadModel("U65", "the model has a tensor of an impossible size", why)
    return count


def _whole_numbers(tensor: Fields) -> List[int]:
    """The values of a stored int64 tensor that may be a shape; none of anything else."""
    if read_number(tensor, 2) != INT64:
        return []
    if 9 in tensor:
        raw = bytes(tensor[9][-1][: 8 * 64])
        return [int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8)]
    return read_numbers(tensor, 7)[:64]
