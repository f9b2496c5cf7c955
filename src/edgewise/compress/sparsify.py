"""Unstructured sparsity: the smallest weights become zero and stay zero.

A dense runtime multiplies by zeros as by anything else: the model gets no faster. What gets smaller is a `packed` file,
which leaves the zeros out. Gradual, with fine-tuning between the steps (Zhu, Gupta 2017, arXiv:1710.01878).
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from edgewise.errors import NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    from edgewise.compress.base import Context
    from edgewise.compress.levels import Floats, Mask
    from edgewise.models import Edit, Model

_PATTERN = re.compile(r"([1-9]\d?):([1-9]\d?)")


class SparsifyOptions(Strict):
    """Which weights become zero, and how."""

    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the weights of convolutions and linear layers that become zero: those with the smallest magnitudes."""
    pattern: str | None = None
    """N:M instead of a ratio: of each M weights that follow each other along the input channels the N largest stay, as
    in 2:4; layers whose input channels are no multiple of M are left as they are."""
    scope: Literal["layer", "net"] = "layer"
    """Rank weights within each layer, so that each loses the same share, or those of the whole net together."""
    steps: Annotated[int, Field(ge=1, le=100)] = 3
    """Steps in which the share grows, fast at first; one epoch of fine-tuning after each but the last."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning after the last step; default: the recipe's `finetune_epochs`; 0 for none at all."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""

    @pydantic.field_validator("pattern")
    @classmethod
    def _is_n_of_m(cls, value: str | None) -> str | None:
        found = _PATTERN.fullmatch(value) if value is not None else None
        if value is not None and not (found and int(found[1]) < int(found[2])):
            raise ValueError('written like "2:4", the first number below the second')
        return value

    @pydantic.model_validator(mode="after")
    def _one_measure(self) -> SparsifyOptions:
        if self.pattern is not None and "ratio" in self.model_fields_set:
            raise ValueError("ratio and pattern are given; a pattern has its own share")
        return self


def sparsify(model: Model, options: SparsifyOptions, context: Context) -> Model:
    """Make weights zero step by step, with fine-tuning that leaves them zero; the given model is not changed.

    Raises:
        NoEffect: no weight becomes zero that is not zero already (N21).
    """
    from edgewise.compress.held import settle

    sparse = model
    layers: tuple[str, ...] = ()
    steps = options.steps if options.epochs != 0 and options.pattern is None else 1
    for step in range(1, steps + 1):
        share = options.ratio * (1 - (1 - step / steps) ** 3)
        sparse, layers = _masked(sparse, options, share)
        if not layers:
            continue
        last = step == steps
        if options.epochs != 0:
            sparse = context.finetune(sparse, epochs=options.epochs if last else 1, lr=options.lr)
        for name in layers:
            settle(sparse.module.get_submodule(name))
    if not layers or not _more_zeros(model, sparse, layers):
        raise NoEffect(
            "sparsify found nothing to do",
            code="N21",
            where={"model": model.architecture, "ratio": options.pattern or options.ratio},
            why="no weight becomes zero that is not zero already",
            fix="raise the ratio, choose another pattern, or leave the step out of the plan",
        )
    edit: Edit = {"edit": "sparsify", "layers": list(layers)}
    return dataclasses.replace(model, module=sparse.module.eval(), structure=(*model.structure, edit))


def _masked(model: Model, options: SparsifyOptions, share: float) -> tuple[Model, tuple[str, ...]]:
    """A copy whose layers hold zeros in place, and the layers that do."""
    from edgewise.compress.held import Kept, as_mask, hold, rows_of, weighted

    module = copy.deepcopy(model.module)
    layers = weighted(module)
    keeps: Mapping[str, Mask | None]
    if options.pattern is not None:
        keeps = {
            name: keep_pattern(layer.weight.detach().cpu().numpy(), options.pattern) for name, layer in layers.items()
        }
    else:
        keeps = keep_largest({name: rows_of(layer) for name, layer in layers.items()}, share, options.scope)
    held = {name: keep for name, keep in keeps.items() if keep is not None and not keep.all()}
    for name, keep in held.items():
        mask = as_mask(keep, layers[name])
        assert mask is not None
        hold(layers[name], Kept(mask))
    return dataclasses.replace(model, module=module), tuple(held)


def _more_zeros(before: Model, after: Model, layers: tuple[str, ...]) -> bool:
    def zeros(model: Model) -> int:
        weights: list[Any] = [model.module.get_submodule(name).weight for name in layers]
        return sum(int((weight == 0).sum()) for weight in weights)

    return zeros(after) > zeros(before)


def keep_largest(weights: dict[str, Floats], share: float, scope: str) -> dict[str, Mask]:
    """Which weights stay: all but floor(share x weights) of the smallest magnitudes; of equal ones the first go.

    Args:
        weights: float32 of any shape, by layer.
        share: 0..1.
        scope: "layer" ranks each by itself, "net" all together (then a layer may lose all but its largest weight).
    """
    import numpy as np

    sizes = {name: np.abs(weight).reshape(-1) for name, weight in weights.items()}
    if scope == "layer":
        ranked = {name: _smallest(size, int(share * len(size) + 1e-9)) for name, size in sizes.items()}
    else:
        joined = np.concatenate(list(sizes.values()))
        gone = _smallest(joined, int(share * len(joined) + 1e-9))
        ends = np.cumsum([len(size) for size in sizes.values()])[:-1]
        ranked = dict(zip(sizes, np.split(gone, ends), strict=True))
        for name, size in sizes.items():
            ranked[name][int(size.argmax())] = False
    return {name: ~ranked[name].reshape(weights[name].shape) for name in weights}


def _smallest(sizes: Any, count: int) -> Any:
    import numpy as np

    gone = np.zeros(len(sizes), np.bool_)
    gone[np.argsort(sizes, kind="stable")[:count]] = True
    return gone


def keep_pattern(weight: Floats, pattern: str) -> Mask | None:
    """Which weights stay of float32 (out, in, ...): the N largest of each M along `in`; None where `in` is no multiple.

    Returns:
        bool (out, weights of each).
    """
    import numpy as np

    keep, of = (int(number) for number in pattern.split(":"))
    if weight.shape[1] % of:
        return None
    moved = np.moveaxis(np.abs(weight), 1, -1)
    runs = moved.reshape(-1, of)
    order = np.argsort(-runs, axis=1, kind="stable")
    stays = np.zeros(runs.shape, np.bool_)
    np.put_along_axis(stays, order[:, :keep], True, axis=1)
    back = np.moveaxis(stays.reshape(moved.shape), -1, 1)
    return np.ascontiguousarray(back).reshape(len(weight), -1)
