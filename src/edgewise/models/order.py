"""Matching the tensors of two nets by order and shape, where their names have nothing in common.

Order alone proves little: two layers of one shape could stand in either order. So every tensor must agree in kind
(weight, bias, running_mean ...) and shape with the one at its place, layers must begin and end at the same places, and
of layers that nothing but their place tells apart the names must say which comes first, in both nets. A norm belongs to
the convolution before it. Anything less is not matched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

COUNTER = "num_batches_tracked"
"""Batch norm's count of batches: files of old torch versions do not hold it, and no output depends on it."""


@dataclass(frozen=True)
class Layer:
    """The tensors of one part of a net; `tensors` maps their kind to their shape."""

    name: str
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def has_matrix(self) -> bool:
        """Whether it mixes channels, as convolutions and linear layers do, and norms do not."""
        return any(len(shape) > 1 for shape in self.tensors.values())


def in_order(
    own: Mapping[str, torch.Tensor],
    theirs: Mapping[str, torch.Tensor],
    head: Set[str],
    fits: Callable[[str, str], bool],
) -> dict[str, str]:
    """Own name -> name in the file, for all of a net's tensors.

    Args:
        own: the net's state, in registration order.
        theirs: the state of the file, in its order.
        head: the classifier's names; its first dimension may differ, and the file may lack it.
        fits: whether (own name, their name) agree in shape and type.

    Raises:
        ValueError: the two cannot be matched without guessing; the text says where.
    """
    mine, others = _layers(own), _layers(theirs)
    headless = [layer for layer in mine if not any(_full(layer.name, kind) in head for kind in layer.tensors)]
    if len(others) == len(headless) and mine[: len(headless)] == headless:
        mine = headless
    if len(mine) != len(others):
        raise ValueError(f"the file has {len(others)} layers with weights, the model {len(mine)}")
    for place, (layer, other) in enumerate(zip(mine, others, strict=True), 1):
        _check_layer(place, layer, other, head, fits)
    _check_unambiguous(mine, others)
    return {
        _full(layer.name, kind): _full(other.name, kind)
        for layer, other in zip(mine, others, strict=True)
        for kind in (*layer.tensors, COUNTER)
        if _full(layer.name, kind) in own and _full(other.name, kind) in theirs
    }


def _full(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind


def _layers(state: Mapping[str, torch.Tensor]) -> list[Layer]:
    layers: list[Layer] = []
    for name, tensor in state.items():
        parent, _, kind = name.rpartition(".")
        if kind == COUNTER:
            continue
        if not layers or layers[-1].name != parent:
            layers.append(Layer(parent))
        layers[-1].tensors[kind] = tuple(tensor.shape)
    return layers


def _check_layer(place: int, layer: Layer, other: Layer, head: Set[str], fits: Callable[[str, str], bool]) -> None:
    if list(layer.tensors) != list(other.tensors):
        raise ValueError(
            f'at place {place} the file has "{other.name}" with {", ".join(other.tensors)}, '
            f'the model "{layer.name}" with {", ".join(layer.tensors)}'
        )
    for kind, shape in layer.tensors.items():
        theirs = other.tensors[kind]
        name = _full(layer.name, kind)
        if not (fits(name, _full(other.name, kind)) or (name in head and shape[1:] == theirs[1:])):
            raise ValueError(
                f'at place {place} the file has "{_full(other.name, kind)}" {list(theirs)}, '
                f'the model "{name}" {list(shape)}'
            )


def _check_unambiguous(mine: list[Layer], others: list[Layer]) -> None:
    """Each layer against the last one that could stand in its place."""
    last: dict[object, int] = {}
    unit = 0
    for place, layer in enumerate(mine):
        unit += layer.has_matrix
        shapes = tuple(layer.tensors.items())
        key = shapes if layer.has_matrix else (unit, shapes)
        before = last.get(key)
        last[key] = place
        if before is None:
            continue
        own_pair = _where_they_part(mine[before].name, layer.name)
        pair = _where_they_part(others[before].name, others[place].name)
        if not (_ascending(*own_pair) and _ascending(*pair)) and _words(own_pair) != _words(pair):
            raise ValueError(
                f'"{others[before].name}" and "{others[place].name}" have the same shapes, and their names do not tell '
                f'which is "{mine[before].name}" and which is "{layer.name}"'
            )


def _where_they_part(one: str, other: str) -> tuple[str, str]:
    """The first parts of two dotted names that differ."""
    parts = zip([*one.split("."), ""], [*other.split("."), ""], strict=False)
    return next((pair for pair in parts if pair[0] != pair[1]), ("", ""))


def _ascending(one: str, other: str) -> bool:
    """Whether two parts differ by a number alone, and the number of the second is larger: conv1 and conv2, 9 and 10."""
    text, later_text = (re.sub(r"[\d_]+", "", part) for part in (one, other))
    numbers, later = ([int(number) for number in re.findall(r"\d+", part)] for part in (one, other))
    return text == later_text and numbers < later


def _words(pair: tuple[str, str]) -> tuple[str, ...]:
    return tuple(re.sub(r"[^a-z0-9]", "", part.lower()) for part in pair)
