"""Case 23, reading: a file whose reading stands still is named after a set time, and the command ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from edgewise.data import find_images
from edgewise.data import read as reading
from edgewise.errors import DataError
from edgewise.recipe import DataOptions
from tests.data.loading import load, paint

STALL = """
    import sys, threading
    from edgewise.data import read as reading
    real = reading._open
    def stall(path):
        if path.name == "007.png":
            threading.Event().wait()
        return real(path)
    reading._open = stall
    sys.argv = ["edgewise", {command}, "--set", "data.read_seconds=0.5"]
    from edgewise.cli import main
    main()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "d", cat=20, dog=20)


@pytest.fixture
def stalls(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Reading dog/007.png does not end before the event is set."""
    never, real = threading.Event(), reading._open

    def stall(path: Path) -> object:
        if path.as_posix().endswith("dog/007.png"):
            never.wait(60)
        return real(path)

    monkeypatch.setattr(reading, "_open", stall)
    return never


def test_the_file_is_named(root: Path, stalls: threading.Event) -> None:
    for way in (lambda: load(root, read_seconds=0.4), lambda: find_images(options(root))):
        started = time.monotonic()
        with pytest.raises(DataError, match="reading a file stands still") as caught:
            way()
        assert time.monotonic() - started < 15
        assert (caught.value.code, caught.value.exit_code) == ("D33", 3)
        assert caught.value.where["file"] == str(root / "dog" / "007.png")
        assert "0.4 s" in caught.value.why
    stalls.set()


def options(root: Path) -> DataOptions:
    return DataOptions(source=str(root), read_seconds=0.4)


def test_two_minutes_are_the_default() -> None:
    assert DataOptions(source="x").read_seconds == 120


@pytest.mark.parametrize("command", [("data", "check"), ("train",)])
def test_the_command_ends(command: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    """In a process of its own: a thread that is blocked must not keep it alive."""
    words = ", ".join(
        map(repr, [*command, str(root), *(["--out", str(tmp_path / "run")] if "train" in command else [])])
    )
    code = textwrap.dedent(STALL.format(command=words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 3, done.stderr
    assert "error[D33]: reading a file stands still" in done.stderr
    assert "007.png" in done.stderr
    assert "Traceback" not in done.stderr
