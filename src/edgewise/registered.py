"""The classifiers that timm and torchvision register, read from their source files.

Importing the libraries to ask them takes seconds; a mistyped name should not. See `edgewise.models.libraries` for what
the libraries themselves say.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

_FOLDERS = {"timm": "models", "torchvision": "models"}
_MARK = b"\n@register_model"
_FUNCTION = re.compile(rb"^def (\w+)", re.MULTILINE)


def registered(library: str) -> frozenset[str]:
    """Names of the functions decorated as models; empty where the library or its sources are not there."""
    found = (_FUNCTION.search(part) for text in _sources(library) for part in text.split(_MARK)[1:])
    return frozenset(match[1].decode() for match in found if match)


def mentions(library: str, name: str) -> bool:
    """Whether a library may have a model of that name: it defines a function of that name somewhere, or writes the name
    in quotes. True where its sources cannot be read."""
    word = re.escape(name.encode())
    pattern = re.compile(rb"def %b\(|[\"']%b[\"']" % (word, word))
    return not registered(library) or any(pattern.search(text) for text in _sources(library))


@cache
def _sources(library: str) -> tuple[bytes, ...]:
    """The files of the library's models, those right in the folder."""
    spec = importlib.util.find_spec(library)  # a top-level package is found without being imported
    if spec is None or spec.origin is None:
        return ()
    try:
        files = sorted((Path(spec.origin).parent / _FOLDERS[library]).glob("*.py"))
        return tuple(b"\n" + file.read_bytes() for file in files)
    except OSError:
        return ()
