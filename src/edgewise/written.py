"""A recipe as it was written: YAML with the lines of its keys, and KEY=VALUE words, before any value is checked.

Nothing here imports pydantic, so that a mistyped key can be told before that is done.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgewise.errors import ConfigError

MAX_RECIPE_BYTES = 1_000_000

SEE_EXAMPLE = "`edgewise recipe` prints every key with its meaning"

Lines = Mapping[tuple[str, ...], int]
"""Path of a key, list positions as text -> its line in the file, counted from 1."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with the truth values of YAML 1.2: `off` and `no` are words, as in ``data.duplicates: off``."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


@dataclass(frozen=True)
class Written:
    """Values as they were written, where they came from, and the lines of their keys where that is a file."""

    values: dict[str, Any]
    origin: str
    lines: Lines = field(default_factory=dict)


def read_written(path: Path | None, changes: Mapping[str, Any] | None = None) -> Written:
    """Read a recipe file and lay changes over it; no value is checked.

    A relative `data.source` or `weights` that names something beside the recipe is taken from there.

    Args:
        path: the file; None stands for an empty recipe.
        changes: dotted keys with the values that replace the file's, e.g. ``{"train.epochs": 5}``.

    Raises:
        ConfigError: C01, missing, too large, not YAML, a key twice; C02, a change below a key that holds a value.
    """
    raw, lines = _parse(path) if path else ({}, {})
    source = (raw.get("data") or {}).get("source") if isinstance(raw.get("data"), dict) else None
    if path and isinstance(source, str) and not Path(source).is_absolute() and (path.parent / source).exists():
        raw["data"]["source"] = str(path.parent / source)
    weights = raw.get("weights")
    if path and isinstance(weights, str) and not Path(weights).is_absolute() and (path.parent / weights).exists():
        raw["weights"] = str(path.parent / weights)
    raw.setdefault("name", path.stem if path else Path(str((changes or {}).get("data.source", "run"))).stem)
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        place = raw
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(
                    f'"{key}" is not a recipe key', code="C02", where={"in": path or "command line"}, fix=SEE_EXAMPLE
                )
        place[last] = value
    return Written(raw, str(path or "command line"), lines)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` words, values as YAML; keys are dotted paths into a recipe.

    Raises:
        ConfigError: a word without "=", or a value that is not YAML.
    """
    values = {}
    for word in settings:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise ConfigError("not KEY=VALUE", code="C05", where={"--set": word}, fix="write it like train.lr=0.01")
        try:
            values[key] = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as problem:
            raise ConfigError(
                "cannot read the value", code="C05", where={"--set": word}, why=str(problem), fix="put it in quotes"
            ) from problem
    return values


def _parse(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The values of a recipe file and the lines of its keys."""
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines = dict(_lines(node)) if node is not None else {}
        raw = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, _Duplicate, RecursionError, ValueError) as problem:
        mark = getattr(problem, "problem_mark", None)
        raise ConfigError(
            "cannot read the recipe",
            code="C01",
            where={"file": f"{path}:{mark.line + 1}" if mark else path},
            why=str(getattr(problem, "problem", None) or problem),
            fix=f"correct the YAML; {SEE_EXAMPLE}",
        ) from problem
    if not isinstance(raw, dict):
        raise ConfigError("a recipe is a YAML mapping", code="C01", where={"file": path}, fix=SEE_EXAMPLE)
    return raw, lines


class _Duplicate(ValueError):
    pass


def _lines(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Line numbers of all keys; refuses duplicate keys."""
    if path:
        yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise _Duplicate(f'the key "{name}" stands twice, in lines {seen[name]} and {line}')
            seen[name] = line
            yield (*path, name), line
            for below, below_line in _lines(value, (*path, name)):
                if below != (*path, name):
                    yield below, below_line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, str(index)))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise ConfigError(
                "the recipe is too large", code="C01", where={"file": path}, why=f"more than {MAX_RECIPE_BYTES} bytes"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1)
        raise ConfigError(
            "cannot open the recipe",
            code="C01",
            where={"file": path},
            why=problem.strerror or str(problem),
            fix=f"did you mean {path.parent / near[0]}?" if near else "give the path of a .yaml file",
        ) from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(
            "the recipe is not UTF-8", code="C01", where={"file": path}, why=str(problem), fix="save it as UTF-8"
        ) from problem
    if "*" in text and any(isinstance(token, yaml.AliasToken) for token in _tokens(text)):
        raise ConfigError(
            "YAML aliases are not used in recipes", code="C01", where={"file": path}, fix="write the value out"
        )
    return text


def _tokens(text: str) -> list[Any]:
    try:
        return list(yaml.scan(text, Loader=yaml.SafeLoader))
    except yaml.YAMLError:
        return []


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
