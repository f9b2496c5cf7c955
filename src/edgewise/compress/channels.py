"""The channels of a net that can be removed, found along its dependency graph; what is known of them; their removal.

Layers whose outputs are added together must keep the same channels; torch-pruning's dependency graph finds them (Fang
et al. 2023, "DepGraph", arXiv:2301.12900), and they are one set here. A removal is checked by comparing the net with
the full one in which the removed channels are cut off from whatever reads them: both must compute the same.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from edgewise.compress.criteria import Channels, Needs

if TYPE_CHECKING:
    import torch
    from torch import nn

    Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
    """Normalised images (N, channels, height, width) and labels (N,)."""


class Unfaithful(RuntimeError):
    """The pruned net does not compute what the full one does without the removed channels."""


# What torch-pruning, or the net when it meets shapes it does not expect, raises for a net the graph cannot follow.
CANNOT_FOLLOW = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass
class Region:
    """A part of a net that is traced by itself; `last` makes its output, so the channels of that layer stay."""

    module: nn.Module
    example: torch.Tensor
    last: nn.Module


@dataclass
class ChannelSet:
    """One set of channels that can be removed: those of a layer, or of several layers that must keep the same ones.

    `members` are the names of the layers that make them, `name` that of the one that runs first. The `count` channels
    fall into `groups` equal parts that must stay equally large. `gone` are those to be removed.
    """

    graph: Any
    root: nn.Module
    root_function: Any
    name: str
    members: tuple[str, ...]
    is_convolution: bool
    count: int
    groups: int
    items: list[Any] = dataclasses.field(repr=False)
    gone: list[int] = dataclasses.field(default_factory=list)

    def group(self) -> Any:
        """The dependency group that removes the channels in `gone`."""
        return self.graph.get_pruning_group(self.root, self.root_function, self.gone)

    def producers(self) -> list[Any]:
        """The items whose layers compute the channels."""
        return [item for item in self.items if item.dep.handler in _makes_channels()]

    def readers(self) -> list[Any]:
        """The items whose layers read them."""
        return [item for item in self.items if item.dep.handler in _reads_channels()]


def find_sets(
    net: nn.Module, images: torch.Tensor, *, chains: bool, skipped: dict[str, str] | None = None
) -> list[ChannelSet]:
    """The sets of a net in the order they run.

    Args:
        net: in eval mode, all parameters requiring gradients.
        images: what it is traced with.
        chains: look only inside its plain chains of layers instead of following the whole net.
        skipped: takes the sets that cannot be followed, with the reason; None raises instead.

    Raises:
        Unfaithful: or what else is in `CANNOT_FOLLOW`.
    """
    order = running_order(net, images)
    names = {net.get_submodule(name): name for name in order}
    last = net.get_submodule(max(order, key=lambda name: order[name]))
    regions = _chains(net) if chains else [Region(net, images, last)]
    sets = [found for region in regions for found in _sets(region, names, skipped)]
    return sorted(sets, key=lambda found: order[found.name])


def running_order(net: nn.Module, images: torch.Tensor) -> dict[str, int]:
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


def _chains(net: nn.Module) -> Iterator[Region]:
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
        yield Region(part, torch.zeros(shape, device=first.weight.device), last)


def _sets(region: Region, names: dict[nn.Module, str], skipped: dict[str, str] | None) -> Iterator[ChannelSet]:
    """The sets of channels of a region that can be removed."""
    import torch_pruning
    from torch import nn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bare parameters, which are pruned along and covered by the check
        graph = torch_pruning.DependencyGraph().build_dependency(region.module, example_inputs=(region.example,))
    for group in graph.get_all_groups(ignored_layers=[region.last], root_module_types=[nn.Conv2d, nn.Linear]):
        producers = [item.dep.target.module for item in group.items if item.dep.handler in _makes_channels()]
        if not producers:
            continue
        first = min(producers, key=list(names).index)
        if not _sound(group):
            reason = "its channels cannot be followed through the net"
            if skipped is None:
                raise Unfaithful(f'"{names[first]}": {reason}')
            skipped[names[first]] = reason
            continue
        yield ChannelSet(
            graph=graph,
            root=group[0].dep.target.module,
            root_function=group[0].dep.handler,
            name=names[first],
            members=tuple(names[layer] for layer in producers),
            is_convolution=isinstance(first, nn.Conv2d),
            count=len(group[0].idxs),
            groups=_channel_groups(group),
            items=list(group.items),
        )


def _sound(group: Any) -> bool:
    """Whether every index of a group is one that its layer, and its root, has."""
    count = len(group[0].idxs)
    for item in group.items:
        layer = item.dep.target.module
        if item.dep.handler in _makes_channels():
            size = layer.weight.shape[0]
            if any(index is None or index >= count for index in item.root_idxs):
                return False
        elif item.dep.handler in _reads_channels():
            size = layer.weight.shape[1] * getattr(layer, "groups", 1)
        else:
            continue
        if max(item.idxs) >= size:
            return False
    return True


def _makes_channels() -> tuple[Any, Any]:
    """The handlers that remove filters, as against inputs of filters."""
    import torch_pruning

    return torch_pruning.prune_conv_out_channels, torch_pruning.prune_linear_out_channels


def _reads_channels() -> tuple[Any, Any]:
    """The handlers that remove inputs of filters."""
    import torch_pruning

    return torch_pruning.prune_conv_in_channels, torch_pruning.prune_linear_in_channels


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


# ---------------------------------------------------------------------------------------------------------------
# What is known of the channels.


def describe(
    net: nn.Module, sets: Sequence[ChannelSet], needs: Needs, batches: Batches = (), seed: int = 0
) -> dict[str, Channels]:
    """What criteria may look at, by name of set.

    Args:
        net: the net of the sets, in eval mode; its gradients are overwritten.
        sets: from `find_sets`.
        needs: gradients and activations are taken from the batches only where they are needed.
        batches: training images and labels.
        seed: of the random numbers.
    """
    import torch

    changes = _changes(net, sets, batches) if needs == "gradients" else {}
    activity, zeros = _activity(net, sets, batches) if needs == "activations" else ({}, {})
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(0, dtype=torch.float64)
    return {
        one.name: Channels(
            filters=_matrix(one, [(_filters(item), item) for item in one.producers()]),
            readers=_matrix(one, [(_read_weights(item), item) for item in one.readers()]),
            scales=_matrix(
                one, [(_values(item.dep.target.module.weight)[item.idxs, None], item) for item in _norms(one)]
            ),
            changes=changes.get(one.name, nothing),
            activity=activity.get(one.name, nothing),
            zeros=zeros.get(one.name, nothing),
            draw=torch.rand(one.count, generator=generator, dtype=torch.float64),
        )
        for one in sets
    }


def _values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().double().cpu()


def _filters(item: Any) -> torch.Tensor:
    """(indices, values): the filters of a producer."""
    return _values(item.dep.target.module.weight).flatten(1)[item.idxs]


def _read_weights(item: Any) -> torch.Tensor:
    """(indices, values): the weights by which a layer reads each of its inputs."""
    import torch

    weight = _values(item.dep.target.module.weight)
    groups = getattr(item.dep.target.module, "groups", 1)
    per_group = weight.shape[1]
    by_input = weight.view(groups, weight.shape[0] // groups, per_group, -1).transpose(1, 2)
    return by_input.reshape(groups * per_group, -1)[torch.tensor(item.idxs, dtype=torch.int64)]


def _norms(one: ChannelSet) -> list[Any]:
    from torch import nn

    layers = [(item, item.dep.target.module) for item in one.items]
    return [item for item, layer in layers if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d) and layer.affine]


def _matrix(one: ChannelSet, parts: Sequence[tuple[torch.Tensor, Any]]) -> torch.Tensor:
    """(channels, values): rows of several layers side by side; what a layer has no row for is 0.

    Where a layer has several rows for a channel, as behind a flattening, they follow one another.
    """
    import torch

    columns = [torch.zeros(one.count, 0, dtype=torch.float64)]
    for rows, item in parts:
        roots = torch.tensor(item.root_idxs, dtype=torch.int64)
        order = torch.argsort(roots, stable=True)
        sorted_roots = roots[order]
        counts = torch.bincount(sorted_roots, minlength=one.count)
        place = torch.arange(len(roots)) - (counts.cumsum(0) - counts)[sorted_roots]
        column = torch.zeros(one.count, int(counts.max()), rows.shape[1], dtype=torch.float64)
        column[sorted_roots, place] = rows[order]
        columns.append(column.flatten(1))
    return torch.cat(columns, dim=1)


def _changes(net: nn.Module, sets: Sequence[ChannelSet], batches: Batches) -> dict[str, torch.Tensor]:
    """(batches, channels) of each set: the sum of weight x gradient over the filters of a channel."""
    import torch
    import torch.nn.functional as F

    found: dict[str, list[torch.Tensor]] = {one.name: [] for one in sets}
    for images, labels in batches:
        net.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(net(images), labels))
        for one in sets:
            total = torch.zeros(one.count, dtype=torch.float64)
            for item in one.producers():
                weight = item.dep.target.module.weight
                product = _values(weight * weight.grad).flatten(1).sum(1)[item.idxs]
                total.index_add_(0, torch.tensor(item.root_idxs, dtype=torch.int64), product)
            found[one.name].append(total)
    net.zero_grad(set_to_none=True)
    return {name: torch.stack(totals) for name, totals in found.items()}


def _activity(
    net: nn.Module, sets: Sequence[ChannelSet], batches: Batches
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Mean magnitude and share of zeros of what readers get, (channels,) of each set."""
    import torch
    from torch import nn

    sums: dict[nn.Module, list[torch.Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].movedim(1, -1) if isinstance(layer, nn.Conv2d) else inputs[0]
        flat = values.reshape(-1, values.shape[-1])
        both = torch.stack(
            [flat.abs().double().sum(0), (flat == 0).double().sum(0), torch.full_like(flat[0], len(flat)).double()]
        )
        sums.setdefault(layer, []).append(both.cpu())

    readers = {item.dep.target.module for one in sets for item in one.readers()}
    hooks = [layer.register_forward_pre_hook(note) for layer in readers]
    try:
        with torch.no_grad():
            for images, _ in batches:
                net(images)
    finally:
        for hook in hooks:
            hook.remove()
    activity, zeros = {}, {}
    for one in sets:
        total = torch.zeros(3, one.count, dtype=torch.float64)
        for item in one.readers():
            seen = torch.stack(sums[item.dep.target.module]).sum(0)[:, item.idxs]
            total.index_add_(1, torch.tensor(item.root_idxs, dtype=torch.int64), seen)
        activity[one.name], zeros[one.name] = total[0] / total[2], total[1] / total[2]
    return activity, zeros


# ---------------------------------------------------------------------------------------------------------------
# Removal.


def remove(net: nn.Module, sets: Sequence[ChannelSet], images: torch.Tensor | None) -> None:
    """Remove what is in `gone` of each set, in place.

    Args:
        net: the net of the sets.
        sets: each loses at least one channel.
        images: what the result is checked with; None leaves the check out.

    Raises:
        Unfaithful: the net does not compute what it should.
    """
    reference = copy.deepcopy(net) if images is not None else None
    if reference is not None:
        names = {layer: name for name, layer in net.named_modules()}
        for one in sets:
            _disconnect(reference, names, one.group())
    for one in sets:
        one.group().prune()
    if reference is not None and images is not None:
        check_faithful(net, reference, images)


def removable(one: ChannelSet) -> bool:
    """Whether the set loses channels, and no layer all of them."""
    return bool(one.gone) and bool(one.graph.check_pruning_group(one.group()))


def faults(net: nn.Module, sets: Sequence[ChannelSet], images: torch.Tensor) -> dict[str, str]:
    """Removes the channels of each set by itself and puts them back; why that failed, by name of set."""
    reasons = {}
    for one in sets:
        before = _remember(net, one.graph)
        try:
            remove(net, [one], images)
        except CANNOT_FOLLOW as problem:
            reasons[one.name] = (str(problem).splitlines() or [type(problem).__name__])[0]
        _restore(before)
    return reasons


@dataclass(frozen=True)
class _Memory:
    """The state of a net and of its graph before a removal."""

    modules: list[tuple[nn.Module, dict[str, Any]]]
    graph: Any
    nodes: dict[Any, Any]
    held: list[tuple[Any, Any]]
    names: dict[Any, str]


def _remember(net: nn.Module, graph: Any) -> _Memory:
    from torch import nn

    parts = {*net.modules(), *(part for part in graph.module2node if isinstance(part, nn.Module))}
    saved: list[tuple[nn.Module, dict[str, Any]]] = [
        (
            part,
            {key: copy.copy(value) if isinstance(value, dict | list) else value for key, value in vars(part).items()},
        )
        for part in parts
    ]
    nodes = dict(graph.module2node)
    return _Memory(saved, graph, nodes, [(node, node.module) for node in nodes.values()], dict(graph._param_to_name))


def _restore(memory: _Memory) -> None:
    for part, attributes in memory.modules:
        vars(part).clear()
        vars(part).update(attributes)
    for node, module in memory.held:
        node.module = module
    memory.graph.module2node = memory.nodes
    memory.graph._param_to_name = memory.names


def _disconnect(reference: nn.Module, names: dict[nn.Module, str], group: Any) -> None:
    """In the full net, zero the weights by which layers read the channels that a group removes."""
    import torch

    for item in group.items:
        if item.dep.handler not in _reads_channels():
            continue
        layer: Any = reference.get_submodule(names[item.dep.target.module])
        groups = getattr(layer, "groups", 1)
        with torch.no_grad():
            # (groups, filters of a group, inputs of a group, ...): input c is read by group c // inputs only.
            weight = layer.weight.view(groups, layer.weight.shape[0] // groups, *layer.weight.shape[1:])
            for channel in item.idxs:
                weight[channel // weight.shape[2], :, channel % weight.shape[2]] = 0


def check_faithful(net: nn.Module, reference: nn.Module, images: torch.Tensor) -> None:
    """Compare the pruned net with the disconnected full one, in float64 so that rounding hides nothing.

    With layer or group normalisation the removed channels also leave the statistics, so only the shape can be compared.

    Raises:
        Unfaithful: they differ.
    """
    import torch
    from torch import nn

    with torch.no_grad():
        expected = reference.double()(images.double())
        found = _run(net.double(), images.double())
    net.float()
    if found.shape != expected.shape:
        raise Unfaithful(f"the pruned net returns {tuple(found.shape)} instead of {tuple(expected.shape)}")
    if any(isinstance(layer, nn.LayerNorm | nn.GroupNorm) for layer in net.modules()):
        return
    # The two images must be told apart as before: a plain tolerance would pass any net whose logits hardly move.
    spread = (expected[0] - expected[1]).abs().max()
    difference = (found - expected).abs().max()
    if not difference <= 1e-3 * spread + 1e-12 * expected.abs().max():
        raise Unfaithful(f"its logits differ by up to {difference:.3g} from the full net without the removed channels")


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
    except CANNOT_FOLLOW as problem:
        raise Unfaithful(f'"{inside[-1]}" no longer works: {str(problem).splitlines()[0]}') from problem
    finally:
        for hook in hooks:
            hook.remove()
    return output
