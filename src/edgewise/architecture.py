"""The language of model names, read and checked without torch; `edgewise.models.create` says what the names mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from edgewise.errors import ConfigError, nearest
from edgewise.plan import Call, parse_call
from edgewise.registered import mentions, registered

MAX_BLOCKS = 16
MAX_WIDTH = 4096


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_WIDTH


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _are_strides(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(stride) is int and stride in (1, 2) for stride in value)


OWN: dict[str, dict[str, Callable[[Any], bool]]] = {
    "convnet": {"dropout": _is_share},
    "flatnet": {"dropout": _is_share, "hidden": _is_width},
    "dscnn": {"dropout": _is_share, "strides": _are_strides},
}
"""Our own families and the named arguments they take, with their checks; the unnamed ones are widths, and a named list
has one value for each of them."""

EXAMPLES = {
    "convnet": "convnet(32,64,128, dropout=0.2)",
    "flatnet": "flatnet(16,32,48, hidden=128, dropout=0.3)",
    "dscnn": "dscnn(16,32,32,64, strides=(1,2,1,2), dropout=0.1)",
}
"""How each of them is written, for errors."""


def strides_of(call: Call) -> tuple[int, ...]:
    """The stride of each width of a `dscnn`: what is written, else 2 wherever the width grows and 1 elsewhere."""
    given: tuple[int, ...] = call.kwargs.get("strides", ())
    return given or (1, *(2 if width > before else 1 for before, width in pairwise(call.args)))


def parse_architecture(text: str) -> Call:
    """Read a name. A library prefix becomes `timm.NAME`, as a slash between names is a division to the parser."""
    return parse_call(re.sub(r"\b(timm|torchvision)/", r"\1.", text))


def format_architecture(call: Call) -> str:
    """The text that parses to this call."""
    return re.sub(r"\b(timm|torchvision)\.", r"\1/", str(call))


def split_library(name: str) -> tuple[str, str, str]:
    """The library a name asks for ("" for either), the name there, and that without the tag of its weights."""
    prefix, _, rest = name.partition(".")
    forced = prefix if prefix in ("timm", "torchvision") else ""
    bare = rest if forced else name
    return forced, bare, bare.partition(".")[0]


def check_architecture(text: str) -> None:
    """Refuse a name that is certainly wrong; `create_model` refuses the others, by asking the libraries.

    Raises:
        ConfigError: C10 it cannot be read, C40 no library mentions it, C41 wrong arguments.
    """
    call = parse_architecture(text)
    if call.name == "truncate":
        check_architecture(truncation(call)[0])
        return
    if call.name == "width":  # `edgewise.models.width` checks the rest
        check_architecture(str(call.args[0]) if call.args else "")
        return
    if call.name in OWN:
        check_arguments(call)
        return
    forced, _, arch = split_library(call.name)
    libraries = (forced,) if forced else ("timm", "torchvision")
    if not any(mentions(library, arch) for library in libraries):
        raise unknown_model(call.name, *(registered(library) for library in ("timm", "torchvision")))


def check_arguments(call: Call) -> None:
    """Check the written arguments of one of our own families.

    Raises:
        ConfigError: widths or named arguments that make no sense (C41).
    """
    allowed = OWN[call.name]
    if not 1 <= len(call.args) <= MAX_BLOCKS or not all(_is_width(width) for width in call.args):
        raise _wrong(call, f"1 to {MAX_BLOCKS} widths, each a whole number from 1 to {MAX_WIDTH}")
    for key, value in call.kwargs.items():
        if key not in allowed:
            raise _wrong(call, f'unknown argument "{key}"; {nearest(key, allowed)}')
        if not allowed[key](value):
            raise _wrong(call, f"{key} = {value!r} is out of range")
        if isinstance(value, tuple) and len(value) != len(call.args):
            raise _wrong(call, f"{key} has {len(value)} values for {len(call.args)} widths")


def truncation(call: Call) -> tuple[str, str]:
    """What `truncate(MODEL, PART)` cuts, and after which part.

    Raises:
        ConfigError: other arguments (C41).
    """
    if len(call.args) != 2 or call.kwargs or not all(isinstance(value, str) for value in call.args):
        raise ConfigError(
            "truncate takes a model and the name of its last part to keep",
            code="C41",
            where={"model": format_architecture(call)},
            fix='write it like truncate(shufflenet_v2_x0_5, stage3) or truncate(mobilenetv3_small_050, "blocks.3")',
        )
    return call.args[0], call.args[1]


def unknown_model(name: str, timm: Iterable[str], torchvision: Iterable[str]) -> ConfigError:
    """The error (C40) for a name that neither library has, or not the one it asks for; the nearest are offered."""
    forced, bare, arch = split_library(name)
    known = {*(timm if forced != "torchvision" else ()), *(torchvision if forced != "timm" else ())}
    return ConfigError(
        f'unknown model "{bare}"',
        code="C40",
        where={"model": f"{forced}/{bare}" if forced else bare},
        why=nearest(arch, known if forced else {*known, *OWN, "truncate"}),
        fix="`edgewise models PATTERN` lists names",
    )


def _wrong(call: Call, why: str) -> ConfigError:
    return ConfigError(
        f"these arguments do not describe a {call.name}",
        code="C41",
        where={"model": call},
        why=why,
        fix=f"write it like {EXAMPLES[call.name]}",
    )
