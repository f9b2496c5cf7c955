"""Where int8 begins and ends in a net: its graph, the layers with weights, and the points at which values are rounded.

Points lie where onnxruntime's quantizer has them: behind every layer and operation that gives new values, behind the
activation where a ReLU follows, and in front of the first layer. What only hands values on (pooling by maxima, shapes)
has none, and the logits stay float.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from edgewise.errors import ConfigError, UntrustedError

if TYPE_CHECKING:
    from edgewise.models import Edit, Model

SCHEMES = {"u8s8-rr": (7, False), "u8s8": (8, False), "s8s8": (8, True)}
"""int8 scheme -> bits of the weights, and whether activations are signed and symmetric."""
ROOM = "steps"
"""The part of a simulated net that holds its points."""
OPENED = "opened_norm"
"""The norm of a part that was a norm and an activation in one."""
PLAIN = {"torch.nn.modules.conv.Conv2d", "torch.nn.modules.linear.Linear", "timm.layers.linear.Linear"}
"""Layers that compute with their weights as they are."""

_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)
_HANDS_ON = (*_NOTHING, nn.MaxPool2d, nn.Flatten, nn.PixelShuffle, nn.ChannelShuffle)
_FUSED = (nn.ReLU, nn.ReLU6)
_HANDING = {
    *("view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "chunk", "split"),
    *("max_pool2d", "dropout", "stochastic_depth", "channel_shuffle", "clone", "size"),
}


@dataclass
class Layout:
    """A net as a graph.

    graph: of the module, which shares its parts. layers: layer -> the norm that is folded into it ("" for none).
    points: nodes behind which values are rounded, in the order they run. left: weights that stay float, and why.
    """

    graph: fx.GraphModule
    layers: dict[str, str] = field(default_factory=dict)
    points: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of_model(name: str) -> str:
        """The name that a part or tensor of the graph has in the model, where norms with an activation are one part."""
        return name.replace(f".{OPENED}", "")


class _Tracer(fx.Tracer):
    """Steps into everything but layers with weights and torch's own parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear) or super().is_leaf_module(m, module_qualified_name)


def layout(model: Model) -> Layout:
    """The graph of a model's module (in eval mode), and where int8 begins and ends in it.

    The module is changed: norms with an activation of their own become two parts.

    Raises:
        ConfigError: Q20, torch.fx cannot follow it.
    """
    module = _open_norms(model.module.eval())
    try:
        graph = fx.GraphModule(module, _Tracer().trace(module))
        ShapeProp(graph).propagate(torch.zeros(2, *_shape(model)))
    except (torch.fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AttributeError, NotImplementedError) as why:
        raise ConfigError(
            "int8 training cannot follow this net",
            code="Q20",
            where={"model": model.architecture},
            why=f"torch.fx: {str(why).splitlines()[0]}",
            fix="leave qat out of the plan; export to int8 works without it",
        ) from why
    found = Layout(graph)
    parts = dict(module.named_modules())
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    for node in graph.graph.nodes:
        part = parts.get(str(node.target)) if node.op == "call_module" else None
        if f"{type(part).__module__}.{type(part).__qualname__}" not in PLAIN:
            if part is not None and isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
                found.left[str(node.target)] = f"a {type(part).__name__} computes its weights in a way of its own"
            continue
        if calls.count(node.target) > 1:
            found.left[str(node.target)] = "it runs more than once"
            continue
        norm = _norm_behind(node, parts)
        found.layers[str(node.target)] = norm if calls.count(norm) == 1 else ""
    found.points = [node.name for node in _points(graph.graph, parts, found)]
    return found


def _open_norms(module: nn.Module) -> nn.Module:
    """timm's norms with an activation as a row of a norm, whatever drops, and the activation; tensors are shared."""
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.BatchNorm2d) and isinstance(getattr(part, "act", None), nn.Module):
            norm = nn.BatchNorm2d(part.num_features, part.eps, part.momentum, part.affine, part.track_running_stats)
            norm._parameters, norm._buffers = part._parameters, part._buffers
            rest = [one for key in ("drop", "act") if isinstance(one := getattr(part, key, None), nn.Module)]
            row = nn.Sequential(OrderedDict([(OPENED, norm), *((f"then{at}", one) for at, one in enumerate(rest))]))
            module.set_submodule(name, row.eval())
    return module


def insert_points(graph: fx.GraphModule, points: Mapping[str, nn.Module]) -> None:
    """Round the values behind these nodes; the parts stand in `ROOM` under the names of the nodes.

    Raises:
        KeyError: there is no such node.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    graph.add_module(ROOM, nn.Module())
    for name, part in points.items():
        node = nodes[name]
        graph.get_submodule(ROOM).add_module(name, part)
        users = list(node.users)
        with graph.graph.inserting_after(node):
            rounded = graph.graph.call_module(f"{ROOM}.{name}", (node,))
        for user in users:
            user.replace_input_with(node, rounded)
    graph.graph.lint()
    graph.recompile()


def simulation(model: Model) -> Model:
    """What the int8 file of a model that `qat` trained computes, in torch: weights as they are, activations rounded.

    Raises:
        UntrustedError: U12, the points that were recorded are not those of this net.
        ConfigError: Q22, `qat` did not train it.
    """
    edit = learnt(model)
    if edit is None:
        raise ConfigError(
            "this model has no learnt int8 ranges", code="Q22", where={"model": model.architecture}, fix="plan: qat"
        )
    module = copy.deepcopy(model.module)
    found = layout(dataclasses.replace(model, module=module))
    _, signed = SCHEMES[edit["scheme"]]
    if set(edit["points"]) != set(found.points):
        raise UntrustedError(
            "the learnt int8 ranges do not fit this net",
            code="U12",
            where={"model": model.architecture},
            why="torch or the model's library names the operations of the net in another way than when it was trained",
            fix="open it with the versions it was made with, or run qat again",
        )
    points: dict[str, nn.Module] = {}
    for name in found.points:
        step, zero = edit["points"][name]
        points[name] = Settled(step, zero, signed=signed)
    insert_points(found.graph, points)
    return dataclasses.replace(model, module=found.graph.eval())


def learnt(model: Model) -> Edit | None:
    """The `qat` edit of a model, None when there is none, or when something was changed after it."""
    last = model.structure[-1] if model.structure else {"edit": ""}
    return last if last["edit"] == "qat" else None


class Settled(nn.Module):
    """Activations -> the nearest of 256 levels with a recorded step and zero."""

    def __init__(self, step: float, zero: int, *, signed: bool) -> None:
        super().__init__()
        self.step, self.zero, self.signed = step, zero, signed

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """float32 in, float32 of the same shape out."""
        bottom, top = (-128, 127) if self.signed else (0, 255)
        return torch.fake_quantize_per_tensor_affine(values, self.step, self.zero, bottom, top)


def pixel_steps(model: Model, scheme: str) -> tuple[float, int] | None:
    """Step and zero at which the normalised pixels are levels themselves; None where mean and std do not allow it."""
    spec = model.input
    zero = 255 * spec.mean[0]
    alike = len(set(spec.mean)) == 1 and len(set(spec.std)) == 1
    if SCHEMES[scheme][1] or not alike or abs(zero - round(zero)) > 1e-6:
        return None
    return float(torch.tensor(1 / (255 * spec.std[0]))), round(zero)


def highest(found: Layout, name: str) -> float | None:
    """What no value at a point can exceed: 6 behind a ReLU6, so that its step need not clip there again."""
    node = next(node for node in found.graph.graph.nodes if node.name == name)
    part = found.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    limited = isinstance(part, nn.ReLU6) or getattr(node.target, "__name__", "") == "relu6"
    return 6.0 if limited else None


def input_point(found: Layout) -> str:
    """The point in front of the first layer."""
    return str(next(node.name for node in found.graph.graph.nodes if node.op == "placeholder"))


def _shape(model: Model) -> tuple[int, int, int]:
    spec = model.input
    return spec.channels, spec.height, spec.width


def _norm_behind(node: fx.Node, parts: Mapping[str, nn.Module]) -> str:
    """The batch norm that alone reads what a layer gives, "" when there is none."""
    if len(node.users) != 1:
        return ""
    user = next(iter(node.users))
    part = parts.get(str(user.target)) if user.op == "call_module" else None
    known = type(part) in (nn.BatchNorm2d, nn.BatchNorm1d) and getattr(part, "running_mean", None) is not None
    return str(user.target) if known else ""


def _points(graph: fx.Graph, parts: Mapping[str, nn.Module], found: Layout) -> Iterator[fx.Node]:
    (output,) = (node for node in graph.nodes if node.op == "output")
    answer = output.args[0]
    while isinstance(answer, fx.Node) and _hands_on(answer, parts) and answer.args:
        answer = answer.args[0]
    for node in graph.nodes:
        if node is answer or node.op in {"output", "get_attr"} or not _is_float(node) or _hands_on(node, parts):
            continue
        if found.layers.get(str(node.target)):
            continue  # its norm follows
        follower = _follower(node, parts)
        if follower is not None and _is_relu(follower, parts):
            continue  # the point is behind the activation
        yield node


def _follower(node: fx.Node, parts: Mapping[str, nn.Module]) -> fx.Node | None:
    """The one operation that reads a node's values, past parts that do nothing; None where several do."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if not (node.op == "call_module" and isinstance(parts[str(node.target)], _NOTHING)):
            return node
    return None


def _hands_on(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(parts[str(node.target)], _HANDS_ON)
    if node.op == "call_function":
        return node.target in (operator.getitem, getattr) or getattr(node.target, "__name__", "") in _HANDING
    return node.op == "call_method" and node.target in _HANDING


def _is_relu(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(parts[str(node.target)], _FUSED)
    return getattr(node.target, "__name__", str(node.target)) in {"relu", "relu_", "relu6"}


def _is_float(node: fx.Node) -> bool:
    told: Any = node.meta.get("tensor_meta")
    return isinstance(told, fx.passes.shape_prop.TensorMetadata) and told.dtype.is_floating_point and bool(told.shape)
