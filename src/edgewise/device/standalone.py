"""The `runner.py` of a bundle: one file, with the one preprocessing implementation written into it."""

from __future__ import annotations

import inspect

from edgewise.device import preprocess, runner

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
