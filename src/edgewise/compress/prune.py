"""Structured pruning: whole channels are removed, the weakest first, then the net is trained on.

How weak a channel is says a criterion (`edgewise.compress.criteria`); which channels go together, and that the pruned
net computes what it should, is found in `edgewise.compress.channels`. Of n channels floor(n x (1 - ratio)) stay, at
least one. The classifier keeps its outputs.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from pydantic import Field

from edgewise.compress.channels import (
    CANNOT_FOLLOW,
    ChannelSet,
    describe,
    faults,
    find_sets,
    removable,
    remove,
)
from edgewise.compress.criteria import CRITERIA, Name
from edgewise.compress.intime import first_in_time
from edgewise.errors import ConfigError, NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgewise.compress.base import Context
    from edgewise.compress.channels import Batches
    from edgewise.compress.intime import Speeds
    from edgewise.models import Model

Ratio = Annotated[float, Field(ge=0, lt=1)]
Target = Annotated[float, Field(gt=0, lt=1)]

RATIO = 0.5
BATCHES, BATCH = 8, 64
"""Training images that criteria which need some look at: so many batches of so many."""
LEAST = Fraction(1, 10)
"""This share of each layer stays when layers are ranked against each other."""
LATENCY_UNIT = 8
LATENCY_RATIOS = tuple(step / 40 for step in range(1, 39))
"""What is tried for a target in time; rounded to multiples of 8 channels, most of them make the same net."""
HALVINGS = 9
MOST = 0.99
"""How finely and how far the ratio for a target is looked for."""


class PruneOptions(Strict):
    """How much to remove, and by which measure."""

    ratio: Ratio | Annotated[tuple[Ratio, ...], Field(min_length=1)] | None = None
    """Share of channels removed in each layer: one number for all convolutions and hidden linear layers, or a list with
    one number per convolution in the order they run (layers that must keep the same channels count once; hidden linear
    layers are then left alone). Default: 0.5, where there is no target."""
    criterion: Name = "l2"
    """What a channel is ranked by: norm of its filters (l2, l1), batch norm factors (bn), first-order change of the
    loss (taylor), norm of all that goes with it (group), mean magnitude of what the next layers get (activation), how
    seldom that is zero (apoz), distance to the other filters (fpgm), or nothing at all (random, the control)."""
    scope: Literal["layer", "net"] = "layer"
    """Remove the same share of each layer, or rank all channels against each other, each layer's scores divided by
    their mean."""
    macs: Target | None = None
    """Remove as little as brings the multiply-adds to this share of what they are."""
    params: Target | None = None
    """Remove as little as brings the parameters to this share of what they are."""
    latency: Target | None = None
    """Remove as little as brings the time of the fp32 ONNX file to this share of what it is, measured here in
    onnxruntime with `measure.threads`; other runtimes and boards have other times."""
    round_to: Annotated[int, Field(ge=1, le=256)] | None = None
    """Keep the nearest multiple of this many channels, at least one multiple; 8 runs faster on most runtimes, 1 gives
    the exact share. Default: 1, and 8 with `latency`."""
    ignore: tuple[str, ...] = ()
    """Layers whose channels stay, by name or pattern, e.g. `("block1.conv", "blocks.0.*")`; layers that must keep the
    same channels as one of them stay too."""
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    """Remove the channels in so many steps, each the same share of what is left, scored anew, with training between."""
    step_epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Epochs of training between two steps."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning after the channels are gone; default: the recipe's `finetune_epochs`; 0 for none."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""

    @pydantic.model_validator(mode="after")
    def _one_wish(self) -> PruneOptions:
        if sum(wish is not None for wish in (self.ratio, self.macs, self.params, self.latency)) > 1:
            raise ValueError("ratio, macs, params and latency are four ways to say how much; give one")
        if isinstance(self.ratio, tuple) and self.scope == "net":
            raise ValueError("a list of ratios says what each layer loses; scope=net would decide that itself")
        return self

    @property
    def unit(self) -> int:
        """The multiple of channels that is kept."""
        return self.round_to or (1 if self.latency is None else LATENCY_UNIT)


def prune(model: Model, options: PruneOptions, context: Context) -> Model:
    """Remove channels, then fine-tune; the given model is not changed.

    Raises:
        NoEffect: there is nothing to remove (N10).
        ConfigError: the net cannot be pruned (C45), the list of ratios does not match its layers (C46), or the target
            cannot be reached (C86, C66) or not be measured (C65).
    """
    batches = () if CRITERIA[options.criterion].needs == "weights" else _batches(model, context)
    pruner = _Pruner(options, batches, context.seed, context.say, context.speeds)
    if options.steps == 1:
        pruned = pruner.once(model)
    else:
        pruned = pruner.stepwise(model, lambda net: context.finetune(net, epochs=options.step_epochs, lr=options.lr))
    return pruned if options.epochs == 0 else context.finetune(pruned, epochs=options.epochs, lr=options.lr)


def remove_channels(model: Model, options: PruneOptions, say: Callable[[str], None] = lambda _: None) -> Model:
    """`prune` in one step and without the fine-tuning: the kept channels have the weights they had.

    Args:
        model: not changed.
        options: with a criterion that needs no images.
        say: takes what is left as it was.

    Raises:
        ValueError: the criterion needs images. Otherwise as `prune`.
    """
    if CRITERIA[options.criterion].needs != "weights":
        raise ValueError(f"{options.criterion} needs training images; apply prune with a context")
    return _Pruner(options, (), 0, say).once(model)


def _batches(model: Model, context: Context) -> Batches:
    """The first training images of a shuffled epoch, as the model takes them."""
    import numpy as np
    import torch

    from edgewise.train.feed import Pixels

    split = context.dataset.train
    device = next(model.module.parameters()).device
    pixels = Pixels(model.input, device)
    rows = np.random.default_rng(context.seed).permutation(len(split))[: BATCHES * BATCH]
    parts = [np.sort(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    return [(pixels(split.images[part]), torch.from_numpy(split.labels[part]).to(device)) for part in parts]


class _Nothing(Exception):
    """No layer loses a channel."""


@dataclass(frozen=True)
class _Wish:
    """How much is to go; `widths` are the channels of each set before the first step, {} for those it has now."""

    ratio: float | tuple[float, ...]
    widths: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Way:
    """How a net is followed: as a whole, but for the sets named with a reason; or only inside its plain chains."""

    chains: bool = False
    partial: bool = False
    skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)


_Scores = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class _Pruner:
    """What all removals of one step of a plan share."""

    options: PruneOptions
    batches: Batches
    seed: int
    say: Callable[[str], None]
    speeds: Speeds | None = None

    def once(self, model: Model) -> Model:
        """Remove all at once.

        Raises:
            NoEffect: N10. ConfigError: C45, C46, C86.
        """
        try:
            return self._removed(model, _Wish(self._ratio(model)))
        except _Nothing as problem:
            raise _no_effect(model, self.options) from problem

    def stepwise(self, model: Model, train: Callable[[Model], Model]) -> Model:
        """Remove a part, train, remove the next part; what is left falls by the same factor in each step."""
        ratio, steps = self._ratio(model), self.options.steps
        widths = _widths(model)
        pruned = model
        for step in range(1, steps + 1):
            wish = _Wish(_share_of(ratio, step, steps), widths)
            try:
                pruned = self._removed(pruned, wish)
            except _Nothing:
                continue  # a small step may round to nothing
            if step < steps:
                pruned = train(pruned)
        if pruned is model:
            raise _no_effect(model, self.options)
        return pruned

    def _removed(self, model: Model, wish: _Wish) -> Model:
        from edgewise.models.surgery import resize_edit

        way, module = self._way(model, wish)
        if way.skipped:
            self.say("prune leaves alone: " + "; ".join(f"{name} ({why})" for name, why in way.skipped.items()))
        elif way.chains:
            self.say("prune cannot follow the whole net; it prunes inside its plain chains of layers")
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(model.module.get_parameter(name).requires_grad)
        edit = resize_edit(model.module, module)
        structure = model.structure if edit is None else (*model.structure, edit)
        return dataclasses.replace(model, module=module, structure=structure)

    def _way(self, model: Model, wish: _Wish) -> tuple[_Way, nn.Module]:
        """The first way that works, and what it makes.

        The whole net is tried first. Where the dependency graph cannot follow it (channels split into parts of fixed
        size, shuffled or sliced), each set of channels is tried by itself, and those that fail are left alone. Where
        that does not help, the inner channels of plain chains of layers are pruned.
        """
        try:
            return _Way(), self._build(model, wish, _Way(), {})
        except CANNOT_FOLLOW as problem:
            first = problem
        for find in (self._partial, lambda *_: _Way(chains=True)):
            try:
                way = find(model, wish)
                return way, self._build(model, wish, way, {})
            except (*CANNOT_FOLLOW, _Nothing):
                continue
        raise _cannot_prune(model, first) from first

    def _partial(self, model: Model, wish: _Wish) -> _Way:
        lost: dict[str, str] = {}
        net, images = _copied(model)
        sets = self._chosen(net, images, wish, _Way(partial=True), {}, lost)
        return _Way(partial=True, skipped=lost | faults(net, sets, images))

    def _build(self, model: Model, wish: _Wish, way: _Way, scores: _Scores, *, check: bool = True) -> nn.Module:
        """The pruned net; `scores` are used where there are any, else they are filled in."""
        net, images = _copied(model)
        sets = self._chosen(net, images, wish, way, scores)
        if not sets:
            raise _Nothing
        remove(net, sets, images if check else None)
        return net

    def _chosen(
        self,
        net: nn.Module,
        images: torch.Tensor,
        wish: _Wish,
        way: _Way,
        scores: _Scores,
        lost: dict[str, str] | None = None,
    ) -> list[ChannelSet]:
        """The sets that lose channels, with these filled in; `lost` takes those that cannot be followed."""
        skipped = lost if lost is not None else {} if way.partial else None
        found = find_sets(net, images, chains=way.chains, skipped=skipped)
        sets = [one for one in found if one.name not in way.skipped and not self._ignored(one)]
        if not scores:
            criterion = CRITERIA[self.options.criterion]
            known = describe(net, sets, criterion.needs, self.batches, self.seed)
            scores.update({name: criterion.score(channels) for name, channels in known.items()})
        _choose(sets, scores, wish, self.options)
        return [one for one in sets if removable(one)]

    def _ignored(self, one: ChannelSet) -> bool:
        patterns = self.options.ignore
        return any(fnmatch.fnmatchcase(name, pattern) for name in one.members for pattern in patterns)

    def _ratio(self, model: Model) -> float | tuple[float, ...]:
        """The ratio that was asked for, or the smallest that meets the target.

        Raises:
            ConfigError: none does (C86, C66).
        """
        if self.options.latency is not None:
            return self._ratio_in_time(model, self.options.latency)
        if self.options.macs is None and self.options.params is None:
            return RATIO if self.options.ratio is None else self.options.ratio
        from edgewise.models.cost import cost

        share = self.options.macs or self.options.params or 0
        kind = "macs" if self.options.macs else "params_total"
        before = getattr(cost(model.module, model.input), kind)
        way = self._usual_way(model)
        scores: _Scores = {}

        def left(ratio: float) -> float:
            try:
                net = self._build(model, _Wish(ratio), way, scores, check=False)
            except _Nothing:
                return 1.0
            return float(getattr(cost(net, model.input), kind) / before)

        low, high = 0.0, MOST
        least = left(high)
        if least > share:
            raise _out_of_reach(model, self.options, least)
        for _ in range(HALVINGS):
            middle = round((low + high) / 2, 4)
            low, high = (low, middle) if left(middle) <= share else (middle, high)
        return high

    def _ratio_in_time(self, model: Model, share: float) -> float:
        way, scores = self._usual_way(model), _Scores()
        versions = []
        for ratio in LATENCY_RATIOS:
            with contextlib.suppress(_Nothing):
                net = self._build(model, _Wish(ratio), way, scores, check=False)
                versions.append((ratio, dataclasses.replace(model, module=net)))
        return first_in_time(model, versions, share, self.speeds, self.say)

    def _usual_way(self, model: Model) -> _Way:
        try:
            return self._way(model, _Wish(RATIO))[0]
        except _Nothing:
            return _Way()


def _widths(model: Model) -> dict[str, int]:
    """The channels of each set by name, as far as the net can be followed."""
    net, images = _copied(model)
    try:
        sets = find_sets(net, images, chains=False, skipped={})
    except CANNOT_FOLLOW:
        sets = find_sets(net, images, chains=True)
    return {one.name: one.count for one in sets}


def _copied(model: Model) -> tuple[nn.Module, torch.Tensor]:
    """A copy of the net to work on, and images to run it with."""
    return copy.deepcopy(model.module).eval().requires_grad_(True), _images(model)


def _images(model: Model) -> torch.Tensor:
    import torch

    size = (model.input.channels, model.input.height, model.input.width)
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    return images.to(next(model.module.parameters()).device)


def _share_of(ratio: float | tuple[float, ...], step: int, steps: int) -> float | tuple[float, ...]:
    """What is gone after a step: what is left falls by the same factor each time, and to the ratio itself at last."""
    if isinstance(ratio, tuple):
        return tuple(1 - (1 - one) ** (step / steps) if step < steps else one for one in ratio)
    return 1 - (1 - ratio) ** (step / steps) if step < steps else ratio


def _choose(sets: Sequence[ChannelSet], scores: Mapping[str, torch.Tensor], wish: _Wish, options: PruneOptions) -> None:
    """Fill in the channels that go: those with the lowest scores, of equal ones the later."""
    widths = {one.name: wish.widths.get(one.name, one.count) for one in sets}
    if options.scope == "net" and not isinstance(wish.ratio, tuple):
        shares = _global_kept(sets, scores, widths, wish.ratio)
        kept = {name: _kept_of(count, widths[name], options.unit) for name, count in shares.items()}
    else:
        kept = {
            one.name: _kept(widths[one.name], ratio, math.lcm(options.unit, one.groups))
            for one, ratio in _ratios(sets, wish.ratio)
        }
    for one in sets:
        _mark(one, scores[one.name], min(one.count, kept.get(one.name, one.count)))


def _mark(one: ChannelSet, scores: torch.Tensor, kept: int) -> None:
    import torch

    parts = scores.view(one.groups, -1).mean(0)
    ranked = torch.argsort(parts, descending=True, stable=True).tolist()
    gone = ranked[max(1, kept // one.groups) :]
    one.gone = sorted(part * len(parts) + channel for part in range(one.groups) for channel in gone)


def _global_kept(
    sets: Sequence[ChannelSet], scores: Mapping[str, torch.Tensor], widths: Mapping[str, int], ratio: float
) -> dict[str, int]:
    """How many channels of each set stay when all are ranked together; of each at least a tenth."""
    kept = {one.name: one.count for one in sets}
    groups = {one.name: one.groups for one in sets}
    excess = sum(kept.values()) - math.ceil(sum(widths.values()) * (1 - Fraction(str(ratio))))
    ranked = []
    for one in sets:
        parts = scores[one.name].view(one.groups, -1).mean(0)
        mean = float(parts.mean()) or 1.0
        ranked += [(score / mean, one.name) for score in parts.tolist()]
    for _, name in sorted(ranked):
        if excess < groups[name]:
            continue
        if kept[name] - groups[name] >= max(1, math.ceil(widths[name] * LEAST)):
            kept[name] -= groups[name]
            excess -= groups[name]
    return kept


def _ratios(sets: Sequence[ChannelSet], ratio: float | tuple[float, ...]) -> list[tuple[ChannelSet, float]]:
    if not isinstance(ratio, tuple):
        return [(one, ratio) for one in sets]
    convolutions = [one for one in sets if one.is_convolution]
    if len(convolutions) != len(ratio):
        raise ConfigError(
            f"{len(ratio)} ratios for {len(convolutions)} convolutions that can be pruned",
            code="C46",
            where={"ratio": ratio},
            why="in the order they run: " + ", ".join(one.name for one in convolutions),
            fix="give one ratio for each of these, or a single number for all",
        )
    return list(zip(convolutions, ratio, strict=True))


def _kept(channels: int, ratio: float, unit: int) -> int:
    """How many of `channels` stay: floor(channels x (1 - ratio)), at the nearest multiple of `unit`, ties down.

    The ratio counts as the decimal number it is written as: of 10 channels a ratio of 0.9 leaves 1, although in binary
    10 x (1 - 0.9) is below 1.

    >>> [_kept(width, 0.3, 1) for width in (32, 64, 128)], [_kept(width, 0.3, 8) for width in (32, 64, 128)]
    ([22, 44, 89], [24, 40, 88])
    """
    if ratio == 0:
        return channels
    return _kept_of(max(1, math.floor(channels * (1 - Fraction(str(ratio))))), channels, unit)


def _kept_of(exact: int, channels: int, unit: int) -> int:
    """The multiple of `unit` nearest to `exact`, ties down, at least one and at most all of the channels."""
    multiples = max(1, math.ceil(Fraction(exact, unit) - Fraction(1, 2)))
    return min(channels, multiples * unit)


def _no_effect(model: Model, options: PruneOptions) -> NoEffect:
    return NoEffect(
        "prune found nothing to remove",
        code="N10",
        where={"model": model.architecture, "ratio": options.ratio, "round_to": options.unit},
        why="every layer keeps all its channels at this ratio",
        fix="raise the ratio, lower round_to, ignore fewer layers, or leave the step out of the plan",
    )


def _out_of_reach(model: Model, options: PruneOptions, least: float) -> ConfigError:
    kind = "multiply-adds" if options.macs else "parameters"
    return ConfigError(
        f"pruning cannot bring the {kind} down to {options.macs or options.params:g} of what they are",
        code="C86",
        where={"model": model.architecture, "scope": options.scope, "round_to": options.unit},
        why=f"with {MOST:.0%} of the channels removed, {least:.3f} of them stay",
        fix="ask for less, lower round_to, ignore fewer layers, or take a smaller net",
    )


def _cannot_prune(model: Model, problem: Exception) -> ConfigError:
    told = (str(problem).splitlines() or [""])[0]
    return ConfigError(
        "this model cannot be pruned",
        code="C45",
        where={"model": model.architecture},
        why=f"{type(problem).__name__.lstrip('_')}: {told}".rstrip(": "),
        fix="prune another model: nets of convolutions that follow or are added to one another can be pruned",
    )
