"""Structural changes: cutting a net after a part, bringing layers to recorded sizes, replacing layers by factors.

Every change is an `Edit`, plain JSON data, so that a changed net can be rebuilt from its name and its edits alone. The
functions of `EDITS` may change the module they are given; callers pass a fresh one or a copy.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from edgewise.errors import ConfigError, UntrustedError, nearest
from edgewise.models.base import Edit, Model, seeded
from edgewise.models.factor import apply_factors


def apply(module: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """Apply recorded changes in order; the module given may be changed.

    Raises:
        UntrustedError: an edit is unknown or does not fit the module (U12).
    """
    for edit in edits:
        kind = edit.get("edit") if isinstance(edit, dict) else None
        if not isinstance(kind, str) or kind not in EDITS:
            raise _misfit(f"unknown edit {kind!r}; known: {', '.join(EDITS)}")
        module = EDITS[kind](module, edit)
    return module


# ---------------------------------------------------------------------------------------------------------------
# Resize: every layer whose size differs, with its new sizes.

_SIZES: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((nn.Conv1d, nn.Conv2d), ("out_channels", "in_channels", "groups")),
    ((nn.Linear,), ("out_features", "in_features")),
    ((nn.BatchNorm1d, nn.BatchNorm2d), ("num_features",)),
    ((nn.GroupNorm,), ("num_channels",)),
    ((nn.LayerNorm,), ("normalized_shape",)),
)
"""Layer types and the attributes that hold their sizes. Of any other module the shapes of its own parameters count."""


def resize_edit(before: nn.Module, after: nn.Module) -> Edit | None:
    """The edit that takes the layer sizes of `before` to those of `after`, None when they are the same.

    Both must have the same parts under the same names.
    """
    old = {name: _sizes(layer) for name, layer in before.named_modules()}
    new = {name: _sizes(layer) for name, layer in after.named_modules()}
    layers = {name: sizes for name, sizes in new.items() if sizes != old[name]}
    return {"edit": "resize", "layers": layers} if layers else None


def _size_names(layer: nn.Module) -> tuple[str, ...] | None:
    return next((names for types, names in _SIZES if isinstance(layer, types)), None)


def _sizes(layer: nn.Module) -> dict[str, Any]:
    names = _size_names(layer)
    if names is None:
        return {name: list(parameter.shape) for name, parameter in layer.named_parameters(recurse=False)}
    return {name: list(value) if isinstance(value := getattr(layer, name), tuple) else int(value) for name in names}


def _resize(module: nn.Module, edit: Edit) -> nn.Module:
    layers = edit.get("layers")
    if set(edit) != {"edit", "layers"} or not isinstance(layers, dict):
        raise _misfit("a resize holds the sizes of layers and nothing else")
    parts = dict(module.named_modules())
    for name, sizes in layers.items():
        if name not in parts:
            raise _misfit(f'there is no layer "{name}"; {nearest(name, parts)}')
        _resize_layer(name, parts[name], sizes)
    return module


def _resize_layer(name: str, layer: nn.Module, sizes: Any) -> None:
    """Keep the leading part of each tensor, weights scaled so that the variance of what a layer puts out stays."""
    now = _sizes(layer)
    if not isinstance(sizes, dict) or set(sizes) != set(now):
        raise _misfit(f'layer "{name}" is described by {", ".join(now)}')
    shapes = {
        key: _shape(name, layer, key, tensor, sizes)
        for key, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    }
    for key, shape in shapes.items():
        tensor = getattr(layer, key)
        fits = len(shape) == tensor.dim() and all(1 <= new <= old for new, old in zip(shape, tensor.shape, strict=True))
        if not fits:
            raise _misfit(f'"{name}.{key}" cannot go from {list(tensor.shape)} to {list(shape)}')
    with torch.no_grad():
        for key, shape in shapes.items():
            _cut_tensor(layer, key, shape)
    for key in _size_names(layer) or ():
        setattr(layer, key, tuple(sizes[key]) if isinstance(sizes[key], list) else sizes[key])


def _shape(name: str, layer: nn.Module, key: str, tensor: torch.Tensor, sizes: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that a tensor of a layer has at the given sizes."""
    numbers = [number for value in sizes.values() for number in (value if isinstance(value, list) else [value])]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise _misfit(f'the sizes of "{name}" are whole numbers of at least 1, not {dict(sizes)}')
    if tensor.dim() == 0:
        return ()
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        out, inputs, groups = sizes["out_channels"], sizes["in_channels"], sizes["groups"]
        if out % groups or inputs % groups:
            raise _misfit(f'the channels of "{name}" are not multiples of its {groups} groups')
        return (out, inputs // groups, *tensor.shape[2:]) if key == "weight" else (out,)
    if isinstance(layer, nn.Linear):
        return (sizes["out_features"], sizes["in_features"]) if key == "weight" else (sizes["out_features"],)
    if _size_names(layer) is None:
        return tuple(sizes[key]) if key in sizes else tuple(tensor.shape)
    (value,) = sizes.values()
    return tuple(value) if isinstance(value, list) else (value,)


def _cut_tensor(layer: nn.Module, key: str, shape: tuple[int, ...]) -> None:
    tensor = getattr(layer, key)
    if tuple(tensor.shape) == shape:
        return
    kept = tensor[tuple(slice(length) for length in shape)].clone()
    if key == "weight" and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        kept *= math.sqrt(math.prod(tensor.shape[1:]) / math.prod(shape[1:]))
    setattr(layer, key, nn.Parameter(kept, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else kept)


# ---------------------------------------------------------------------------------------------------------------
# Truncate: keep the parts up to a named one, then global average pooling and a new linear classifier.


def truncate_model(model: Model, after: str, *, seed: int = 0) -> Model:
    """A copy of a model, cut after a part; its new classifier is untrained.

    Raises:
        ConfigError: there is no such part, or the net is not a chain up to it (C44).
    """
    edit: Edit = {
        "edit": "truncate",
        "after": after,
        "input": [model.input.channels, model.input.height, model.input.width],
        "classes": model.num_classes,
    }
    with seeded(seed):
        module = EDITS["truncate"](copy.deepcopy(model.module), edit)
    return dataclasses.replace(model, module=module.eval(), structure=(*model.structure, edit))


def truncate(module: nn.Module, after: str, shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Keep a net up to and including the part `after`; put global average pooling and a linear layer behind it.

    This works for nets that are a chain of their parts that far (ResNet, MobileNet, ShuffleNet, EfficientNet ...).
    Whether they are is not assumed but checked: the chain of the kept parts must return exactly what `after` returned
    inside the whole net.

    Args:
        module: in eval mode; its kept parts go into the result.
        after: the name of a part, with dots for parts of parts, e.g. "stage3" or "features.7".
        shape: (channels, height, width) of the input.
        classes: logits of the new classifier.

    Returns:
        `features`, `pool`, `flatten`, `classifier` in a row.

    Raises:
        ConfigError: there is no such part, or the net is not a chain up to it (C44).
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, *shape, generator=generator)
    larger = torch.randn(1, shape[0], 2 * shape[1], 2 * shape[2], generator=generator)
    with torch.no_grad():
        features = _chain(module, after.split("."), image, after)
        try:
            maps, larger_maps = features(image), features(larger)
        except (RuntimeError, AssertionError) as problem:
            raise _not_a_chain(after, str(problem).splitlines()[0]) from problem
    if maps.dim() != 4 or maps.shape[1] != larger_maps.shape[1]:
        raise _not_a_chain(after, "that part does not return (N, channels, height, width) maps")
    return nn.Sequential(
        OrderedDict(
            features=features,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(maps.shape[1], classes),
        )
    )


def _chain(module: nn.Module, path: list[str], image: torch.Tensor, after: str) -> nn.Sequential:
    """The children of a module in the order they run, up to the one named first in `path`, as a checked chain."""
    name, *below = path
    children = dict(module.named_children())
    if name not in children:
        raise ConfigError(
            f'there is no part "{name}" to cut after',
            code="C44",
            where={"after": after},
            why=nearest(name, children) or f"the parts are {', '.join(children)}",
            fix="name one of the parts of the net",
        )
    calls: list[tuple[str, Any, Any]] = []
    hooks = [
        child.register_forward_hook(
            lambda _, inputs, output, part=part: calls.append((part, inputs[0].clone(), _copied(output)))
        )
        for part, child in children.items()
    ]
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()
    order = [part for part, _, _ in calls]
    if name not in order:
        raise _not_a_chain(after, f'"{name}" does not run')
    calls = calls[: order.index(name) + 1]
    kept = OrderedDict((part, children[part]) for part, _, _ in calls)
    try:
        returned = nn.Sequential(kept)(image)
    except (RuntimeError, TypeError, AssertionError) as problem:
        raise _not_a_chain(after, str(problem).splitlines()[0]) from problem
    if len(kept) < len(calls) or not _same(returned, calls[-1][2]):
        raise _not_a_chain(after, f'the parts up to "{name}" do not simply follow one another')
    if below:
        kept[name] = _chain(children[name], below, calls[-1][1], after)
    return nn.Sequential(kept)


def _copied(output: Any) -> Any:
    return output.clone() if isinstance(output, torch.Tensor) else None


def _same(returned: Any, expected: Any) -> bool:
    return isinstance(returned, torch.Tensor) and expected is not None and torch.equal(returned, expected)


def _truncate(module: nn.Module, edit: Edit) -> nn.Module:
    after, classes, shape = edit.get("after"), edit.get("classes"), edit.get("input")
    if set(edit) != {"edit", "after", "input", "classes"} or not isinstance(after, str):
        raise _misfit("a truncate holds after, input and classes")
    numbers = [classes, *shape] if isinstance(shape, list) else []
    if len(numbers) != 4 or not all(isinstance(number, int) and 1 <= number <= 65_536 for number in numbers):
        raise _misfit("a truncate holds [channels, height, width] and a number of classes")
    return truncate(module.eval(), after, (numbers[1], numbers[2], numbers[3]), numbers[0])


# ---------------------------------------------------------------------------------------------------------------
# Marks: what was made of the weights, for whoever stores or trains them. They change no structure.


def _palettize(module: nn.Module, edit: Edit) -> nn.Module:
    layers = edit.get("layers")
    if set(edit) != {"edit", "layers"} or not isinstance(layers, dict):
        raise _misfit("a palettize holds what is known of layers and nothing else")
    for name, record in layers.items():
        rows = _rows_of(module, name)
        known = isinstance(record, dict) and record.get("bits") in (2, 3, 4, 5, 6, 8, 16)
        if not known or set(record) - {"bits"} not in (set(), {"scales", "centres"}, {"books"}):
            raise _misfit(f'"{name}" is palettized with bits, and scales and centres or books')
        lists = [record[key] for key in ("scales", "centres") if key in record]
        if not all(_numbers(one) and len(one) == rows for one in lists):
            raise _misfit(f'"{name}" has a scale and a centre for each of its {rows} rows')
        books = record.get("books", [[0.0]])
        if not isinstance(books, list) or not 1 <= len(books) <= rows or not all(_numbers(book) for book in books):
            raise _misfit(f'the books of "{name}" are lists of numbers, at most one for each row')
        if len({len(book) for book in books}) > 1 or not 1 <= len(books[0]) <= 256:
            raise _misfit(f'the books of "{name}" are equally long, with 1 to 256 entries')
    return module


def _sparsify(module: nn.Module, edit: Edit) -> nn.Module:
    layers = edit.get("layers")
    if set(edit) != {"edit", "layers"} or not isinstance(layers, list):
        raise _misfit("a sparsify holds the names of layers and nothing else")
    for name in layers:
        _rows_of(module, name)
    return module


def _qat(module: nn.Module, edit: Edit) -> nn.Module:
    layers, points = edit.get("layers"), edit.get("points")
    if set(edit) != {"edit", "scheme", "layers", "points"} or not (
        isinstance(layers, dict) and isinstance(points, dict)
    ):
        raise _misfit("a qat holds a scheme, layers and points and nothing else")
    if edit["scheme"] not in ("u8s8-rr", "u8s8", "s8s8"):
        raise _misfit("a qat is for u8s8-rr, u8s8 or s8s8")
    for name, record in layers.items():
        rows = _rows_of(module, name)
        if not isinstance(record, dict) or set(record) != {"bits", "scales", "centres"}:
            raise _misfit(f'"{name}" has bits, scales and centres')
        lists = record["scales"], record["centres"]
        if record["bits"] not in (7, 8) or not all(_numbers(one) and len(one) == rows for one in lists):
            raise _misfit(f'"{name}" has 7 or 8 bits, and a scale and a centre for each of its {rows} rows')
    for name, steps in points.items():
        whole = _numbers(steps) and len(steps) == 2 and isinstance(steps[1], int) and 0 <= steps[1] <= 255
        if not isinstance(name, str) or not whole or steps[0] <= 0:
            raise _misfit("a point has a positive step and a level of zero from 0 to 255")
    return module


def _rows_of(module: nn.Module, name: Any) -> int:
    """Output channels of a convolution or linear layer."""
    part = dict(module.named_modules()).get(name) if isinstance(name, str) else None
    if not isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear):
        raise _misfit(f'there is no convolution or linear layer "{name}"')
    return len(part.weight)


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in values
    )


# Factor: layers replaced by several smaller ones in a row; see `edgewise.models.factor`.


def _factor(module: nn.Module, edit: Edit) -> nn.Module:
    if set(edit) != {"edit", "layers"}:
        raise _misfit("a factor edit holds layers and nothing else")
    try:
        return apply_factors(module, edit["layers"])
    except ValueError as problem:
        raise _misfit(str(problem)) from problem


EDITS: dict[str, Callable[[nn.Module, Edit], nn.Module]] = {
    "resize": _resize,
    "truncate": _truncate,
    "palettize": _palettize,
    "sparsify": _sparsify,
    "qat": _qat,
    "factor": _factor,
}
"""Name of an edit -> what applies it. A new structural change is one function and one line here."""


def _not_a_chain(after: str, why: str) -> ConfigError:
    return ConfigError(
        "this model cannot be cut there",
        code="C44",
        where={"after": after},
        why=why,
        fix="cut after another part, or take a net that is a chain of parts, such as a ResNet or MobileNet",
    )


def _misfit(why: str) -> UntrustedError:
    return UntrustedError(
        "a recorded change of structure does not fit this model",
        code="U12",
        why=why,
        fix="the model folder was changed after it was written; make the model again",
    )
