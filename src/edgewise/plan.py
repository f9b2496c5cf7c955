"""The language of plans and model names: ``name(1, 2, key=value)``, joined by ``>``.

It is read as Python syntax and never evaluated; see docs/decisions/0002.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from edgewise.errors import ConfigError, nearest


@dataclass(frozen=True)
class Call:
    """A name with positional and named arguments, as in ``convnet(32,64,128, dropout=0.2)``.

    Argument values are numbers, booleans, strings, None, or tuples of these. Another call given as an argument is kept
    as its text.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The text that parses to this call; no parentheses when there are no arguments."""
        inner = [_show(value) for value in self.args] + [f"{key}={_show(value)}" for key, value in self.kwargs.items()]
        return f"{self.name}({', '.join(inner)})" if inner else self.name


def parse_call(text: str) -> Call:
    """Read one call.

    >>> parse_call("convnet(8,16,32, dropout=0.1)")
    Call(name='convnet', args=(8, 16, 32), kwargs={'dropout': 0.1})
    """
    calls = parse_plan(text)
    if len(calls) != 1:
        raise ConfigError(f"expected one name, got {len(calls)}", code="C10", where={"text": text})
    return calls[0]


def parse_plan(text: str) -> tuple[Call, ...]:
    """Read a plan: calls joined by ``>``, run from left to right. An empty text is the empty plan.

    The text is parsed as Python syntax and never evaluated.

    Raises:
        ConfigError: it is not such a chain.
    """
    if not text.strip():
        return ()
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Compare):
            if not all(isinstance(operator, ast.Gt) for operator in tree.ops):
                raise ValueError('steps are joined by ">"')
            return tuple(_call(node) for node in (tree.left, *tree.comparators))
        return (_call(tree),)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise ConfigError(
            "cannot read this plan or name",
            code="C10",
            where={"text": text},
            why=str(problem),
            fix='write it like "prune(ratio=0.7) > distill(tau=4)" or "convnet(32,64,128, dropout=0.2)"',
        ) from problem


def format_plan(plan: tuple[Call, ...]) -> str:
    """The text of a plan; parses back to the same plan."""
    return " > ".join(str(call) for call in plan)


def unknown_technique(step: Call, known: Iterable[str]) -> ConfigError:
    """The error (C11) for a step whose name is no technique; the nearest names are offered."""
    return ConfigError(
        f'unknown technique "{step.name}"', code="C11", where={"plan": step}, fix=nearest(step.name, known)
    )


def _call(node: ast.expr) -> Call:
    if isinstance(node, ast.Call):
        kwargs = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("** is not allowed")
            kwargs[keyword.arg] = _value(keyword.value)
        return Call(_name(node.func), tuple(_value(argument) for argument in node.args), kwargs)
    return Call(_name(node))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    raise ValueError(f"{ast.unparse(node)!r} is not a name")


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(element) for element in node.elts)
    if isinstance(node, ast.Call | ast.Name | ast.Attribute):
        return str(_call(node))
    value = ast.literal_eval(node)
    if not isinstance(value, int | float | str | bool | None):
        raise ValueError(f"{ast.unparse(node)!r} is not a number, a name or a list")
    return value


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "(" + ", ".join(_show(element) for element in value) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, str):
        try:
            if str(parse_call(value)) == value:
                return value
        except ConfigError:
            pass
    return repr(value)
