"""Environments for converters that cannot live beside edgewise: made on request, used through a child process.

A toolchain is a virtual environment under ``$EDGEWISE_CACHE/toolchains/NAME``, made with the running Python. Every
package in it stands in a list of exact versions below, and pip takes nothing that is not in the list. What
`edgewise[host]` has anyway (torch above all, which comes with gigabytes of CUDA from some indexes) is not installed a
second time: the environment sees the packages of the Python that made it, behind its own. A toolchain therefore belongs
to that Python and that torch, and is made anew when they change.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.errors import ConfigError, UnavailableError, nearest
from edgewise.export.child import last_lines, run_child

_SECONDS = 3600.0
_MARK = "toolchain.json"


@dataclass(frozen=True)
class Toolchain:
    """What `edgewise toolchain install` makes.

    packages: exact versions, all that is installed. borrowed: distributions of the running Python that it uses instead
    of its own. modules: what must be importable in it, its own packages first. download_mb, disk_mb: as measured.
    """

    name: str
    purpose: str
    packages: tuple[str, ...]
    borrowed: tuple[str, ...]
    modules: tuple[str, ...]
    download_mb: int
    disk_mb: int


@dataclass(frozen=True)
class State:
    """A toolchain as it is on this machine. `stale` says why it has to be made anew, "" when it can be used."""

    folder: Path
    installed: bool
    stale: str
    disk_bytes: int


TOOLCHAINS: dict[str, Toolchain] = {
    "litert": Toolchain(
        name="litert",
        purpose="writes LiteRT (.tflite) files: litert-torch and ai-edge-quantizer",
        # litert-converter wants xdsl 0.28, which wants typing-extensions < 4.13; torch and pydantic here have a newer
        # one. What litert-torch lists for language models (transformers, kagglehub, sentencepiece, ...) is never
        # imported for a classifier and is left out.
        packages=(
            "litert-torch==0.10.0",
            "litert-converter==0.5.0",
            "ai-edge-litert==2.3.0",
            "ai-edge-quantizer==0.10.0",
            "litert-lm-builder==0.18.1",
            "torchao==0.18.0",
            "jax==0.10.2",
            "jaxlib==0.10.2",
            "xdsl==0.28.0",
            "immutabledict==4.2.1",
            "multipledispatch==1.0.0",
            "opt_einsum==3.4.0",
            "ordered-set==4.1.0",
            "tomli==2.5.0",
            "lark==1.3.1",
            "backports.strenum==1.2.8",
            "typing_extensions==4.12.2",
            "absl-py==2.5.1",
            "tabulate==0.10.0",
            "tqdm==4.70.1",
            "flatbuffers==25.12.19",
        ),
        borrowed=("torch", "numpy", "scipy", "ml_dtypes", "protobuf"),
        modules=("litert_torch", "ai_edge_quantizer"),
        download_mb=180,
        disk_mb=840,
    ),
}
"""Name -> toolchain. A new one is an entry here."""


def find(name: str) -> Toolchain:
    """The toolchain of this name.

    Raises:
        ConfigError: C94, there is none.
    """
    if name not in TOOLCHAINS:
        raise ConfigError(f'no toolchain "{name}"', code="C94", fix=nearest(name, TOOLCHAINS))
    return TOOLCHAINS[name]


def root() -> Path:
    """The folder that all toolchains stand in."""
    return runs.cache_dir() / "toolchains"


def state(toolchain: Toolchain) -> State:
    """Whether it is there and fits this Python, torch and list of versions."""
    folder = root() / toolchain.name
    try:
        made = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        wanted = _identity(toolchain)
        changed = [key for key, value in wanted.items() if made.get(key) != value]
        size = int(made["disk_bytes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State(folder, False, "", 0)
    return State(folder, True, f"{', '.join(changed)} changed since it was made" if changed else "", size)


def install(toolchain: Toolchain, say: Callable[[str], None]) -> State:
    """Make a toolchain; it appears whole or not at all, and an earlier one stays until the new one stands.

    Args:
        say: is told what happens, line by line.

    Raises:
        UnavailableError: E87 something it borrows is missing, E88 no room, or pip or the packages fail.
    """
    there = [name for name in toolchain.borrowed if _version(name) is None]
    if there:
        raise UnavailableError(
            f"the {toolchain.name} toolchain uses packages that are not installed here",
            code="E87",
            where={"packages": ", ".join(there)},
            fix='pip install "edgewise[host]"',
        )
    with _alone() as folder:
        free = runs.free_bytes(folder)
        if free < 1.2e6 * toolchain.disk_mb:
            raise UnavailableError(
                "not enough room for the toolchain",
                code="E88",
                where={"folder": folder},
                why=f"{toolchain.disk_mb} MB needed, {free // 10**6:,} MB free",
                fix="free some space, or set EDGEWISE_CACHE to a folder on another disk",
            )
        staging = Path(tempfile.mkdtemp(prefix=f".{toolchain.name}.", dir=folder))
        try:
            _fill(staging, toolchain, say)
            target = folder / toolchain.name
            if target.exists():
                target.rename(folder / f".{toolchain.name}.old")
            staging.rename(target)
        finally:
            _sweep(folder)
    return state(toolchain)


def remove(toolchain: Toolchain) -> int:
    """Delete a toolchain and whatever an interrupted installation left.

    Returns:
        The bytes that it took; 0 when it was not there.
    """
    with _alone() as folder:
        target = folder / toolchain.name
        size = _disk_bytes(target)
        if target.exists():
            target.rename(folder / f".{toolchain.name}.removed")
        _sweep(folder)
    return size


def missing(name: str) -> str:
    """The command that makes a toolchain ready for use, "" when it is."""
    now = state(find(name))
    return "" if now.installed and not now.stale else f"edgewise toolchain install {name}"


def require(name: str) -> State:
    """A toolchain that can be used.

    Raises:
        UnavailableError: E89, it is not installed or out of date. Nothing is installed unasked.
    """
    toolchain = find(name)
    now = state(toolchain)
    if not now.installed or now.stale:
        raise UnavailableError(
            f"the {name} toolchain is {'out of date' if now.installed else 'not installed'}",
            code="E89",
            where={"folder": now.folder},
            why=now.stale or f"{toolchain.purpose}; it takes {toolchain.disk_mb} MB of disk",
            fix=f"edgewise toolchain install {name}",
        )
    return now


def run(name: str, script: Path, arguments: Sequence[str], folder: Path, seconds: float) -> str:
    """Run a script of ours with a toolchain's Python, in `folder`; see `edgewise.export.child.run_child`.

    Raises:
        UnavailableError: as `require`.
        ExportError: X20, X21.
    """
    python = str(_python(require(name).folder))
    return run_child([python, "-I", str(script), *arguments], folder, converter=name, seconds=seconds)


def _fill(staging: Path, toolchain: Toolchain, say: Callable[[str], None]) -> None:
    """Environment, packages, the way to the borrowed ones, a trial, and last the mark that says it is whole."""
    began = time.monotonic()
    say(f"making an environment with Python {platform.python_version()}")
    venv.create(staging, with_pip=True, symlinks=True)
    wanted = staging / "packages.txt"
    runs.write_text(wanted, "\n".join(toolchain.packages) + "\n")
    say(f"installing {len(toolchain.packages)} packages, about {toolchain.download_mb} MB to fetch")
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    _ask(staging, ["-m", "pip", "install", *options, "-r", str(wanted)], "pip could not install the packages")
    packages = next((staging / "lib").glob("python*/site-packages"))
    shared = dict.fromkeys(str(importlib.metadata.distribution(name).locate_file("")) for name in toolchain.borrowed)
    runs.write_text(packages / "zz_host.pth", "".join(f"{path}\n" for path in shared))
    say("trying it")
    trial = "; ".join(f"import {name}" for name in toolchain.modules)
    _ask(staging, ["-I", "-c", trial], "the packages were installed but cannot be imported")
    facts = {**_identity(toolchain), "disk_bytes": _disk_bytes(staging), "seconds": round(time.monotonic() - began, 1)}
    runs.write_json(staging / _MARK, facts)


def _ask(staging: Path, words: list[str], what: str) -> None:
    """Run the environment's Python; with the user's own pip settings, for an index of their own."""
    log = staging / "install.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(_python(staging)), *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
        )
        try:
            code = process.wait(_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code:
        raise UnavailableError(
            what,
            code="E88",
            where={"command": " ".join(["python", *words])},
            why=last_lines(log),
            fix="look at the reason; nothing was changed",
        )


def _identity(toolchain: Toolchain) -> dict[str, Any]:
    """What a toolchain depends on; it is stale when any of it changes."""
    facts: dict[str, Any] = {"packages": list(toolchain.packages), "python": platform.python_version()}
    facts["prefix"] = sys.prefix
    return facts | {name: _version(name) for name in toolchain.borrowed}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextlib.contextmanager
def _alone() -> Iterator[Path]:
    """Hold the lock of the toolchains' folder: one process at a time makes or removes them.

    Raises:
        UnavailableError: E02 another process holds it, E88 the folder cannot be written.
    """
    folder = root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as problem:
        raise UnavailableError(
            "cannot write the toolchains' folder",
            code="E88",
            where={"folder": folder},
            why=problem.strerror or str(problem),
            fix="set EDGEWISE_CACHE to a folder you can write",
        ) from problem
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise UnavailableError(
                "another process is installing or removing a toolchain",
                code="E02",
                where={"folder": folder},
                fix="wait for it",
            ) from problem
        _sweep(folder)
        yield folder


def _sweep(folder: Path) -> None:
    """Delete what was never finished; only called while the lock is held, so that nobody is at work on it."""
    for entry in folder.iterdir():
        if entry.name.startswith(".") and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def _disk_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_symlink() and path.is_file())
