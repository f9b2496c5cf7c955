"""The `runner.py` of a bundle: one file, with the one preprocessing implementation written into it."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

from edgewise.device import runner

_IMPORT = re.compile(r"from (edgewise\S*) import [^(\\]+$")
_BAR = "# " + "-" * 117 + "\n"


def runner_source() -> str:
    """The text of `runner.py`: `edgewise.device.runner` with what it imports of edgewise in place of the imports.

    All of it is written for Python 3.6, so the result needs nothing of edgewise and runs on old boards.
    """
    return _inlined(runner, set())


def _inlined(module: ModuleType, done: set[str]) -> str:
    """A module's source with each line that imports from edgewise replaced by that module's own, once each."""
    out = []
    for line in inspect.getsource(module).splitlines(keepends=True):
        found = _IMPORT.match(line)
        if found is None:
            if re.match(r"\s*(from|import)\s+edgewise", line):
                raise RuntimeError(f"{module.__name__} imports from edgewise in more than a line: {line.strip()}")
            out.append(line)
        elif found[1] not in done:
            done.add(found[1])
            path = found[1].replace(".", "/") + ".py"
            out += [_BAR, f"# {path}, unchanged.\n\n", _inlined(importlib.import_module(found[1]), done), "\n", _BAR]
    return "".join(out)
