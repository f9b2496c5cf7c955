"""Option classes as they stand in their source file: keys, meanings, and unknown keys told without pydantic.

`edgewise.recipe` says what a key is, once, as pydantic fields. Importing pydantic and building its validators is most
of the time that telling a mistyped key takes, so the same class bodies are read here with `ast`. This is no second
validator: where anything but unknown keys could be wrong, nothing is told here and pydantic tells all.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.errors import ConfigError, nearest
from edgewise.plan import parse_plan
from edgewise.written import SEE_EXAMPLE, Lines, Written

_EXACT = 2**53
"""Whole numbers up to here are floats without loss."""


@dataclass(frozen=True)
class Key:
    """One field of an option class: its docstring in one line, its annotation, and whether it must be given."""

    meaning: str
    annotation: ast.expr
    required: bool


@dataclass(frozen=True)
class Section:
    """One option class.

    keys: by name. checked: those that a validator of the class looks at. checked_whole: whether one looks at the whole,
    after all keys. opaque: whether what it takes cannot be said from its body, because it inherits keys or a validator
    sees the values first.
    """

    keys: Mapping[str, Key]
    checked: frozenset[str]
    checked_whole: bool
    opaque: bool


@dataclass(frozen=True)
class Source:
    """What a source file holds: its classes, and its plain assignments, such as names for Literal types."""

    sections: Mapping[str, Section]
    names: Mapping[str, ast.expr]


class _Unsure(Exception):
    """Something else than an unknown key may be wrong."""


@functools.cache
def read_source(path: Path) -> Source:
    """Read a Python file without running it.

    Raises:
        OSError: it is not there, as in an installation without sources.
    """
    body = ast.parse(path.read_text("utf-8")).body
    classes = {node.name: _section(node) for node in body if isinstance(node, ast.ClassDef)}
    names = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    return Source(classes, names)


def _section(node: ast.ClassDef) -> Section:
    keys = {}
    for statement, below in itertools.pairwise([*node.body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            told = below.value if isinstance(below, ast.Expr) else None
            meaning = " ".join(str(told.value).split()) if isinstance(told, ast.Constant) else ""
            keys[statement.target.id] = Key(meaning, statement.annotation, statement.value is None)
    calls = [
        call
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if isinstance(call, ast.Call)
    ]
    fields = {word.value for call in calls for word in call.args if isinstance(word, ast.Constant)}
    whole = [[word.value for word in call.keywords] for call in calls if not call.args]
    late = all(isinstance(mode, ast.Constant) and mode.value == "after" for modes in whole for mode in modes)
    plain = [base.id for base in node.bases if isinstance(base, ast.Name)] == ["Strict"]
    return Section(keys, frozenset(map(str, fields)), bool(whole), opaque=not (late and plain))


def check_keys(written: Written, source: Source, model: str) -> bool:
    """Tell unknown keys where they are all that is wrong.

    Args:
        written: the values.
        source: where `model` and the classes below it are.
        model: name of the class the values are for.

    Returns:
        Whether it is certain that nothing is wrong with any key or value.

    Raises:
        ConfigError: C02, the very message that `edgewise.recipe.build` gives.
    """
    try:
        told = list(_unknown(written.values, model, source, written.lines, ()))
    except _Unsure:
        return False
    if told:
        raise refused(told, written.origin)
    return True


def refused(told: list[str], origin: str) -> ConfigError:
    """The error for keys or values that cannot be used, a line for each."""
    return ConfigError(
        "unknown key" if len(told) == 1 and "unknown key" in told[0] else f"{len(told)} setting(s) cannot be used",
        code="C02",
        where={"in": origin},
        why="\n".join(told),
        fix=f"correct the keys named above; {SEE_EXAMPLE}",
    )


def unknown_key(path: tuple[str, ...], known: Iterable[str], lines: Lines) -> str:
    """The line that tells of one unknown key."""
    return f'{at_line(path, lines)}unknown key "{".".join(path)}"; {nearest(path[-1], known)}'.rstrip("; ")


def at_line(path: tuple[str, ...], lines: Lines) -> str:
    """``line 3: `` for a key of a file, or of what it stands in; "" for one that stands in none."""
    while path and path not in lines:
        path = path[:-1]
    return f"line {lines[path]}: " if path else ""


def _unknown(values: Any, model: str, source: Source, lines: Lines, path: tuple[str, ...]) -> Iterator[str]:
    """Lines for the unknown keys of a section and of those below it, in pydantic's order."""
    section = source.sections[model]
    if section.opaque or not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise _Unsure
    strangers = [key for key in values if key not in section.keys]
    if section.checked_whole and not strangers:
        raise _Unsure
    for name, key in section.keys.items():
        if name in values:
            if name in section.checked:
                raise _Unsure
            yield from _within(values[name], key.annotation, source, lines, (*path, name))
        elif key.required:
            raise _Unsure
    for name in strangers:
        yield unknown_key((*path, name), section.keys, lines)


def _within(value: Any, annotation: ast.expr, source: Source, lines: Lines, path: tuple[str, ...]) -> Iterator[str]:
    match annotation:
        case ast.Name(id=name) if name in source.sections:
            yield from _unknown(value, name, source, lines, path)
        case ast.BinOp(left=left, right=ast.Constant(value=None)) if value is not None:
            yield from _within(value, left, source, lines, path)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, ast.Constant()])):
            if not isinstance(value, list | tuple):
                raise _Unsure
            for number, element in enumerate(value):
                yield from _within(element, inner, source, lines, (*path, str(number)))
        case _ if not _fits(value, annotation, source.names):
            raise _Unsure


def _fits(value: Any, annotation: ast.expr, names: Mapping[str, ast.expr]) -> bool:
    """Whether a value is certainly right; False where that would take pydantic to know."""
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _fits(value, left, names) or _fits(value, right, names)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            words = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            allowed = [word.value for word in words if isinstance(word, ast.Constant)]
            return any(type(value) is type(word) and value == word for word in allowed)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, ast.Call(keywords=bounds)])):
            return _fits(value, inner, names) and all(_holds(value, bound) for bound in bounds)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return type(value) is int
        case ast.Name(id="float"):
            return type(value) is float or (type(value) is int and abs(value) < _EXACT)
        case ast.Name(id="str"):
            return isinstance(value, str) and value.isascii()
        case ast.Name(id="Plan"):
            return isinstance(value, str) and _is_plan(value)
        case ast.Name(id=name) if name in names:
            return _fits(value, names[name], names)
    return False


def _holds(value: Any, bound: ast.keyword) -> bool:
    limit = bound.value.value if isinstance(bound.value, ast.Constant) else None
    if not isinstance(limit, int | float) or not isinstance(value, int | float):
        return False
    match bound.arg:
        case "ge":
            return value >= limit
        case "gt":
            return value > limit
        case "le":
            return value <= limit
        case "lt":
            return value < limit
    return False


def _is_plan(text: str) -> bool:
    try:
        return text.isascii() and bool(parse_plan(text))
    except ConfigError:
        return False
