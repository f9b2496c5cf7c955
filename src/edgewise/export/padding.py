""" "Same" padding as a plain part of the graph.

timm's TensorFlow nets work out their padding from the size of what they are given, each time anew. The size is fixed in
what we export, but a trace keeps the arithmetic: two hundred nodes in tf_efficientnet_lite0, and quantizers that fail
on them. So the padding is worked out once, and in ONNX files it becomes an attribute of the convolution that follows.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.export.graph import drop_unread

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgewise.models import Model


def with_fixed_padding(model: Model) -> nn.Module:
    """The net for its own input size: with each "same" padded convolution replaced in a copy, or itself if it has none.

    Only plain ones are replaced; those that standardise their weights stay as they are.
    """
    import torch
    from timm.layers import Conv2dSame
    from timm.layers.padding import pad_same_arg

    names = [name for name, layer in model.module.named_modules() if type(layer) is Conv2dSame]
    if not names:
        return model.module

    class FixedConv2d(torch.nn.Conv2d):
        """Pads by given amounts (left, right, top, bottom), then convolves."""

        amounts: list[int]

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """As `torch.nn.Conv2d`."""
            return super().forward(torch.nn.functional.pad(image, self.amounts) if any(self.amounts) else image)

    net = copy.deepcopy(model.module)
    for name in names:
        # The class alone changes, so that weights, names and hooks stay what they are.
        net.get_submodule(name).__class__ = FixedConv2d

    def work_out(layer: Any, given: tuple[torch.Tensor, ...]) -> None:
        height, width = given[0].shape[-2:]
        layer.amounts = pad_same_arg([height, width], layer.kernel_size, layer.stride, layer.dilation)

    hooks = [net.get_submodule(name).register_forward_pre_hook(work_out) for name in names]
    training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, model.input.channels, model.input.height, model.input.width))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return net


def fold_pads(proto: onnx.ModelProto) -> None:
    """Make each padding with zeros an attribute of the convolution that alone reads it."""
    from onnx import helper

    graph = proto.graph
    for pad in [node for node in graph.node if node.op_type == "Pad"]:
        readers = [node for node in graph.node if pad.output[0] in node.input]
        amounts = _zeros_around(pad, proto)
        if amounts is None or len(readers) != 1 or readers[0].op_type != "Conv":
            continue
        conv = readers[0]
        given = {one.name: helper.get_attribute_value(one) for one in conv.attribute}
        if given.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        own = given.get("pads", [0] * len(amounts))
        kept = [one for one in conv.attribute if one.name != "pads"]
        total = [before + more for before, more in zip(own, amounts, strict=True)]
        del conv.attribute[:]
        conv.attribute.extend([*kept, helper.make_attribute("pads", total)])
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)
    drop_unread(graph)


def _zeros_around(pad: onnx.NodeProto, proto: onnx.ModelProto) -> list[int] | None:
    """The amounts before each spatial axis, then those after; None for other paddings."""
    mode = next((one.s for one in pad.attribute if one.name == "mode"), b"constant")
    if mode != b"constant" or len(pad.input) not in (2, 3):
        return None
    amounts = _constant(pad.input[1], proto)
    filling = _constant(pad.input[2], proto) if len(pad.input) == 3 and pad.input[2] else np.zeros(())
    if amounts is None or filling is None or np.any(filling):
        return None
    before, after = np.split(amounts, 2)
    if before[:2].any() or after[:2].any() or (amounts < 0).any():
        return None
    return [int(one) for one in (*before[2:], *after[2:])]


def _constant(name: str, proto: onnx.ModelProto) -> np.ndarray[Any, Any] | None:
    """The value of a tensor that depends on no input; None for others. Traces spell constants in several steps."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    made = {output: node for node in proto.graph.node for output in node.output}
    known = {one.name: one for one in proto.graph.initializer}
    steps, wanted = [], [name]
    while wanted:
        one = wanted.pop()
        if not one or one in known:
            continue
        if one not in made:
            return None
        if made[one] not in steps:
            steps.append(made[one])
            wanted.extend(made[one].input)
    if not steps:
        steps = [helper.make_node("Identity", [name], [f"{name}.value"])]
        name = f"{name}.value"
    order = {id(node): place for place, node in enumerate(proto.graph.node)}
    used = {given for node in steps for given in node.input}
    graph = helper.make_graph(
        sorted(steps, key=lambda node: order.get(id(node), 0)),
        "constant",
        [],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None)],
        [known[one] for one in used if one in known],
    )
    model = helper.make_model(graph, opset_imports=list(proto.opset_import), ir_version=proto.ir_version)
    value: np.ndarray[Any, Any] = ReferenceEvaluator(model).run(None, {})[0]
    return value
