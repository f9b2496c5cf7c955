"""What `edgewise bench` sends to a device: modules of this room, as text, under a name of their own."""

from __future__ import annotations

import importlib
import inspect
import re

from edgewise.device import onboard

PACKAGE = "edgewise_board"
_IMPORTS = re.compile(r"^ *from edgewise\.device\.(\w+) import", re.MULTILINE)


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


def renamed(source: str) -> str:
    """The text of a module with its imports from the device room turned to `PACKAGE`."""
    return source.replace("edgewise.device.", f"{PACKAGE}.")
