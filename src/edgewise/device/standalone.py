"""The `runner.py` of a bundle: one file, with the one preprocessing and the unpacking written into it."""

from __future__ import annotations

import inspect
from types import ModuleType

from edgewise.device import packed, preprocess, runner

_MARK = "from edgewise."
_PARTS: tuple[tuple[ModuleType, str], ...] = (
    (packed, "the bytes are those of the file that was packed"),
    (preprocess, "the pixels are those that the model was trained on"),
)


def runner_source() -> str:
    """The text of `runner.py`: `edgewise.device.runner` with the modules of `_PARTS` in place of their imports.

    All are written for Python 3.6, so the result needs nothing of edgewise and runs on old boards. They share one room
    of names there; a test sees to it that none is taken twice.
    """
    texts = {f"from {part.__name__} import ": _shared(part, note) for part, note in _PARTS}
    found = []
    lines = inspect.getsource(runner).splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith(_MARK):
            mark = line[: line.index("import ") + len("import ")]
            found.append(mark)
            lines[number] = texts.get(mark, line)
    if sorted(found) != sorted(texts):
        raise RuntimeError(f"runner.py imports of edgewise: {found} instead of each of {sorted(texts)} once")
    return "".join(lines)


def _shared(part: ModuleType, note: str) -> str:
    bar = "# " + "-" * 117 + "\n"
    name = part.__name__.replace(".", "/")
    return f"{bar}# {name}.py, unchanged: {note}.\n\n{inspect.getsource(part)}\n{bar}"
