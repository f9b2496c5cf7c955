"""Compression: techniques, alone and chained into plans.

A new technique is its own file and one line in `TECHNIQUES`. Reading this module imports no torch, so that a mistyped
plan is told at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgewise.compress.base import Context, Technique, Trait
from edgewise.compress.decompose import DecomposeOptions, decompose
from edgewise.compress.distill import DistillOptions, distill
from edgewise.compress.palettize import PalettizeOptions, palettize
from edgewise.compress.prune import PruneOptions, prune
from edgewise.compress.qat import QatOptions, qat
from edgewise.compress.sparsify import SparsifyOptions, sparsify
from edgewise.compress.truncate import TruncateOptions, truncate
from edgewise.compress.width import WidthOptions, width
from edgewise.errors import ConfigError
from edgewise.plan import Call, parse_plan, unknown_technique
from edgewise.recipe import Strict, build

if TYPE_CHECKING:
    from edgewise.models import Model

TECHNIQUES: dict[str, Technique] = {
    "prune": Technique(
        PruneOptions, prune, "remove the weakest channels, then fine-tune", "Li et al. 2017, arXiv:1608.08710"
    ),
    "decompose": Technique(
        DecomposeOptions,
        decompose,
        "replace layers by low-rank factors, then fine-tune",
        "Kim et al. 2016, arXiv:1511.06530",
    ),
    "distill": Technique(
        DistillOptions, distill, "train a student under the base model", "Hinton et al. 2015, arXiv:1503.02531"
    ),
    "palettize": Technique(
        PalettizeOptions,
        palettize,
        "few values for the weights of each layer, fine-tuned: smaller packed files, the same speed",
        "Han et al. 2016, arXiv:1510.00149",
        leaves=frozenset({"levels"}),
        keeps=frozenset({"zeros"}),
    ),
    "sparsify": Technique(
        SparsifyOptions,
        sparsify,
        "make the smallest weights zero, step by step: smaller packed files, no faster in any runtime here",
        "Zhu, Gupta 2017, arXiv:1710.01878",
        leaves=frozenset({"zeros"}),
    ),
    "qat": Technique(
        QatOptions,
        qat,
        "train on as int8 arithmetic will run the net, for its int8 file",
        "Esser et al. 2020, arXiv:1902.08153",
        leaves=frozenset({"ranges"}),
        keeps=frozenset({"zeros"}),
    ),
    "width": Technique(
        WidthOptions,
        width,
        "the same family with fewer channels everywhere, trained anew",
        "Howard et al. 2017, arXiv:1704.04861",
    ),
    "truncate": Technique(
        TruncateOptions, truncate, "cut off the last stages, then fine-tune", "Yosinski et al. 2014, arXiv:1411.1792"
    ),
}

TRAITS: dict[Trait, str] = {
    "levels": "few values for the weights of each layer",
    "zeros": "zeros in place of small weights",
    "ranges": "weights and int8 ranges that fit each other",
}
"""What a technique can leave that another undoes, in words that follow "makes"."""

ELSEWHERE = {
    "resolution": (
        "the size of the images belongs to the run, not to a plan",
        "make a second run: `edgewise run ... --set data.size=SIZE --weights RUN`, then `edgewise compare` both",
    ),
}
"""What is asked of plans and done elsewhere: what to say, and how it is done (docs/decisions/0018)."""

Step = tuple[str, Technique, Strict]


def check_plan(plan: str) -> tuple[Step, ...]:
    """Read a plan and check every step's name and options, without running anything.

    Raises:
        ConfigError: an unknown technique or option, a value out of range (C02, C11, C12), or a step that undoes what
            an earlier one made (C12).
    """
    steps = tuple(_check_step(call) for call in parse_plan(plan))
    for place, (later, technique, _) in enumerate(steps):
        for earlier, before, _ in steps[:place]:
            for trait in sorted(before.leaves - technique.keeps):
                raise ConfigError(
                    f'"{later}" cannot follow "{earlier}"',
                    code="C12",
                    where={"plan": plan},
                    why=f'"{earlier}" makes {TRAITS[trait]}, and "{later}" would undo that',
                    fix=f'put "{earlier}" behind "{later}"' if later != earlier else f'give "{later}" once',
                )
    return steps


def apply_plan(model: Model, plan: str, context: Context, on_step: Callable[[str], None] | None = None) -> Model:
    """Run the steps of a plan from left to right; `model` is not changed.

    Raises:
        NoEffect: a step found nothing to do.
    """
    for name, technique, options in check_plan(plan):
        if on_step:
            on_step(name)
        model = technique.apply(model, options, context)
    return model


def _check_step(call: Call) -> Step:
    technique = TECHNIQUES.get(call.name)
    if call.name in ELSEWHERE:
        what, fix = ELSEWHERE[call.name]
        raise ConfigError(what, code="C85", where={"plan": call}, fix=fix)
    if technique is None:
        raise unknown_technique(call, TECHNIQUES)
    values = dict(call.kwargs)
    if len(call.args) > 1:
        raise ConfigError(
            "a technique takes one unnamed value at most",
            code="C12",
            where={"plan": call},
            fix=f"name them: {', '.join(technique.options.model_fields)}",
        )
    if call.args:
        first = next(iter(technique.options.model_fields))
        if first in values:
            raise ConfigError(f'"{first}" is given twice', code="C12", where={"plan": call}, fix="give it once")
        values[first] = call.args[0]
    return call.name, technique, build(technique.options, values, f"plan step {call}")


__all__ = ["TECHNIQUES", "Context", "Technique", "apply_plan", "check_plan"]
