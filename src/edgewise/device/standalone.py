"""The `runner.py` of a bundle: one file, with the one preprocessing implementation written into it."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

from edgewise.device import runner

_IMPORT = re.compile(r"from (edgewise\S*) import [^(\\]+$")
_LATER = re.compile(r"(\s+)from (edgewise\S*) import ([\w, ]+)$")
_START = 'if __name__ == "__main__":\n    sys.exit('
_BAR = "# " + "-" * 117 + "\n"


def runner_source() -> str:
    """The text of `runner.py`: `edgewise.device.runner` with what it imports of edgewise in place of the imports.

    All of it is written for Python 3.6, so the result needs nothing of edgewise and runs on old boards. What is
    imported inside a function is held as text and compiled when the function is called: Python compiles a program anew
    at each start, which took a sixth of a cold start.
    """
    later: dict[str, str] = {}
    text = _inlined(runner, set(), later)
    head, start, tail = text.rpartition(_START)
    if not start:
        raise RuntimeError("the runner does not end in its start")
    return "".join([head, _BAR, _LOADER, *(_held(name, source) for name, source in later.items()), _BAR, start, tail])


_LOADER = """# Parts that most starts do not need, as texts; `_later` compiles one when it is asked for.

_PARTS = {}  # type: Dict[str, Any]


def _later(part: str, *names: str) -> Any:
    if isinstance(_PARTS[part], str):
        space = dict(globals())
        exec(compile(_PARTS[part], part, "exec"), space)  # of this file, and nothing else
        _PARTS[part] = space
    return [_PARTS[part][name] for name in names]


"""


def _held(name: str, source: str) -> str:
    """A module's source as a text in the dictionary of parts."""
    if "'''" in source or source.endswith("\\"):
        raise RuntimeError(f"{name} cannot stand between three quotes")
    return f"_PARTS[{name!r}] = r'''{source}'''\n\n"


def _inlined(module: ModuleType, done: set[str], later: dict[str, str]) -> str:
    """A module's source with each line that imports from edgewise replaced by that module's own, once each.

    Modules imported inside a function go into `later`.
    """
    out = []
    for line in inspect.getsource(module).splitlines(keepends=True):
        found, inside = _IMPORT.match(line), _LATER.match(line)
        if inside is not None:
            indent, name, words = inside.groups()
            names = [word.strip() for word in words.split(",")]
            asked = ", ".join(map(repr, [name, *names]))
            if name not in later:
                later[name] = ""  # so that it is there only once, whatever it imports itself
                later[name] = _inlined(importlib.import_module(name), done, later)
            out.append(f"{indent}[{', '.join(names)}] = _later({asked})\n")
        elif found is None:
            if re.match(r"\s*(from|import)\s+edgewise", line):
                raise RuntimeError(f"{module.__name__} imports from edgewise in more than a line: {line.strip()}")
            out.append(line)
        elif found[1] not in done:
            done.add(found[1])
            path = found[1].replace(".", "/") + ".py"
            source = _inlined(importlib.import_module(found[1]), done, later)
            out += [_BAR, f"# {path}, unchanged but for such imports.\n\n", source, "\n", _BAR]
    return "".join(out)
