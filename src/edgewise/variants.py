"""Which variants a recipe asks for: their plans, checked, and their names."""

from __future__ import annotations

from edgewise.compress import check_plan
from edgewise.errors import ConfigError
from edgewise.plan import parse_call
from edgewise.recipe import Recipe, Variant

BASE = "base"
"""The name of the model that a run trains before it makes any variant."""


def resolve_variants(recipe: Recipe) -> list[Variant]:
    """The variants with a name each; the default ones where the recipe names none. Checks every plan.

    Raises:
        ConfigError: an unknown technique or option, or two variants of one name.
    """
    named = named_variants(recipe)
    for variant in named:
        check_plan(variant.plan)
    names = [BASE, *(str(variant.name) for variant in named)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f'two variants are called "{twice[0]}"', code="C13", where={"key": "variants"}, fix="give each a name"
        )
    return named


def named_variants(recipe: Recipe) -> list[Variant]:
    """The variants with a name each, as `resolve_variants`, of a recipe that was carried out: nothing is checked."""
    variants = default_variants(recipe.model) if recipe.variants is None else recipe.variants
    return [Variant(plan=variant.plan, name=variant.name or plan_name(variant.plan)) for variant in variants]


def plan_of(recipe: Recipe, name: str) -> str:
    """The plan that made a model of a run; "" for its base and the controls."""
    return next((variant.plan for variant in named_variants(recipe) if variant.name == name), "")


def default_variants(architecture: str) -> list[Variant]:
    """A distilled small net and two pruned ones."""
    call = parse_call(architecture)
    student = "convnet(16, 32, 64)"
    if call.name == "convnet":
        student = f"convnet({', '.join(str(max(8, round(width / 4 / 8) * 8)) for width in call.args)})"
    return [
        Variant(name="distilled", plan=f"distill(student={student})"),
        Variant(name="prune50", plan="prune(ratio=0.5)"),
        Variant(name="prune70", plan="prune(ratio=0.7)"),
    ]


def plan_name(plan: str) -> str:
    """A row and folder name made from a plan: ``prune(ratio=0.7) > distill`` gives ``prune-0.7-distill``."""
    words: list[str] = []
    word = ""
    for character in plan:
        if character.isalnum() or character in "._":
            word += character
            continue
        if word and character != "=":  # option names are left out
            words.append(word)
        word = ""
    return "-".join([*words, word] if word else words)[:64].strip("-.") or "plan"
