"""The `runner.py` of a bundle: one file, with the one preprocessing implementation written into it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

HEAD = "edgewise.device.runner"
_IMPORT = re.compile(r"( *)from (edgewise\S*) import (\w+(?:, \w+)*)(?:  #.*)?$")
_START = 'if __name__ == "__main__":\n    sys.exit('
_BAR = "# " + "-" * 117 + "\n"


@dataclass
class _Pages:
    """What is written so far: names of the modules that each start compiles (`head`), those of them that are written
    already (`done`), and the texts of the others (`parts`)."""

    head: frozenset[str]
    done: set[str] = field(default_factory=set)
    parts: dict[str, str] = field(default_factory=dict)


def runner_source() -> str:
    """The text of `runner.py`: `edgewise.device.runner` with what it imports of edgewise in place of the imports.

    All of it is written for Python 3.6, so the result needs nothing of edgewise and runs on old boards. What is
    imported only inside functions is held as text and compiled when such a function is called: Python compiles a
    program anew at each start, and that took a tenth of it.

    Raises:
        RuntimeError: an import is written in a way that cannot be replaced.
    """
    pages = _Pages(frozenset(_reached(HEAD)))
    head, start, tail = _rewritten(HEAD, pages, is_part=False).rpartition(_START)
    if not start:
        raise RuntimeError("the runner does not end in its start")
    held = [_held(name, source) for name, source in pages.parts.items()]
    return "".join([head, _BAR, _LOADER, *held, _BAR, start, tail])


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


def _reached(name: str) -> set[str]:
    """A module and all that it imports of edgewise outside functions, directly or not."""
    found, todo = {name}, [name]
    while todo:
        asked = {module for _, (indent, module, _) in _imports(todo.pop()) if not indent and module}
        todo += asked - found
        found |= asked
    return found


def _rewritten(name: str, pages: _Pages, *, is_part: bool) -> str:
    """A module's source with each line that imports from edgewise replaced.

    In the head the first import of a module becomes that module, and any later one nothing: its names are there. What
    does not belong to the head goes into `pages.parts`.
    """
    out = []
    for line, (indent, module, names) in _imports(name):
        if not module:
            out.append(line)
        elif module not in pages.head:
            if module not in pages.parts:
                pages.parts[module] = ""  # so that it is there only once, whatever it imports itself
                pages.parts[module] = _rewritten(module, pages, is_part=True)
            out.append(f"{indent}[{', '.join(names)}] = _later({', '.join(map(repr, [module, *names]))})\n")
        elif module not in pages.done and not indent and not is_part:
            pages.done.add(module)
            path = module.replace(".", "/") + ".py"
            source = _rewritten(module, pages, is_part=False)
            out += [_BAR, f"# {path}, unchanged but for such imports.\n\n", source, "\n", _BAR]
    return "".join(out)


def _imports(name: str) -> Iterator[tuple[str, tuple[str, str, list[str]]]]:
    """The lines of a module, each with the indent, module and names of its import from edgewise, all empty if none."""
    for line in inspect.getsource(importlib.import_module(name)).splitlines(keepends=True):
        found = _IMPORT.match(line)
        if found is not None:
            yield line, (found[1], found[2], found[3].split(", "))
        elif re.match(r"\s*(from|import)\s+edgewise", line):
            raise RuntimeError(f"{name} imports from edgewise in more than a line: {line.strip()}")
        else:
            yield line, ("", "", [])
