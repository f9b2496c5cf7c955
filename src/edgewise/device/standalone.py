"""The `runner.py` of a bundle: one file, with the one preprocessing implementation written into it."""

from __future__ import annotations

import importlib
import inspect
import re

from edgewise.device import onboard, preprocess, runner

_MARK = "from edgewise.device.preprocess import "


def runner_source() -> str:
    """The text of `runner.py`: `edgewise.device.runner` with `edgewise.device.preprocess` in place of its import.

    Both are written for Python 3.6, so the result needs nothing of edgewise and runs on old boards.
    """
    lines = inspect.getsource(runner).splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if line.startswith(_MARK)]
    if len(at) != 1:
        raise RuntimeError(f"runner.py imports preprocess in {len(at)} lines instead of one")
    bar = "# " + "-" * 117 + "\n"
    shared = f"{bar}# edgewise/device/preprocess.py, unchanged: the pixels are those that the model was trained on.\n\n"
    return "".join([*lines[: at[0]], shared, inspect.getsource(preprocess), "\n" + bar, *lines[at[0] + 1 :]])


def board_files() -> dict[str, str]:
    """The modules that `edgewise bench` sends to a device, path -> text, as a package of their own.

    They are `edgewise.device.jobs` and what it and `edgewise.device.onboard` import of that room, wherever they do it.
    The package is not called `edgewise`, so that both can be imported where edgewise itself is installed.
    """
    found: dict[str, str] = {}
    wanted = ["jobs", *_IMPORTS.findall(inspect.getsource(onboard))]
    while wanted:
        name = wanted.pop()
        if name not in found:
            text = inspect.getsource(importlib.import_module(f"edgewise.device.{name}"))
            found[name] = renamed(text)
            wanted += _IMPORTS.findall(text)
    return {f"{PACKAGE}/__init__.py": "", **{f"{PACKAGE}/{name}.py": text for name, text in found.items()}}


def boot_programs() -> tuple[str, str]:
    """What python3 is given on its command line on a device, and the program that it then reads from its input."""
    first, then = onboard.boot()
    return first, renamed(then)


PACKAGE = "edgewise_board"
_IMPORTS = re.compile(r"^ *from edgewise\.device\.(\w+) import", re.MULTILINE)


def renamed(source: str) -> str:
    """The text of a module with its imports from the device room turned to `PACKAGE`."""
    return source.replace("edgewise.device.", f"{PACKAGE}.")
