"""An ONNX model whose pixels are declared float32, for runtimes that take no uint8. Python 3.6."""

from edgewise.device.onnxfile import FLOAT, UINT8, BadModel
from edgewise.device.protobuf import read_fields, read_message, read_text


def with_float_input(data: bytes) -> bytes:
    """The same float model with its pixels as float32, 0..255: for runtimes that take no uint8, such as TensorRT 8.2.

    Only the declared type of the input changes: the graph casts its pixels, whatever they are, to float.

    Raises:
        BadModel: U63, the graph takes its pixels as uint8 in any case (an int8 file).
    """
    changed = bytearray(data)
    (graph,) = read_fields(memoryview(changed))[7]
    fields = read_message(graph)
    if not any(read_text(read_message(node), 4) == "Cast" for node in fields.get(1, [])):
        raise BadModel("U63", "the model takes its pixels as they are", "no Cast of the input: take the fp32 bundle")
    for value in fields[11]:
        for kind in read_message(value)[2]:
            (tensor,) = read_message(kind)[1]
            if bytes(tensor[:2]) != bytes([8, UINT8]):
                raise BadModel("U63", "the model takes its pixels as they are", "the input is not declared as uint8")
            tensor[1] = FLOAT
    return bytes(changed)
