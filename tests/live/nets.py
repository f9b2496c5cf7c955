"""Detectors as ONNX files, made by hand: they find what is bright. The layouts are those of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Values = list[onnx.ValueInfoProto]


def save(
    nodes: list[onnx.NodeProto], inputs: Values, outputs: Values, constants: dict[str, np.ndarray], path: Path
) -> Path:
    graph = helper.make_graph(
        nodes, "bright", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


def bright_squares(path: Path, kind: str = "uint8", size: int = 64, cell: int = 16) -> Path:
    """Scores and boxes of the cells of a grid: the score is the mean brightness."""
    count = size // cell
    rows, columns = np.divmod(np.arange(count * count), count)
    boxes = np.stack([columns, rows, columns + 1, rows + 1], axis=1).astype(np.float32)[None] / count
    info = helper.make_tensor_value_info
    nodes = []
    if kind == "uint8":
        shape = info("image", TensorProto.UINT8, [1, size, size, 3])
        nodes += [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["planes", "byte"], ["unit"]),
        ]
        constants = {"byte": np.float32(1 / 255)}
    else:
        shape = info("input", TensorProto.FLOAT, [1, 3, size, size])
        nodes += [
            helper.make_node("Mul", ["input", "scale"], ["levels"]),
            helper.make_node("Add", ["levels", "shift"], ["unit"]),
        ]
        constants = {"scale": np.float32(128 / 255), "shift": np.float32(127 / 255)}
    nodes += [
        helper.make_node("AveragePool", ["unit"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("ReduceMean", ["cells"], ["gray"], axes=[1], keepdims=0),
        helper.make_node("Reshape", ["gray", "flat"], ["thing"]),
        helper.make_node("Sub", ["one", "thing"], ["background"]),
        helper.make_node("Concat", ["background", "thing"], ["scores"], axis=2),
        helper.make_node("Identity", ["all"], ["boxes"]),
    ]
    constants |= {"flat": np.array([1, -1, 1]), "one": np.float32(1), "all": boxes}
    number = count * count
    outputs = [info("scores", TensorProto.FLOAT, [1, number, 2]), info("boxes", TensorProto.FLOAT, [1, number, 4])]
    return save(nodes, [shape], outputs, {name: np.asarray(value) for name, value in constants.items()}, path)


def yunet(path: Path) -> Path:
    """The ends of YuNet (2023): input (1, 3, height, width) BGR 0..255; cls, obj, bbox and kps at strides 8, 16, 32.

    Scores at stride 32 are brightness; those at 8 and 16 are 0. A box is its cell and the neighbours: three cells wide.
    """
    nodes, outputs = [], []
    constants: dict[str, np.ndarray] = {
        "byte": np.float32(1 / 255),
        "flat": np.array([1, -1, 1]),
        "four": np.array([1, -1, 4]),
        "ten": np.array([1, -1, 10]),
        "zero": np.float32(0),
        "half": np.array([0.0, 0.0, np.log(3), np.log(3)], np.float32).reshape(1, 1, 4),
    }
    for stride in (8, 16, 32):
        names = {part: f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps")}
        nodes += [
            helper.make_node(
                "AveragePool", ["input"], [f"cells{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("ReduceMean", [f"cells{stride}"], [f"gray{stride}"], axes=[1], keepdims=1),
            helper.make_node("Mul", [f"gray{stride}", "byte"], [f"unit{stride}"]),
            helper.make_node("Reshape", [f"unit{stride}", "flat"], [f"bright{stride}"]),
            helper.make_node("Mul", [f"bright{stride}", "zero"], [f"none{stride}"]),
            helper.make_node("Concat", [f"none{stride}"] * 4, [f"nowhere{stride}"], axis=2),
            helper.make_node("Add", [f"nowhere{stride}", "half"], [names["bbox"]]),
            helper.make_node("Concat", [f"none{stride}"] * 10, [names["kps"]], axis=2),
        ]
        source = f"bright{stride}" if stride == 32 else f"none{stride}"
        nodes += [helper.make_node("Identity", [source], [names[part]]) for part in ("cls", "obj")]
        sizes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        outputs += [
            helper.make_tensor_value_info(names[part], TensorProto.FLOAT, [1, None, sizes[part]]) for part in sizes
        ]
    order = [f"{part}_{stride}" for part in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]
    outputs.sort(key=lambda one: order.index(one.name))
    shape = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 320, 320])
    return save(nodes, [shape], outputs, {name: np.asarray(value) for name, value in constants.items()}, path)
