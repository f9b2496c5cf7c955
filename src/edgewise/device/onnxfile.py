"""What an ONNX file is, read from its own bytes before any runtime sees them.

ONNX is protobuf: nested messages of numbered fields. This walks the few fields that decide whether a file may be
opened: weights outside the file, operators of strangers, tensors larger than any picture needs, inputs that are not
pictures. Nothing is imported, nothing else is opened, and lengths are checked before they are believed. The syntax is
that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import os
import stat
from typing import Any, Dict, Iterator, List, Tuple

MAX_BYTES = (1 << 31) - 1  # no protobuf message can be larger
MAX_ELEMENTS = 1 << 30  # of one tensor
MAX_DEPTH = 16  # of graphs within graphs
MAX_FIELDS = 1 << 20  # of one message
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

Fields = Dict[int, List[Any]]
"""Field number -> its values: int for numbers, memoryview for strings, messages and packed lists."""


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
        model = _fields(memoryview(data))
        graphs = [_message(value) for value in model.get(7, [])]
        if len(graphs) != 1:
            raise BadModel("U61", "not an ONNX file", "{} graphs instead of one".format(len(graphs)))
        for function in model.get(25, []):
            _check_nodes(_message(function), {}, 7, 1)
        if 20 in model:
            raise BadModel("U64", "the model carries what a device does not run", "training graphs")
        _check_graph(graphs[0], 0)
        opsets = {}
        for one in model.get(8, []):
            entry = _message(one)
            opsets[_text(entry, 1)] = _number(entry, 2)
        known = {_text(_tensor(value), 8) for value in graphs[0].get(5, [])}
        inputs = [one for one in map(_value, graphs[0].get(11, [])) if one[0] not in known]
        outputs = [_value(value) for value in graphs[0].get(12, [])]
        metadata = {}
        for one in model.get(14, []):
            entry = _message(one)
            metadata[_text(entry, 1)] = _text(entry, 2)
    except (IndexError, UnicodeDecodeError, TypeError) as problem:
        raise BadModel("U61", "not an ONNX file", "damaged: {}".format(problem)) from None
    return {"inputs": inputs, "outputs": outputs, "opsets": opsets, "metadata": metadata}


def with_float_input(data: bytes) -> bytes:
    """The same float model with its pixels as float32, 0..255: for runtimes that take no uint8, such as TensorRT 8.2.

    Only the declared type of the input changes: the graph casts its pixels, whatever they are, to float.

    Raises:
        BadModel: U63, the graph takes its pixels as uint8 in any case (an int8 file).
    """
    changed = bytearray(data)
    (graph,) = _fields(memoryview(changed))[7]
    fields = _message(graph)
    if not any(_text(_message(node), 4) == "Cast" for node in fields.get(1, [])):
        raise BadModel("U63", "the model takes its pixels as they are", "no Cast of the input: take the fp32 bundle")
    for value in fields[11]:
        for kind in _message(value)[2]:
            (tensor,) = _message(kind)[1]
            if bytes(tensor[:2]) != bytes([8, UINT8]):
                raise BadModel("U63", "the model takes its pixels as they are", "the input is not declared as uint8")
            tensor[1] = FLOAT
    return bytes(changed)


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
        constants[_text(tensor, 8)] = tensor
    for value in graph.get(15, []):
        _sparse(value)
    for field in (11, 12, 13):
        for value in graph.get(field, []):
            _value(value)
    _check_nodes(graph, constants, 1, depth)


def _check_nodes(parent: Fields, constants: Dict[str, Any], field: int, depth: int) -> None:
    for one in parent.get(field, []):
        node = _message(one)
        operator, domain = _text(node, 4), _text(node, 7)
        if domain not in DOMAINS or operator in FILE_OPERATORS:
            why = "operator {}.{} does not come with onnxruntime".format(domain, operator)
            raise BadModel("U64", "the model carries what a device does not run", why)
        for attribute in map(_message, node.get(5, [])):
            for tensor in attribute.get(5, []) + attribute.get(10, []):
                checked = _tensor(tensor)
                if operator == "Constant" and node.get(2):
                    constants[bytes(node[2][0]).decode("utf-8")] = checked
            for sparse in attribute.get(22, []) + attribute.get(23, []):
                _sparse(sparse)
            for graph in attribute.get(6, []) + attribute.get(11, []):
                _check_graph(_message(graph), depth + 1)
        place = SHAPED_BY.get(operator, len(node.get(1, [])))
        if place < len(node.get(1, [])):
            shape = constants.get(bytes(node[1][place]).decode("utf-8"))
            if shape is not None:
                _check_size([abs(value) for value in _whole_numbers(shape)], "what {} makes".format(operator))


def _tensor(value: Any) -> Fields:
    """A stored tensor: all of it inside the file, and as large as its shape says."""
    tensor = _message(value)
    name = _text(tensor, 8)
    if 13 in tensor or _number(tensor, 14) == 1:
        places = [_text(_message(entry), 2) for entry in tensor.get(13, []) if _text(_message(entry), 1) == "location"]
        why = "tensor {!r} is stored in {}".format(name, ", ".join(map(repr, places)) or "another file")
        raise BadModel("U62", "the model wants data from outside its file", why)
    count = _check_size(_numbers(tensor, 1), "tensor {!r}".format(name))
    size = SIZES.get(_number(tensor, 2))
    if 9 in tensor and size is not None and len(tensor[9][-1]) != count * size:
        why = "tensor {!r} of {} elements has {} bytes".format(name, count, len(tensor[9][-1]))
        raise BadModel("U61", "not an ONNX file", why)
    return tensor


def _sparse(value: Any) -> None:
    sparse = _message(value)
    for field in (1, 2):
        for part in sparse.get(field, []):
            _tensor(part)
    _check_size(_numbers(sparse, 3), "a sparse tensor")


def _value(value: Any) -> Tuple[str, int, List[Any]]:
    """Name, data type and dimensions of an input, output or inner value; (name, 0, []) when nothing is said."""
    info = _message(value)
    name = _text(info, 1)
    for kind in info.get(2, []):
        for tensor in map(_message, _message(kind).get(1, [])):
            shape = []  # type: List[Any]
            for dims in tensor.get(2, []):
                for dim in map(_message, _message(dims).get(1, [])):
                    said = _signed(dim[1][-1]) if 1 in dim else -1
                    shape.append(said if said >= 0 else None)
            _check_size([dim for dim in shape if dim is not None], "value {!r}".format(name))
            return name, _number(tensor, 1), shape
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
    if _number(tensor, 2) != INT64:
        return []
    if 9 in tensor:
        raw = bytes(tensor[9][-1][: 8 * 64])
        return [int.from_bytes(raw[at : at + 8], "little", signed=True) for at in range(0, len(raw), 8)]
    return _numbers(tensor, 7)[:64]


# --- Protobuf ---------------------------------------------------------------------------------------------------


def _message(value: Any) -> Fields:
    if isinstance(value, int):
        raise TypeError("a number where a message belongs")
    return _fields(value)


def _fields(data: Any) -> Fields:
    found = {}  # type: Fields
    at = count = 0
    while at < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise IndexError("more than {} fields in a message".format(MAX_FIELDS))
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            if kind == 2:
                length, at = _varint(data, at)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise IndexError("unknown wire type {}".format(kind))
            if length > len(data) - at:
                raise IndexError("a field is longer than the file")
            value, at = data[at : at + length], at + length
        found.setdefault(key >> 3, []).append(value)
    return found


def _varint(data: Any, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise IndexError("a number of more than 64 bits")


def _signed(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("a message where a number belongs")
    return value - (1 << 64) if value >= 1 << 63 else value


def _number(fields: Fields, field: int) -> int:
    return _signed(fields[field][-1]) if field in fields else 0


def _numbers(fields: Fields, field: int) -> List[int]:
    return list(_each_number(fields.get(field, [])))


def _each_number(values: List[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield _signed(value)
        else:
            at = 0
            while at < len(value):
                number, at = _varint(value, at)
                yield _signed(number)


def _text(fields: Fields, field: int) -> str:
    return bytes(fields[field][-1]).decode("utf-8") if field in fields else ""
