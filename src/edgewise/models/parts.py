"""The parts of a classifier by name: its head, and the stages of its backbone in the order they run.

The library's own word is taken where there is one (timm's `get_classifier`); otherwise the head is the last linear
layer or 1x1 convolution, which is where torchvision, our own families and cut nets have it. Pruning keeps all names.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal

from torch import nn

from edgewise.errors import ConfigError

Spec = int | Literal["backbone"]
"""What to freeze: the first so many stages, or all but the head."""

_NUMBERED = re.compile(r"(\D*)\d")


def head_names(module: nn.Module) -> tuple[str, ...]:
    """The parameters of the classifier, those whose shapes change with the number of classes; in registration order.

    Raises:
        ConfigError: the net has neither a linear layer nor a 1x1 convolution at its end (C62).
    """
    heads = set(head_modules(module))
    return tuple(name for name, _ in module.named_parameters() if name.rpartition(".")[0] in heads)


def head_modules(module: nn.Module) -> tuple[str, ...]:
    """The names of the layers that give the logits: one, or two where a net was made with a second, distilled head.

    Raises:
        ConfigError: as `head_names`.
    """
    told = getattr(module, "get_classifier", None)
    if callable(told):
        classifier = told()
        layers = classifier if isinstance(classifier, tuple | list) else (classifier,)
        inside = {id(part) for layer in layers if isinstance(layer, nn.Module) for part in layer.modules()}
        found = tuple(name for name, part in module.named_modules() if id(part) in inside and _own(part))
        if found:
            return found
    last = [name for name, part in module.named_modules() if _gives_logits(part)]
    if not last:
        raise ConfigError(
            "this net has no linear layer or 1x1 convolution that could be its classifier",
            code="C62",
            where={"net": type(module).__name__},
            fix="choose another model",
        )
    return (last[-1],)


def stages(module: nn.Module) -> list[tuple[str, tuple[str, ...]]]:
    """The backbone, cut into named stages in the order they run; with the head they hold every parameter once.

    The stages are the numbered parts of the net (`layer1` to `layer4`, `blocks.0` to `blocks.6`, `block1` ...): the
    outermost level that has at least two. What stands before the first is the stage `stem`, what stands between two
    goes with the earlier one (a transition after its dense block), and what stands behind the last is the stage `neck`.

    Returns:
        (name, parameter names) of each.
    """
    pieces, numbered = _pieces(module, "", set(head_names(module)))
    if not numbered:
        return [(name, tuple(parameters)) for name, parameters in pieces]
    last = max(index for index, (name, _) in enumerate(pieces) if name in numbered)
    cut: list[tuple[str, list[str]]] = []
    for index, (name, parameters) in enumerate(pieces):
        if name in numbered:
            cut.append((name, []))
        elif not cut:
            cut.append(("stem", []))
        elif index == last + 1:
            cut.append(("neck", []))
        cut[-1][1].extend(parameters)
    return [(name, tuple(parameters)) for name, parameters in cut]


def freeze(module: nn.Module, spec: Spec) -> tuple[str, ...]:
    """Let the first stages of a net, or its whole backbone, be trained no further; the rest is trained.

    `keep_frozen` must be called whenever the net has been put into training mode.

    Args:
        module: changed in place (`requires_grad`).
        spec: 0 to the number of stages, or "backbone".

    Returns:
        The names of the parameters that are frozen.

    Raises:
        ConfigError: there are not so many stages (C62).
    """
    cut = stages(module)
    if spec != "backbone" and not 0 <= spec <= len(cut):
        raise ConfigError(
            f"this net has {len(cut)} stages, not {spec}",
            code="C62",
            where={"key": "train.freeze"},
            why=", ".join(name for name, _ in cut),
            fix='give one of 0 to that many, or "backbone"',
        )
    chosen = cut if spec == "backbone" else cut[:spec]
    frozen = set(itertools.chain.from_iterable(parameters for _, parameters in chosen))
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return tuple(name for name, _ in module.named_parameters() if name in frozen)


def keep_frozen(module: nn.Module) -> None:
    """Put the norms of the frozen stages into eval mode; to be called after every `module.train()`.

    A batch norm in training mode moves its running statistics though no gradient reaches it. One without parameters
    belongs to the nearest part around it that has some.
    """
    parts = dict(module.named_modules())
    for name, part in parts.items():
        if "running_mean" in part._buffers and part.training and _is_frozen(name, parts):
            part.eval()


def _is_frozen(name: str, parts: dict[str, nn.Module]) -> bool:
    while True:
        parameters = list(parts[name].parameters())
        if parameters or not name:
            return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        name = name.rpartition(".")[0]


def _own(part: nn.Module) -> bool:
    return any(True for _ in part.parameters(recurse=False))


def _gives_logits(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1))


Piece = tuple[str, list[str]]
"""A part of a net and the names of its parameters without those of the head."""


def _pieces(module: nn.Module, prefix: str, head: set[str]) -> tuple[list[Piece], set[str]]:
    """The parts of a net, and which of them are numbered; its largest part is opened until some are."""
    own = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    level: list[Piece] = [(f"{prefix}parameters", own)] if own else []
    for name, child in module.named_children():
        parameters = [f"{prefix}{name}.{below}" for below, _ in child.named_parameters()]
        level.append((prefix + name, [parameter for parameter in parameters if parameter not in head]))
    level = [(name, parameters) for name, parameters in level if parameters]
    numbered = _numbered(prefix, level)
    if numbered or not level:
        return level, numbered
    largest = max(range(len(level)), key=lambda index: len(level[index][1]))
    name = level[largest][0]
    if name == f"{prefix}parameters":
        return level, set()
    inner, numbered = _pieces(module.get_submodule(name.removeprefix(prefix)), f"{name}.", head)
    return (level[:largest] + inner + level[largest + 1 :], numbered) if numbered else (level, set())


def _numbered(prefix: str, level: list[Piece]) -> set[str]:
    """The parts that differ by a number alone, if they are two or more and hold most of the parameters."""
    groups: dict[str, list[Piece]] = {}
    for piece in level:
        found = _NUMBERED.match(piece[0].removeprefix(prefix))
        if found:
            groups.setdefault(found[1], []).append(piece)
    total = sum(len(parameters) for _, parameters in level)
    for group in groups.values():
        if len(group) >= 2 and 2 * sum(len(parameters) for _, parameters in group) > total:
            return {name for name, _ in group}
    return set()
