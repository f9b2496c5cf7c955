"""Structured pruning: whole channels are removed, those with the smallest weights first, in every layer alike.

A channel's score is the norm of the filters that compute it (Li et al. 2017, "Pruning Filters for Efficient
ConvNets"). Layers whose outputs are added together must keep the same channels; torch-pruning's dependency graph finds
them (Fang et al. 2023, "DepGraph"), and they are scored and pruned as one. Of n channels floor(n x (1 - ratio)) stay,
at least one. The classifier keeps its outputs.

Before a pruned net is handed out it is compared with the full net in which the removed channels are cut off from
whatever reads them: both must compute the same.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgewise.errors import ConfigError, NoEffect
from edgewise.recipe import Strict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgewise.compress.base import Context
    from edgewise.models import Model

Ratio = Annotated[float, Field(ge=0, lt=1)]


class PruneOptions(Strict):
    """How much to remove, and by which measure."""

    ratio: Ratio | Annotated[tuple[Ratio, ...], Field(min_length=1)] = 0.5
    """Share of channels removed in each layer: one number for all convolutions and hidden linear layers, or a list with
    one number per convolution in the order they run (layers that must keep the same channels count once; hidden linear
    layers are then left alone)."""
    round_to: Annotated[int, Field(ge=1, le=256)] = 1
    """Keep the nearest multiple of this many channels, at least one multiple; 8 runs faster on most runtimes, 1 gives
    the exact share."""
    norm: Literal["l1", "l2"] = "l2"
    """The norm by which filters are ranked: sum of magnitudes, or root of the sum of squares."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning after the channels are gone; default: the recipe's `finetune_epochs`; 0 for none."""


def prune(model: Model, options: PruneOptions, context: Context) -> Model:
    """Remove channels, then fine-tune; the given model is not changed.

    Raises:
        NoEffect: there is nothing to remove (N10).
        ConfigError: the net cannot be pruned (C45), or the list of ratios does not match its layers (C46).
    """
    pruned = remove_channels(model, options)
    if options.epochs == 0:
        return pruned
    return context.finetune(pruned, epochs=options.epochs)


def remove_channels(model: Model, options: PruneOptions) -> Model:
    """`prune` without the fine-tuning: the kept channels have the weights they had.

    The whole net is tried first. Where the dependency graph cannot follow it (channels shuffled, split or sliced
    between blocks, as in ShuffleNet), the inner channels of its plain chains of layers are pruned instead.
    """
    from edgewise.models.surgery import resize_edit

    try:
        module = _attempt(model, options, chains=False)
    except _CANNOT_FOLLOW as problem:
        try:
            module = _attempt(model, options, chains=True)
        except (*_CANNOT_FOLLOW, _Nothing) as again:
            raise _cannot_prune(model, again if isinstance(again, _Unfaithful) else problem) from problem
    except _Nothing as problem:
        raise NoEffect(
            "prune found nothing to remove",
            code="N10",
            where={"model": model.architecture, "ratio": options.ratio, "round_to": options.round_to},
            why="every layer keeps all its channels at this ratio",
            fix="raise the ratio, lower round_to, or leave the step out of the plan",
        ) from problem
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(model.module.get_parameter(name).requires_grad)
    edit = resize_edit(model.module, module)
    structure = model.structure if edit is None else (*model.structure, edit)
    return dataclasses.replace(model, module=module, structure=structure)


class _Nothing(Exception):
    """No layer loses a channel."""


class _Unfaithful(RuntimeError):
    """The pruned net does not compute what the full one does without the removed channels."""


# What torch-pruning, or the net when it meets shapes it does not expect, raises for a net the graph cannot follow.
_CANNOT_FOLLOW = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass
class _Region:
    """A part of a net that is traced by itself; `last` makes its output, so the channels of that layer stay."""

    module: nn.Module
    example: torch.Tensor
    last: nn.Module


@dataclass
class _Layer:
    """One set of channels that can be removed: those of a layer, or of several layers that must keep the same ones.

    `name` is that of the layer among them that runs first. `scores` has one value per channel; they fall into `groups`
    equal parts that must stay equally large.
    """

    graph: Any
    root: nn.Module
    root_function: Any
    name: str
    is_convolution: bool
    scores: torch.Tensor
    groups: int
    gone: list[int] = dataclasses.field(default_factory=list)

    def group(self) -> Any:
        """The dependency group that removes the channels in `gone`."""
        return self.graph.get_pruning_group(self.root, self.root_function, self.gone)


def _attempt(model: Model, options: PruneOptions, *, chains: bool) -> nn.Module:
    import torch

    net = copy.deepcopy(model.module).eval().requires_grad_(True)
    device = next(net.parameters()).device
    size = (model.input.channels, model.input.height, model.input.width)
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).to(device)
    order = _running_order(net, images)
    names = {net.get_submodule(name): name for name in order}  # in running order
    last = net.get_submodule(max(order, key=lambda name: order[name]))
    regions = _chains(net) if chains else [_Region(net, images, last)]
    layers = [layer for region in regions for layer in _layers(region, names, options.norm)]
    layers.sort(key=lambda layer: order[layer.name])
    _choose(layers, options)
    layers = [layer for layer in layers if layer.gone and layer.graph.check_pruning_group(layer.group())]
    if not layers:
        raise _Nothing
    reference = copy.deepcopy(net)
    for layer in layers:
        _disconnect(reference, names, layer.group())
    for layer in layers:
        layer.group().prune()
    _check_faithful(net, reference, images)
    return net


def _running_order(net: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Names of convolutions and linear layers -> their place in the order they run."""
    import torch
    from torch import nn

    ran: dict[str, int] = {}

    def note(name: str, *_: object) -> None:
        ran.setdefault(name, len(ran))

    hooks = [
        layer.register_forward_pre_hook(partial(note, name))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return ran


def _chains(net: nn.Module) -> Iterator[_Region]:
    """The `nn.Sequential`s that hold nothing but simple layers; the last layer's channels leave it and stay."""
    import torch
    from torch import nn

    for part in net.modules():
        if not isinstance(part, nn.Sequential) or any(next(layer.children(), None) is not None for layer in part):
            continue
        weighted = [layer for layer in part if isinstance(layer, nn.Conv2d | nn.Linear)]
        if len(weighted) < 2:
            continue
        first, last = weighted[0], weighted[-1]
        shape = (2, first.in_channels, 32, 32) if isinstance(first, nn.Conv2d) else (2, first.in_features)
        yield _Region(part, torch.zeros(shape, device=first.weight.device), last)


def _layers(region: _Region, names: dict[nn.Module, str], norm: str) -> Iterator[_Layer]:
    """The sets of channels of a region that can be removed."""
    import torch_pruning
    from torch import nn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bare parameters, which are pruned along and covered by the check
        graph = torch_pruning.DependencyGraph().build_dependency(region.module, example_inputs=(region.example,))
    for group in graph.get_all_groups(ignored_layers=[region.last], root_module_types=[nn.Conv2d, nn.Linear]):
        producers = [item for item in group.items if item.dep.handler in _makes_channels()]
        if not producers:
            continue
        first = min((item.dep.target.module for item in producers), key=list(names).index)
        if any(index is None or index >= len(group[0].idxs) for item in producers for index in item.root_idxs):
            raise _Unfaithful(f'the channels of "{names[first]}" cannot be followed through the net')
        yield _Layer(
            graph=graph,
            root=group[0].dep.target.module,
            root_function=group[0].dep.handler,
            name=names[first],
            is_convolution=isinstance(first, nn.Conv2d),
            scores=_scores(producers, len(group[0].idxs), norm),
            groups=_channel_groups(group),
        )


def _makes_channels() -> tuple[Any, Any]:
    """The handlers that remove filters, as against inputs of filters."""
    import torch_pruning

    return torch_pruning.prune_conv_out_channels, torch_pruning.prune_linear_out_channels


def _scores(producers: list[Any], channels: int, norm: str) -> torch.Tensor:
    """float64 (channels,): the norm of all filters that compute a channel, taken together."""
    import torch

    power = 1 if norm == "l1" else 2
    scores = torch.zeros(channels, dtype=torch.float64)
    for item in producers:
        filters = item.dep.target.module.weight.detach().double().cpu().flatten(1)[item.idxs]
        scores.index_add_(0, torch.tensor(item.root_idxs), filters.abs().pow(power).sum(1))
    return scores.pow(1 / power)


def _channel_groups(group: Any) -> int:
    """How many equal parts the channels fall into; depthwise convolutions do not count, their groups go with them."""
    from torch import nn

    parts = [1]
    for item in group.items:
        layer = item.dep.target.module
        if isinstance(layer, nn.GroupNorm):
            parts.append(layer.num_groups)
        elif isinstance(layer, nn.Conv2d) and layer.groups != layer.out_channels:
            parts.append(layer.groups)
    return math.lcm(*parts)


def _choose(layers: list[_Layer], options: PruneOptions) -> None:
    """Fill in the channels that go: those with the lowest scores, of equal ones the later."""
    import torch

    for layer, ratio in _ratios(layers, options.ratio):
        unit = math.lcm(options.round_to, layer.groups)
        kept = _kept(len(layer.scores), ratio, unit)
        parts = layer.scores.view(layer.groups, -1).mean(0)
        ranked = torch.argsort(parts, descending=True, stable=True).tolist()
        gone = ranked[kept // layer.groups :]
        layer.gone = sorted(part * len(parts) + channel for part in range(layer.groups) for channel in gone)


def _ratios(layers: list[_Layer], ratio: float | tuple[float, ...]) -> list[tuple[_Layer, float]]:
    if not isinstance(ratio, tuple):
        return [(layer, ratio) for layer in layers]
    convolutions = [layer for layer in layers if layer.is_convolution]
    if len(convolutions) != len(ratio):
        raise ConfigError(
            f"{len(ratio)} ratios for {len(convolutions)} convolutions that can be pruned",
            code="C46",
            where={"ratio": ratio},
            why="in the order they run: " + ", ".join(layer.name for layer in convolutions),
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
    exact = max(1, math.floor(channels * (1 - Fraction(str(ratio)))))
    multiples = max(1, math.ceil(Fraction(exact, unit) - Fraction(1, 2)))
    return min(channels, multiples * unit)


def _disconnect(reference: nn.Module, names: dict[nn.Module, str], group: Any) -> None:
    """In the full net, zero the weights by which layers read the channels that a group removes."""
    import torch
    import torch_pruning

    reads = (torch_pruning.prune_conv_in_channels, torch_pruning.prune_linear_in_channels)
    for item in group.items:
        if item.dep.handler not in reads:
            continue
        layer: Any = reference.get_submodule(names[item.dep.target.module])
        groups = getattr(layer, "groups", 1)
        with torch.no_grad():
            # (groups, filters of a group, inputs of a group, ...): input c is read by group c // inputs only.
            weight = layer.weight.view(groups, layer.weight.shape[0] // groups, *layer.weight.shape[1:])
            for channel in item.idxs:
                weight[channel // weight.shape[2], :, channel % weight.shape[2]] = 0


def _check_faithful(net: nn.Module, reference: nn.Module, images: torch.Tensor) -> None:
    """Compare the pruned net with the disconnected full one, in float64 so that rounding hides nothing.

    With layer or group normalisation the removed channels also leave the statistics, so only the shape can be compared.

    Raises:
        _Unfaithful: they differ.
    """
    import torch
    from torch import nn

    with torch.no_grad():
        expected = reference.double()(images.double())
        found = _run(net.double(), images.double())
    net.float()
    if found.shape != expected.shape:
        raise _Unfaithful(f"the pruned net returns {tuple(found.shape)} instead of {tuple(expected.shape)}")
    if any(isinstance(layer, nn.LayerNorm | nn.GroupNorm) for layer in net.modules()):
        return
    # The two images must be told apart as before: a plain tolerance would pass any net whose logits hardly move.
    spread = (expected[0] - expected[1]).abs().max()
    difference = (found - expected).abs().max()
    if not difference <= 1e-3 * spread + 1e-12 * expected.abs().max():
        raise _Unfaithful(f"its logits differ by up to {difference:.3g} from the full net without the removed channels")


def _run(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A forward pass that names the part in which it fails."""
    inside: list[str] = []

    def enter(name: str, *_: object) -> None:
        inside.append(name)

    def leave(*_: object) -> None:
        inside.pop()

    hooks = [part.register_forward_pre_hook(partial(enter, name)) for name, part in net.named_modules()]
    hooks += [part.register_forward_hook(leave) for part in net.modules()]
    try:
        output: torch.Tensor = net(images)
    except _CANNOT_FOLLOW as problem:
        raise _Unfaithful(f'"{inside[-1]}" no longer works: {str(problem).splitlines()[0]}') from problem
    finally:
        for hook in hooks:
            hook.remove()
    return output


def _cannot_prune(model: Model, problem: Exception) -> ConfigError:
    told = (str(problem).splitlines() or [""])[0]
    return ConfigError(
        "this model cannot be pruned",
        code="C45",
        where={"model": model.architecture},
        why=f"{type(problem).__name__.lstrip('_')}: {told}".rstrip(": "),
        fix="prune another model: nets of convolutions that follow or are added to one another can be pruned",
    )
