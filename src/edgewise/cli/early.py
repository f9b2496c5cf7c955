"""Mistyped names, told before anything slow is imported: keys and plans without pydantic, models without torch.

All is checked again where it is used; what is not certainly wrong here passes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.architecture import check_architecture
from edgewise.keys import check_keys, read_source
from edgewise.plan import parse_plan, unknown_technique

if TYPE_CHECKING:
    from edgewise.written import Written

PACKAGE = Path(__file__).parents[1]


def check_early(written: Written) -> None:
    """Tell unknown keys, then unknown techniques and models of a recipe whose keys and values are all right.

    Raises:
        ConfigError: C02 unknown keys, C11 an unknown technique, C40 or C41 the model.
    """
    try:
        certain = check_keys(written, read_source(PACKAGE / "recipe.py"), "Recipe")
    except OSError:  # installed without sources
        return
    if not certain:
        return
    check_techniques(variant["plan"] for variant in written.values.get("variants") or ())
    if "model" in written.values:
        check_architecture(written.values["model"])


def check_techniques(plans: Iterable[str]) -> None:
    """Tell plans that cannot be read, and unknown techniques in them.

    Raises:
        ConfigError: C10, C11.
    """
    steps = [step for plan in plans for step in parse_plan(plan)]
    try:
        known = techniques()
    except OSError:  # installed without sources
        return
    for step in steps:
        if known and step.name not in known:
            raise unknown_technique(step, known)


def check_models(names: Iterable[str]) -> None:
    """Check names of models that may also be folders.

    Raises:
        ConfigError: C10, C40, C41.
    """
    for name in names:
        if not Path(name).expanduser().is_dir():
            check_architecture(name)


def techniques() -> list[str]:
    """The names in the registry of `edgewise.compress`; empty where they are not all written out there."""
    table: Any = read_source(PACKAGE / "compress" / "__init__.py").names.get("TECHNIQUES")
    keys = table.keys if isinstance(table, ast.Dict) else []
    names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
    return names if len(names) == len(keys) else []
