"""Layers replaced by several smaller ones in a row: the shapes of a decomposition, without its numbers.

Four forms, for a convolution from I to O channels with a kh x kw kernel, or a linear layer::

    tucker (r, s)    1x1 I -> r;  kh x kw r -> s;  1x1 s -> O       Kim et al. 2016, arXiv:1511.06530
    cp (r,)          1x1 I -> r;  kh x 1 and 1 x kw, each channel by itself;  1x1 r -> O
                                                                    Lebedev et al. 2015, arXiv:1412.6553
    svd (r,)         I -> r;  r -> O                                1x1 convolutions and linear layers
    separable (r,)   kh x 1 C -> rC;  1 x kw rC -> C                depthwise convolutions; Jaderberg et al. 2014,
                                                                    arXiv:1405.3866, each channel by itself

A Tucker factor of full rank would be a change of basis and nothing else; it is left out. The bias is that of the last.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

Ranks = tuple[int, ...]


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether each output channel reads one input channel of its own."""
    return layer.groups == layer.in_channels == layer.out_channels and layer.groups > 1


def full_ranks(layer: nn.Module, form: str) -> Ranks:
    """The ranks at which a form can hold every weight a layer may have.

    Raises:
        ValueError: the form is unknown, or is not one for such a layer.
    """
    if form == "svd" and type(layer) is nn.Linear:
        return (min(layer.in_features, layer.out_features),)
    if type(layer) is not nn.Conv2d or isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(f"a {type(layer).__name__} cannot be replaced by {form!r}")
    point, spatial = layer.kernel_size == (1, 1), math.prod(layer.kernel_size)
    if form == "svd" and point and layer.groups == 1:
        return (min(layer.in_channels, layer.out_channels),)
    if form == "tucker" and not point and layer.groups == 1:
        inner, outer = layer.in_channels, layer.out_channels
        return min(inner, outer * spatial), min(outer, inner * spatial)
    if form == "cp" and not point and layer.groups == 1:
        sizes = (layer.out_channels, layer.in_channels, *layer.kernel_size)
        return (math.prod(sizes) // max(sizes),)
    if form == "separable" and not point and is_depthwise(layer):
        return (min(layer.kernel_size),)
    raise ValueError(f"{form!r} is not a form for this layer")


def replacement(layer: nn.Module, form: str, ranks: Ranks) -> nn.Sequential:
    """The layers that take a layer's place, with weights drawn so that the variance of what comes out stays.

    Args:
        layer: a plain `nn.Conv2d` or `nn.Linear`; not changed.
        form: see the top of this file.
        ranks: from 1 to `full_ranks`.

    Returns:
        Any of `first`, `core` (or `vertical` and `horizontal`), `last`, under these names.

    Raises:
        ValueError: the form or the ranks do not fit the layer.
    """
    most = full_ranks(layer, form)
    fits = len(ranks) == len(most) and all(type(rank) is int for rank in ranks)
    if not fits or not all(1 <= rank <= full for rank, full in zip(ranks, most, strict=True)):
        raise ValueError(f"{form} of this layer takes ranks up to {list(most)}, not {list(ranks)}")
    parts = _BUILDERS[form](layer, *ranks)
    like: Any = layer
    with torch.no_grad():
        gain = float(like.weight.square().mean()) * like.weight[0].numel()
        for part in parts.values():
            final = part is next(reversed(parts.values()))
            part.weight.normal_(std=math.sqrt((gain if final else 1) / part.weight[0].numel()))
            if part.bias is not None:
                part.bias.copy_(like.bias)
    return nn.Sequential(parts).to(like.weight).train(layer.training).requires_grad_(like.weight.requires_grad)


def _tucker(layer: nn.Conv2d, inner: int, outer: int) -> OrderedDict[str, Any]:
    parts: OrderedDict[str, Any] = OrderedDict()
    has_last = outer < layer.out_channels
    if inner < layer.in_channels:
        parts["first"] = nn.Conv2d(layer.in_channels, inner, 1, bias=False)
    parts["core"] = nn.Conv2d(inner, outer, **_window(layer), bias=layer.bias is not None and not has_last)
    if has_last:
        parts["last"] = nn.Conv2d(outer, layer.out_channels, 1, bias=layer.bias is not None)
    return parts


def _cp(layer: nn.Conv2d, rank: int) -> OrderedDict[str, Any]:
    return OrderedDict(
        first=nn.Conv2d(layer.in_channels, rank, 1, bias=False),
        vertical=nn.Conv2d(rank, rank, **_window(layer, 0), groups=rank, bias=False),
        horizontal=nn.Conv2d(rank, rank, **_window(layer, 1), groups=rank, bias=False),
        last=nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None),
    )


def _svd(layer: nn.Conv2d | nn.Linear, rank: int) -> OrderedDict[str, Any]:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        first: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
        return OrderedDict(first=first, last=nn.Linear(rank, layer.out_features, bias=has_bias))
    first = nn.Conv2d(layer.in_channels, rank, **_window(layer), bias=False)
    return OrderedDict(first=first, last=nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias))


def _separable(layer: nn.Conv2d, rank: int) -> OrderedDict[str, Any]:
    channels = layer.in_channels
    return OrderedDict(
        vertical=nn.Conv2d(channels, rank * channels, **_window(layer, 0), groups=channels, bias=False),
        horizontal=nn.Conv2d(
            rank * channels, channels, **_window(layer, 1), groups=channels, bias=layer.bias is not None
        ),
    )


_BUILDERS: dict[str, Callable[..., OrderedDict[str, Any]]] = {
    "tucker": _tucker,
    "cp": _cp,
    "svd": _svd,
    "separable": _separable,
}
FORMS = tuple(_BUILDERS)


def _window(layer: nn.Conv2d, axis: int | None = None) -> dict[str, Any]:
    """Kernel, stride, padding and dilation of a convolution; of one axis alone, neutral in the other."""
    keys = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    if axis is None:
        return {key: getattr(layer, key) for key in keys}
    return {
        key: tuple(getattr(layer, key)[axis] if at == axis else neutral for at in (0, 1))
        for key, neutral in keys.items()
    }


def replace_layers(module: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put other layers in place of those of these names."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        module.get_submodule(parent)._modules[own] = layer


def apply_factors(module: nn.Module, layers: Any) -> nn.Module:
    """Replace layers as a recorded edit says: name -> {"form": ..., "ranks": [...]}; the module given is changed.

    Raises:
        ValueError: the record does not fit the module.
    """
    if not isinstance(layers, dict):
        raise ValueError("a factor edit holds layers and nothing else")
    parts = dict(module.named_modules())
    made = {}
    for name, factors in layers.items():
        if name not in parts or not name:
            raise ValueError(f'there is no layer "{name}"')
        if not isinstance(factors, dict) or set(factors) != {"form", "ranks"} or not isinstance(factors["ranks"], list):
            raise ValueError(f'"{name}" is described by form and ranks')
        if factors["form"] not in FORMS:
            raise ValueError(f"unknown form {factors['form']!r}; known: {', '.join(FORMS)}")
        try:
            made[name] = replacement(parts[name], factors["form"], tuple(factors["ranks"]))
        except ValueError as problem:
            raise ValueError(f'"{name}": {problem}') from problem
    replace_layers(module, made)
    return module


# ---------------------------------------------------------------------------------------------------------------
# Counting what a replacement would cost, without building it.


Places = tuple[int, int, int]
"""Output places of a layer; those between its vertical and its horizontal part; input places. All for one image, over
all times that it runs."""


@contextmanager
def counted_places(module: nn.Module) -> Iterator[dict[str, Places]]:
    """Notes for each plain convolution and linear layer at how many places it works, while the net runs."""
    seen: dict[str, Places] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Linear):
            places = (output.numel() // output.shape[-1],) * 3
        else:
            (height, width), (lines, columns) = inputs[0].shape[-2:], output.shape[-2:]
            places = (lines * columns, lines * width, height * width)
        before = seen.get(name, (0, 0, 0))
        seen[name] = (before[0] + places[0], before[1] + places[1], before[2] + places[2])

    hooks = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in module.named_modules()
        if type(layer) in (nn.Conv2d, nn.Linear)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def macs_of(layer: nn.Module, places: Places) -> int:
    """Multiply-adds of a layer as it is."""
    like: Any = layer
    return int(like.weight.numel() * places[0])


def macs_of_factors(layer: nn.Module, form: str, ranks: Ranks, places: Places) -> int:
    """Multiply-adds of its replacement."""
    outputs, between, inputs = places
    like: Any = layer
    out, inner = like.weight.shape[0], like.weight.shape[1]
    if form == "svd":
        return int(ranks[0] * (inner + out) * outputs)
    vertical, horizontal = like.kernel_size
    if form == "tucker":
        first = inner * ranks[0] * inputs if ranks[0] < inner else 0
        last = ranks[1] * out * outputs if ranks[1] < out else 0
        return int(first + ranks[0] * ranks[1] * vertical * horizontal * outputs + last)
    if form == "cp":
        return int(ranks[0] * (inner * inputs + vertical * between + (horizontal + out) * outputs))
    return int(ranks[0] * out * (vertical * between + horizontal * outputs))


def params_of_factors(layer: nn.Module, form: str, ranks: Ranks) -> int:
    """Weights of its replacement, biases left out."""
    return macs_of_factors(layer, form, ranks, (1, 1, 1))
