"""Running a converter in a process of its own: a time limit, a clean environment, and its last words in our error."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewise.errors import ExportError

SECONDS = 900.0
"""Time limit of one conversion. The largest of the tested models takes about a minute on two cores."""

_LAST_LINES = 6
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")


def run_child(command: Sequence[str], folder: Path, *, converter: str, seconds: float = SECONDS) -> str:
    """Run a converter in `folder` and wait for it; when it is stopped, so are the processes that it started.

    Returns:
        What it printed on standard output and standard error.

    Raises:
        ExportError: X20 it failed, X21 it took longer than `seconds`.
    """
    log = folder / "converter.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ),
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired as problem:
            raise ExportError(
                f"{converter} was stopped after {seconds:.0f} s",
                code="X21",
                where={"command": " ".join(command)},
                why=last_lines(log),
                fix="try a smaller model, or another format",
            ) from problem
        finally:
            _end(process)
    if code:
        ended = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        raise ExportError(
            f"{converter} could not convert the model",
            code="X20",
            where={"command": " ".join(command)},
            why=f"{ended}\n{last_lines(log)}",
            fix="choose another format or model; docs/formats.md lists what was tried",
        )
    return log.read_text(encoding="utf-8", errors="replace")


def last_lines(log: Path) -> str:
    """The end of a log, without empty lines."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-_LAST_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole session of a process that is still there."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """No PYTHONPATH, no keys or tokens, and nothing that lets a library ask the network."""
    offline = {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONNOUSERSITE": "1"}
    return {name: given[name] for name in _KEPT if name in given} | offline
