"""Weights of others: found in a model by name, else behind a prefix, else by order and shape; and a record of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgewise.errors import ConfigError, UntrustedError
from edgewise.models.base import Model
from edgewise.models.foreign import open_weights
from edgewise.models.order import COUNTER, in_order
from edgewise.models.parts import head_names

if TYPE_CHECKING:
    import torch
    from torch import nn

ENOUGH = 0.5
"""Share of the backbone's elements, or of its tensors, that must fit; what agrees in less agrees by accident."""


@dataclass(frozen=True)
class Transfer:
    """What a model got from weights of others.

    how: by which rule the tensors were matched.
    share: of the model's elements (parameters and running statistics, batch counters left out), 0..1, that were copied.
    copied, fresh: names of the model's tensors; `fresh` are as they were.
    unused: names in the file that nothing was taken from.
    note: what else a reader should know, "" if nothing.
    """

    how: Literal["name", "prefix", "order and shape"]
    share: float
    copied: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """One line for a log."""
        facts = [f"{len(self.copied)} tensors copied"]
        facts += [f"left fresh: {_some(self.fresh)}"] if self.fresh else []
        facts += [f"not used of the file: {_some(self.unused)}"] if self.unused else []
        facts += [self.note] if self.note else []
        return f"{100 * self.share:.1f} % of the model's elements by {self.how}; {'; '.join(facts)}"

    def as_dict(self) -> dict[str, Any]:
        """The record for `run.json`; of the copied tensors only how many."""
        return {
            "how": self.how,
            "share": self.share,
            "copied": len(self.copied),
            "fresh": list(self.fresh),
            "unused": list(self.unused),
            "note": self.note,
        }


def load_weights(model: Model, path: Path) -> Transfer:
    """Copy the weights of a file or folder into a model, in place, as far as they fit.

    A classifier for another number of classes stays fresh. So does one of a model folder whose labels differ, even when
    there are equally many: its logits mean something else.

    Args:
        model: changed in place.
        path: see `edgewise.models.foreign.open_weights`.

    Raises:
        ConfigError: nothing fits (C42), it cannot be told what fits where (C61), or there is no such file (C60).
        UntrustedError: the file is damaged or foreign (U30), or holds values that are not finite (U30).
    """
    source = open_weights(path)
    other_classes = source.labels is not None and source.labels != model.labels
    try:
        done = transfer(model.module, source.state, skip_head=other_classes)
    except (ConfigError, UntrustedError) as problem:
        problem.where = {"weights": str(path), "model": model.architecture, **problem.where}
        raise
    notes = [f'read from "{source.inside}"'] if source.inside else []
    notes += ["its classes are others, so that the classifier starts fresh"] if other_classes else []
    notes += [done.note] if done.note else []
    return Transfer(done.how, done.share, done.copied, done.fresh, done.unused, "; ".join(notes))


def transfer(module: nn.Module, state: Mapping[str, torch.Tensor], *, skip_head: bool = False) -> Transfer:
    """Copy weights into a module, in place, wherever they fit.

    Names are compared first as they are, then without a prefix that the file's or the module's names have in front
    ("module.", "backbone." ...). If that finds less than half of the backbone, order and shape are tried, and taken
    when they match the whole net without guessing (see `edgewise.models.order`).

    A first convolution for gray images takes the sum of the weights for red, green and blue.

    Args:
        module: changed in place.
        state: name -> tensor.
        skip_head: leave the classifier as it is.

    Raises:
        ConfigError: nothing fits (C42), or two prefixes fit equally well (C61).
        UntrustedError: a tensor that fits holds values that are not finite (U30).
    """
    import torch

    own = module.state_dict()
    head = set(head_names(module))
    stem = next((name for name, tensor in own.items() if tensor.dim() == 4), "")

    def fits(name: str, theirs: str) -> bool:
        return _fits(own[name], state[theirs], gray=name == stem)

    how, pairs, prefix = _match(own, state, head, fits)
    pairs = {name: theirs for name, theirs in pairs.items() if not (skip_head and name in head) and fits(name, theirs)}
    for theirs in pairs.values():
        if not torch.isfinite(state[theirs]).all():
            raise UntrustedError(
                "these weights are not finite numbers",
                code="U30",
                where={"tensor": theirs},
                why="it holds NaN or infinite values",
                fix="get the file again, or take an earlier checkpoint",
            )
    with torch.no_grad():
        for name, theirs in pairs.items():
            given = state[theirs]
            own[name].copy_(given if given.shape == own[name].shape else given.sum(dim=1, keepdim=True))
    counted = [name for name in own if not name.endswith(COUNTER)]
    summed = stem in pairs and state[pairs[stem]].shape != own[stem].shape
    taken = set(pairs.values())
    notes = [f'prefix "{prefix}"'] if prefix else []
    notes += [f"{stem}: red, green and blue summed up for gray images"] if summed else []
    return Transfer(
        how=how,
        share=_elements(own, pairs) / max(1, _elements(own, counted)),
        copied=tuple(name for name in own if name in pairs),
        fresh=tuple(name for name in counted if name not in pairs),
        unused=tuple(name for name in state if name not in taken and not name.endswith(COUNTER)),
        note="; ".join(notes),
    )


def _fits(own: torch.Tensor, theirs: torch.Tensor, *, gray: bool) -> bool:
    import torch

    plain = theirs.layout == torch.strided and theirs.device.type == "cpu" and not theirs.is_complex()
    shape = tuple(theirs.shape)
    if gray and own.shape[1] == 1 and theirs.dim() == 4 and shape[1] == 3:
        shape = (shape[0], 1, *shape[2:])
    return plain and shape == tuple(own.shape) and own.is_floating_point() == theirs.is_floating_point()


_Fits = Callable[[str, str], bool]
_Pairs = dict[str, str]
"""Name in the model -> name in the file."""
_How = Literal["name", "prefix", "order and shape"]


def _match(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], head: Set[str], fits: _Fits
) -> tuple[_How, _Pairs, str]:
    """The rule that applies, the pairs, and the prefix that was taken off."""
    backbone = {name: tensor for name, tensor in own.items() if name not in head and not name.endswith(COUNTER)}
    named = {name: name for name in own if name in state}
    share = _share(backbone, named, fits)
    prefixed, prefix, prefixed_share = _best_prefix(own, state, backbone, fits)
    if max(share, prefixed_share) >= ENOUGH:
        return ("name", named, "") if share >= prefixed_share else ("prefix", prefixed, prefix)
    try:
        return "order and shape", in_order(own, state, head, fits), ""
    except ValueError as problem:
        raise ConfigError(
            "these weights do not fit the model",
            code="C42",
            why=f"by name {100 * max(share, prefixed_share):.0f} % of the backbone agrees; by order: {problem}",
            fix="use weights of the same architecture",
        ) from problem


def _best_prefix(
    own: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    backbone: Mapping[str, torch.Tensor],
    fits: _Fits,
) -> tuple[_Pairs, str, float]:
    """The pairs of the prefix that fits most, the prefix and the share; an average ("ema") first among equals.

    The prefix stands before the file's names, or before the model's (a net that was cut has its parts in `features`),
    while the file's may all have another.
    """
    shared = max((prefix for prefix in _prefixes(state) if all(name.startswith(prefix) for name in state)), default="")
    tried = [(prefix, {name: prefix + name for name in own if prefix + name in state}) for prefix in _prefixes(state)]
    for prefix, start in itertools.product(_prefixes(own), sorted({"", shared})):
        below = {name: start + name.removeprefix(prefix) for name in own if name.startswith(prefix)}
        tried.append((prefix, {name: theirs for name, theirs in below.items() if theirs in state}))
    scores = [_share(backbone, pairs, fits) for _, pairs in tried]
    most = max(scores, default=0.0)
    equal = [found for found, score in zip(tried, scores, strict=True) if score == most]
    if most < ENOUGH:
        return {}, "", most
    averaged = [found for found in equal if "ema" in found[0].lower()]
    chosen = averaged or equal
    if any(pairs != chosen[0][1] for _, pairs in chosen):
        raise ConfigError(
            "the file holds several sets of weights that fit equally well",
            code="C61",
            why=f"behind the prefixes {', '.join(prefix for prefix, _ in chosen)}",
            fix="save the one you want as a file of its own",
        )
    return chosen[0][1], chosen[0][0], most


def _prefixes(names: Iterable[str]) -> list[str]:
    """Everything that stands before a dot in some name, with the dot; sorted."""
    return sorted({name[: index + 1] for name in names for index, sign in enumerate(name) if sign == "."})


def _share(backbone: Mapping[str, torch.Tensor], pairs: _Pairs, fits: _Fits) -> float:
    """The share of the backbone that fits, of its elements or of its tensors, whichever is larger."""
    fitting = [name for name, theirs in pairs.items() if name in backbone and fits(name, theirs)]
    of_elements = _elements(backbone, fitting) / max(1, _elements(backbone, backbone))
    return max(of_elements, len(fitting) / max(1, len(backbone)))


def _elements(own: Mapping[str, torch.Tensor], names: Iterable[str]) -> int:
    return sum(own[name].numel() for name in names if not name.endswith(COUNTER))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
