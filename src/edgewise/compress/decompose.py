"""Decomposition: a layer becomes several smaller ones in a row whose product is nearly its weight, then fine-tuning.

Convolutions are decomposed along their channels (Tucker-2, Kim et al. 2016, arXiv:1511.06530, or CP, Lebedev et al.
2015, arXiv:1412.6553), 1x1 convolutions and linear layers by SVD, depthwise convolutions into a kh x 1 and a 1 x kw
part. The classifier stays. A layer is replaced only where that saves multiply-adds; which layers are left as they were,
and why, is said through the context.
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from edgewise.compress.intime import first_in_time
from edgewise.errors import ConfigError, NoEffect
from edgewise.recipe import Rate, Strict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from edgewise.compress.base import Context
    from edgewise.compress.intime import Speeds
    from edgewise.models import Edit, Model
    from edgewise.models.factor import Places, Ranks

Share = Annotated[float, Field(gt=0, le=1)]
By = Literal["energy", "ratio", "macs", "latency", "vbmf"]

ENERGY = 0.9
SHARE = 0.5
LATENCY_LEVELS = tuple(round(1 - step / 20, 2) for step in range(1, 20))
LEVELS = tuple(round(1 - step / 200, 3) for step in range(1, 200))
"""What targets are tried with, largest first: shares of energy, or of the full rank."""


class DecomposeOptions(Strict):
    """Options of `decompose`."""

    keep: Share | None = None
    """How much stays, as a share of what `by` names; default: 0.9 of the energy, else 0.5. vbmf finds it itself."""
    by: By = "energy"
    """What chooses the ranks: the energy (sum of squares) of each layer's weight along each mode, a ratio of the full
    ranks, a target for the multiply-adds of the whole net or for the time of its fp32 ONNX file (measured here in
    onnxruntime), or vbmf: what stands out of the noise in the weight."""
    conv: Literal["tucker", "cp"] = "tucker"
    """The form of k x k convolutions: Tucker-2, or the canonical polyadic one, which is smaller and harder to train. CP
    ranks are given by ratio, macs or latency."""
    round_to: Annotated[int, Field(ge=1, le=256)] = 1
    """Ranks are brought to the nearest multiple of this; 8 runs faster on most runtimes."""
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """A layer whose multiply-adds fall by less than this share is left as it was."""
    ignore: tuple[str, ...] = ()
    """Layers to leave as they are, by name or pattern, e.g. `("block1.conv", "blocks.0.*")`."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] | None = None
    """Epochs of fine-tuning afterwards; default: the recipe's `finetune_epochs`; 0 for none."""
    lr: Rate | None = None
    """Peak learning rate of that training; default: the recipe's `finetune_lr`."""

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> DecomposeOptions:
        if self.by == "vbmf" and self.keep is not None:
            raise ValueError("vbmf finds the ranks by itself; leave keep out")
        if self.conv == "cp" and self.by in ("energy", "vbmf"):
            raise ValueError("the ranks of cp are given by ratio, macs or latency: they cannot be read off the weight")
        return self


def decompose(model: Model, options: DecomposeOptions, context: Context) -> Model:
    """Replace layers by factors, then fine-tune; the given model is not changed.

    Raises:
        NoEffect: there is no layer for which it pays (N25).
        ConfigError: the multiply-adds or the time asked for cannot be reached (C82, C66) or not be measured (C65), or
            the net does not run with its layers replaced (C83).
    """
    made = factorise(model, options, context.say, context.speeds)
    return made if options.epochs == 0 else context.finetune(made, epochs=options.epochs, lr=options.lr)


def factorise(
    model: Model,
    options: DecomposeOptions,
    say: Callable[[str], None] = lambda _: None,
    speeds: Speeds | None = None,
) -> Model:
    """`decompose` without the fine-tuning: the factors are the best approximation of the weights."""
    candidates, left = _candidates(model, options)
    if options.by == "latency":
        chosen, reasons = _in_time(model, candidates, options, say, speeds)
    else:
        chosen, reasons = _choose(model, candidates, options)
    left |= reasons
    if left:
        say("decompose leaves alone: " + _grouped(left))
    if not chosen:
        raise NoEffect(
            "decompose found no layer for which it pays",
            code="N25",
            where={"model": model.architecture, "by": options.by, "keep": options.keep},
            why=_grouped(left, 5) or "it has no convolution or linear layer besides its classifier",
            fix="keep less, lower min_gain, or leave the step out of the plan",
        )
    module = _replaced(model, {name: _factors(candidates[name], ranks) for name, ranks in chosen.items()})
    _check_runs(model, module)
    edit: Edit = {
        "edit": "factor",
        "layers": {name: {"form": candidates[name].form, "ranks": list(ranks)} for name, ranks in chosen.items()},
    }
    return dataclasses.replace(model, module=module.eval(), structure=(*model.structure, edit))


def _replaced(model: Model, parts: Mapping[str, nn.Sequential]) -> nn.Module:
    from edgewise.models.factor import replace_layers

    module = copy.deepcopy(model.module)
    replace_layers(module, parts)
    return module


@dataclass(frozen=True)
class _Candidate:
    """A layer that can be replaced, in which form, and at how many places it works.

    weight: float64, as the layer has it. energies: of the components along each mode that is cut; none for CP.
    """

    layer: nn.Module
    form: str
    places: Places
    weight: NDArray[np.float64]
    energies: tuple[NDArray[np.float64], ...]


def _candidates(model: Model, options: DecomposeOptions) -> tuple[dict[str, _Candidate], dict[str, str]]:
    """The layers that have a form, and of the others why not."""
    from torch import nn

    from edgewise.compress import lowrank
    from edgewise.models.cost import dry_run
    from edgewise.models.factor import counted_places, full_ranks
    from edgewise.models.parts import head_modules

    with counted_places(model.module) as places:
        dry_run(model.module, model.input)
    heads, found, left = set(head_modules(model.module)), {}, {}
    names = [name for name, _ in model.module.named_modules(remove_duplicate=False)]
    for name, layer in model.module.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        form = _form(layer, options)
        if name in heads:
            left[name] = "the classifier"
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in options.ignore):
            left[name] = "ignored"
        elif name not in places:
            left[name] = "not a plain layer that runs by itself"
        elif sum(other is layer for other in model.module.modules()) != 1 or names.count(name) != 1:
            left[name] = "used under several names"
        else:
            try:
                full_ranks(layer, form)
            except ValueError:
                left[name] = "grouped or padded in a way that has no form here"
            else:
                weight = layer.weight.detach().double().cpu().numpy()
                energies = () if form == "cp" else lowrank.energies(weight, form)
                found[name] = _Candidate(layer, form, places[name], weight, energies)
    return found, left


def _form(layer: nn.Conv2d | nn.Linear, options: DecomposeOptions) -> str:
    from torch import nn

    from edgewise.models.factor import is_depthwise

    if isinstance(layer, nn.Linear) or layer.kernel_size == (1, 1):
        return "svd"
    return "separable" if is_depthwise(layer) else options.conv


def _choose(
    model: Model, candidates: Mapping[str, _Candidate], options: DecomposeOptions
) -> tuple[dict[str, Ranks], dict[str, str]]:
    """Ranks of the layers for which it pays, and of the others why it does not."""
    if options.by == "vbmf":
        return _paying(candidates, {name: _vbmf_ranks(one, options) for name, one in candidates.items()}, options)
    if options.by != "macs":
        keep = options.keep or (ENERGY if options.by == "energy" else SHARE)
        return _paying(candidates, {name: _ranks_at(one, options, keep) for name, one in candidates.items()}, options)
    return _reach(model, candidates, options)


def _reach(
    model: Model, candidates: Mapping[str, _Candidate], options: DecomposeOptions
) -> tuple[dict[str, Ranks], dict[str, str]]:
    """The largest level at which the multiply-adds of the net meet the target.

    Raises:
        ConfigError: none does (C82).
    """
    from edgewise.models.cost import cost
    from edgewise.models.factor import macs_of, macs_of_factors

    total, share = cost(model.module, model.input).macs, options.keep or SHARE
    least = total
    for level in LEVELS:
        ranks = {name: _ranks_at(one, options, level) for name, one in candidates.items()}
        chosen, left = _paying(candidates, ranks, options)
        macs = total
        for name, own in chosen.items():
            one = candidates[name]
            macs += macs_of_factors(one.layer, one.form, own, one.places) - macs_of(one.layer, one.places)
        if macs <= share * total:
            return chosen, left
        least = min(least, macs)
    raise ConfigError(
        f"decomposing cannot bring the multiply-adds down to {share:g} of what they are",
        code="C82",
        where={"model": model.architecture, "keep": share},
        why=f"with every rank at its least, {least / total:.3f} of them stay",
        fix="ask for less, or take prune or width",
    )


def _in_time(
    model: Model,
    candidates: Mapping[str, _Candidate],
    options: DecomposeOptions,
    say: Callable[[str], None],
    speeds: Speeds | None,
) -> tuple[dict[str, Ranks], dict[str, str]]:
    """The largest of some levels at which the net is fast enough, as measured.

    Raises:
        ConfigError: none is (C66), or nothing can tell (C65).
    """
    versions = []
    for level in LATENCY_LEVELS:
        ranks = {name: _ranks_at(one, options, level) for name, one in candidates.items()}
        found = _paying(candidates, ranks, options)
        if found[0]:
            # The time is that of the shapes: finding the factors of every level would take far longer than timing them.
            fresh = {name: _shaped(candidates[name], own) for name, own in found[0].items()}
            module = _replaced(model, fresh).eval()
            versions.append((found, dataclasses.replace(model, module=module)))
    return first_in_time(model, versions, options.keep or SHARE, speeds, say)


def _vbmf_ranks(one: _Candidate, options: DecomposeOptions) -> Ranks:
    """What stands out of the noise along each mode, at least 1; a depthwise kernel is too small to tell and stays."""
    from edgewise.compress import lowrank
    from edgewise.models.factor import full_ranks

    full = full_ranks(one.layer, one.form)
    if one.form == "separable":
        return full
    modes = (1, 0) if one.form == "tucker" else (0,)
    ranks = (lowrank.vbmf_rank(lowrank.unfold(one.weight, mode)) for mode in modes)
    return tuple(
        lowrank.round_rank(max(1, rank), size, options.round_to) for rank, size in zip(ranks, full, strict=True)
    )


def _ranks_at(one: _Candidate, options: DecomposeOptions, level: float) -> Ranks:
    """The ranks of a layer at a share of its energy or of its full ranks, rounded."""
    from edgewise.compress import lowrank
    from edgewise.models.factor import full_ranks

    full = full_ranks(one.layer, one.form)
    if options.by == "ratio" or one.form == "cp":
        # A CP rank may be as large as the product of all sizes but one; the wider side is what its size is told by.
        whole = (max(one.weight.shape[:2]),) if one.form == "cp" else full
        ranks = tuple(lowrank.share_rank(size, level) for size in whole)
    else:
        ranks = tuple(lowrank.energy_rank(energies, level) for energies in one.energies)
    return tuple(lowrank.round_rank(rank, size, options.round_to) for rank, size in zip(ranks, full, strict=True))


def _paying(
    candidates: Mapping[str, _Candidate], ranks: Mapping[str, Ranks], options: DecomposeOptions
) -> tuple[dict[str, Ranks], dict[str, str]]:
    from edgewise.models.factor import macs_of, macs_of_factors, params_of_factors

    chosen, left = {}, {}
    for name, own in ranks.items():
        one = candidates[name]
        before, after = macs_of(one.layer, one.places), macs_of_factors(one.layer, one.form, own, one.places)
        params = params_of_factors(one.layer, one.form, own)
        if after <= (1 - options.min_gain) * before and params <= one.weight.size:
            chosen[name] = own
        else:
            left[name] = f"would not save {options.min_gain:.0%} of its multiply-adds"
    return chosen, left


def _factors(one: _Candidate, ranks: Ranks) -> nn.Sequential:
    """The replacement of a layer with the factors of its weight; fresh weights are drawn on the way and not kept."""
    import numpy as np
    import torch

    made = _shaped(one, ranks)
    with torch.no_grad():
        for name, values in _parts(one, ranks).items():
            part: Any = getattr(made, name)
            part.weight.copy_(torch.from_numpy(np.ascontiguousarray(values).reshape(tuple(part.weight.shape))))
    return made


def _shaped(one: _Candidate, ranks: Ranks) -> nn.Sequential:
    """The replacement of a layer with fresh weights."""
    from edgewise.models.base import seeded
    from edgewise.models.factor import replacement

    with seeded(0):
        return replacement(one.layer, one.form, ranks)


def _parts(one: _Candidate, ranks: Ranks) -> dict[str, NDArray[np.float64]]:
    """Name of a part -> its weight, in the layout of `models.factor`."""
    import numpy as np

    from edgewise.compress import lowrank

    weight = one.weight
    if one.form == "separable":
        return dict(zip(("vertical", "horizontal"), lowrank.separable(weight, ranks[0]), strict=True))
    if one.form == "svd":
        out, first = lowrank.svd(lowrank.unfold(weight, 0), ranks[0])
        return {"first": first, "last": out}
    if one.form == "cp":
        outer, inner, vertical, horizontal = lowrank.cp(weight, ranks[0])
        return {"first": inner.T, "vertical": vertical.T, "horizontal": horizontal.T, "last": outer}
    inner, core, outer = lowrank.tucker2(weight, *ranks)
    parts = {"first": inner, "core": core, "last": outer}
    if ranks[0] == weight.shape[1]:  # no part of its own: the basis goes into the core
        parts["core"] = np.einsum("srhw,ri->sihw", parts["core"], parts.pop("first"))
    if ranks[1] == weight.shape[0]:
        parts["core"] = np.einsum("srhw,os->orhw", parts["core"], parts.pop("last"))
    return parts


def _grouped(left: Mapping[str, str], most: int = 1_000_000) -> str:
    """``a, b (reason); c, d and 7 more (other reason)``, with at most so many names of each."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") + f" ({reason})"
        for reason, names in reasons.items()
    )


def _check_runs(model: Model, module: nn.Module) -> None:
    from edgewise.models.cost import dry_run

    try:
        dry_run(module, model.input)
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError) as problem:
        raise ConfigError(
            "this net does not run with its layers decomposed",
            code="C83",
            where={"model": model.architecture},
            why=(str(problem).splitlines() or [type(problem).__name__])[0],
            fix="name the layers that it touches in ignore, or decompose another model",
        ) from problem
