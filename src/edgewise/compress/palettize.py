"""Low-bit weights: each layer's weights take few values, so that a packed file stores them in few bits.

Two ways to choose the values: a grid of evenly spaced levels for each output channel, or a codebook by k-means (Han et
al. 2016, "Deep Compression", arXiv:1510.00149). Fine-tuning keeps the weights on their levels and trains what the
levels are made of; biases and normalisation stay float. The model computes in float as before: only `packed` files get
smaller.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from edgewise.errors import NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    from torch import nn

    from edgewise.compress.base import Context
    from edgewise.data import Split
    from edgewise.device import Pixels
    from edgewise.models import Edit, Model

Bits = Literal[2, 3, 4, 5, 6, 8, 16, 32]
MIXED: tuple[Bits, ...] = (2, 3, 4, 5, 6, 8)
"""The widths that mixed bits choose from."""


class PalettizeOptions(Strict):
    """How many values each layer's weights may take, and how they are found."""

    bits: Bits = 4
    """Bits of a weight: 2 to 8 for 4 to 256 values, 16 for float16 values; 32 is what the weights have already."""
    average: Annotated[float, Field(ge=2, le=8)] | None = None
    """Mixed bits instead: each layer gets its own width, so that the mean over all weights is at most this. Layers
    whose coarser weights change the answers most get the most bits."""
    method: Literal["uniform", "kmeans"] = "uniform"
    """Evenly spaced levels with a scale for each output channel, or codebooks by k-means."""
    grid: Literal["auto", "symmetric", "asymmetric"] = "auto"
    """uniform: where the levels lie: around zero, or around a centre for each channel; auto takes the second where it
    lowers a layer's squared error by 5 % or more."""
    groups: Annotated[int, Field(ge=1, le=4096)] = 1
    """kmeans: codebooks of a layer, each for as many neighbouring output channels."""
    ends: Bits | None = None
    """Bits of the first and the last layer; default: those of the others."""
    sample: Annotated[int, Field(ge=1)] = 256
    """average: training images, spread evenly over the classes, on which the change of the answers is measured."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning with the weights on their levels; default: the recipe's `finetune_epochs`, none for 16
    bits; 0 for none."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""

    @pydantic.model_validator(mode="after")
    def _one_width(self) -> PalettizeOptions:
        if self.average is not None and "bits" in self.model_fields_set:
            raise ValueError("bits and average are given; mixed bits need only the average")
        return self


def palettize(model: Model, options: PalettizeOptions, context: Context) -> Model:
    """Bring the weights of convolutions and linear layers to few values each, and fine-tune them there.

    Weights that `sparsify` made zero stay zero.

    Raises:
        NoEffect: 32 bits for every layer, or no such layers (N20).
    """
    from edgewise.compress.held import held_by, settle, weighted

    widths = _widths(model, options, context)
    held = copy.deepcopy(model.module)
    records = {name: layer for name, layer in weighted(held).items() if widths[name] < 32}
    if not records:
        raise NoEffect(
            "palettize found nothing to do",
            code="N20",
            where={"model": model.architecture, "bits": options.bits},
            why="32 bits are what weights have already" if widths else "there are no convolutions or linear layers",
            fix="choose 2, 3, 4, 5, 6, 8 or 16 bits, or leave the step out of the plan",
        )
    sparse = sparse_layers(model.structure)
    for name, layer in records.items():
        _hold(layer, widths[name], options, name in sparse)
    trained = dataclasses.replace(model, module=held)
    epochs = 0 if options.epochs is None and min(widths.values()) >= 16 else options.epochs
    if epochs != 0:
        trained = context.finetune(trained, epochs=epochs, lr=options.lr)
    module = trained.module
    edit: Edit = {"edit": "palettize", "layers": {}}
    for name in records:
        layer = module.get_submodule(name)
        edit["layers"][name] = held_by(layer).record()
        settle(layer)
    return dataclasses.replace(model, module=module.eval(), structure=(*model.structure, edit))


def sparse_layers(structure: tuple[Edit, ...]) -> set[str]:
    """The layers in which zeros were made on purpose."""
    return {name for edit in structure if edit["edit"] == "sparsify" for name in edit["layers"]}


def _hold(layer: nn.Module, bits: int, options: PalettizeOptions, sparse: bool) -> None:
    """Put a layer's weights on the levels that fit them best."""
    import numpy as np
    import torch

    from edgewise.compress.held import FromBooks, Halves, OnGrid, as_mask, hold, rows_of
    from edgewise.compress.levels import fit_book, fit_grid, nearest_entry

    weight = rows_of(layer)
    keep = weight != 0 if sparse else None
    mask = as_mask(keep, layer)
    if bits == 16:
        hold(layer, Halves(mask))
        return
    if options.method == "uniform":
        hold(layer, OnGrid(fit_grid(weight, bits, options.grid, keep), mask))
        return
    groups = min(options.groups, len(weight))
    group = np.arange(len(weight)) * groups // len(weight)
    books = np.zeros((groups, 2**bits), np.float32)
    index = np.zeros(weight.shape, np.int64)
    for number in range(groups):
        rows = weight[group == number]
        counted = rows if keep is None else rows[keep[group == number]]
        book = fit_book(counted, 2**bits) if counted.size else np.zeros(1, np.float32)
        books[number, : len(book)], books[number, len(book) :] = book, book[-1]
        index[group == number] = number * 2**bits + nearest_entry(rows, book)
    used = max(len(np.unique(book)) for book in books)  # small layers have fewer values than the bits allow
    index = index // 2**bits * used + index % 2**bits
    shaped = torch.from_numpy(index).view(layer.weight.shape)  # type: ignore[arg-type]
    hold(layer, FromBooks(np.ascontiguousarray(books[:, :used]), shaped, bits, mask))


# ---------------------------------------------------------------------------------------------------------------
# How many bits each layer gets.


def _widths(model: Model, options: PalettizeOptions, context: Context) -> dict[str, int]:
    """Bits of each layer."""
    from edgewise.compress.held import weighted
    from edgewise.models.parts import head_modules

    layers = weighted(model.module)
    if not layers:
        return {}
    fixed: dict[str, int] = {}
    if options.ends is not None:
        fixed = dict.fromkeys((next(iter(layers)), *head_modules(model.module)), options.ends)
    if options.average is None:
        return {name: fixed.get(name, options.bits) for name in layers}
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    room = options.average * sum(sizes.values()) - sum(sizes[name] * bits for name, bits in fixed.items())
    free = {name: size for name, size in sizes.items() if name not in fixed}
    losses = sensitivity(model, tuple(free), options, spread_sample(context.dataset.train, options.sample))
    chosen = choose_bits(losses, free, room)
    return {name: fixed.get(name, chosen.get(name, 0)) for name in layers}


def sensitivity(
    model: Model, layers: tuple[str, ...], options: PalettizeOptions, images: Pixels
) -> dict[str, dict[int, float]]:
    """What each layer's weights cost at each width of `MIXED`, all other layers in float.

    The cost is how much the cross entropy with the model's own float answers grows (their Kullback-Leibler divergence,
    mean over images, in nats): it needs no labels, is never below 0, and is 0 for a layer that does not matter.
    """
    import torch

    from edgewise.compress.held import settle
    from edgewise.train import logits

    expected = torch.from_numpy(logits(model, images)).double().log_softmax(1)
    sparse = sparse_layers(model.structure)
    found: dict[str, dict[int, float]] = {}
    for name in layers:
        found[name] = {}
        for bits in MIXED:
            changed = copy.deepcopy(model.module)
            layer = changed.get_submodule(name)
            _hold(layer, bits, options, name in sparse)
            settle(layer)
            answers = torch.from_numpy(logits(dataclasses.replace(model, module=changed), images)).double()
            loss = torch.nn.functional.kl_div(answers.log_softmax(1), expected, reduction="batchmean", log_target=True)
            found[name][bits] = max(0.0, float(loss))
    return found


def choose_bits(losses: Mapping[str, Mapping[int, float]], sizes: Mapping[str, int], room: float) -> dict[str, int]:
    """The widths with a small sum of losses whose weights take at most `room` bits.

    All layers begin with the most bits; then, as long as they take too much room, the step down that costs the least
    loss for each bit it saves is taken. What is left over in the end goes to whatever gains most and fits. Where giving
    all layers the same width is better, that is returned.

    Args:
        losses: of each layer at each width, as `sensitivity` gives them.
        sizes: weights of each layer.
        room: bits; where the fewest are too many, all layers get the fewest.
    """
    widths = sorted(next(iter(losses.values())))
    # A coarser layer that happens to lose less is not to be trusted: losses grow as bits go.
    steady = {
        name: {bits: max(row[one] for one in widths if one >= bits) for bits in widths} for name, row in losses.items()
    }

    def total(chosen: Mapping[str, int]) -> float:
        return sum(steady[name][bits] for name, bits in chosen.items())

    def taken(chosen: Mapping[str, int]) -> int:
        return sum(sizes[name] * bits for name, bits in chosen.items())

    chosen = dict.fromkeys(losses, widths[-1])
    while taken(chosen) > room:
        steps = [
            ((steady[name][lower] - steady[name][bits]) / (sizes[name] * (bits - lower)), lower - bits, name, lower)
            for name, bits in chosen.items()
            for lower in widths
            if lower < bits
        ]
        if not steps:
            return chosen
        _, _, name, lower = min(steps)
        chosen[name] = lower
    while True:
        gains = [
            (steady[name][bits] - steady[name][more], -sizes[name] * (more - bits), name, more)
            for name, bits in chosen.items()
            for more in widths
            if more > bits and taken(chosen) + sizes[name] * (more - bits) <= room
        ]
        best = max(gains, default=(-math.inf, 0, "", 0))
        if best[0] <= 0:
            break
        chosen[best[2]] = best[3]
    alike = [dict.fromkeys(losses, bits) for bits in widths]
    return min([chosen, *(one for one in alike if taken(one) <= room)], key=total)


def spread_sample(split: Split, count: int) -> Pixels:
    """The first images of each class in turn, at most `count` in all."""
    import numpy as np

    place = np.zeros(len(split.labels), np.int64)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        place[members] = np.arange(len(members))
    images: Any = np.ascontiguousarray(split.images[np.sort(np.argsort(place, kind="stable")[:count])])
    return images  # type: ignore[no-any-return]
