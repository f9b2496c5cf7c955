"""Run folders and the ways files get into them: atomically, locked, never over somebody else's."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal

from edgewise.errors import ConfigError, UnavailableError

Status = Literal["running", "complete", "failed", "interrupted"]

_PACKAGES = ("edgewise", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxruntime", "numpy", "Pillow")


@dataclass(frozen=True)
class Run:
    """A run folder that this process holds the lock of. Made by `create_run`."""

    path: Path

    @property
    def model_dir(self) -> Path:
        """Where the models are kept, one folder per variant."""
        return self.path / "model"

    @property
    def bundles_dir(self) -> Path:
        """Where the bundles are kept, one folder each."""
        return self.path / "bundles"

    @property
    def checkpoints_dir(self) -> Path:
        """Where training keeps its checkpoints, one folder per variant."""
        return self.path / "checkpoints"

    @property
    def explain_dir(self) -> Path:
        """Where explanations are kept, one folder per variant."""
        return self.path / "explain"

    def status(self) -> str | None:
        """The status in `run.json`; None where there is none."""
        try:
            found = json.loads((self.path / "run.json").read_text(encoding="utf-8"))["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(found)

    def update(self, **facts: object) -> None:
        """Merge facts into `run.json`."""
        target = self.path / "run.json"
        known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
        write_json(target, {**known, **facts})

    def log_metrics(self, record: dict[str, object]) -> None:
        """Append one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def create_run(path: Path, *, force: bool = False, argv: list[str] | None = None, seed: int = 0) -> Iterator[Run]:
    """Make a run folder, hold its lock, and leave a true status in `run.json` however the block ends.

    With `force`, an earlier run at the same place is removed first; a folder that is not a run is never touched.

    Raises:
        ConfigError: the folder exists and `force` is not set, or it is not a run.
        UnavailableError: the folder cannot be written, or another process is using it.
    """
    _check_free(path, force)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as problem:
        raise UnavailableError(
            "cannot write the run folder",
            code="E01",
            where={"folder": path},
            why=problem.strerror or str(problem),
            fix="choose another place with --out",
        ) from problem
    try:
        if force:
            _clear(path)
        run = Run(path)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        run.update(
            status="running",
            argv=sys.argv if argv is None else argv,
            seed=seed,
            started=started,
            host={"name": socket.gethostname(), "platform": platform.platform(), "python": platform.python_version()},
            versions=versions(),
        )
        status: Status = "failed"
        try:
            yield run
            status = "complete"
        except BaseException as problem:
            status = "failed" if isinstance(problem, Exception) else "interrupted"
            write_text(path / "log.txt", traceback.format_exc())
            raise
        finally:
            run.update(status=status, ended=datetime.now(UTC).isoformat(timespec="seconds"))
    finally:
        lock.close()


def versions() -> dict[str, str]:
    """Installed versions of the packages that shape a result; missing ones are left out. Imports none of them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it into place.

    A crash at any moment leaves either the old file or the new one, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where decoded images are kept between runs: $EDGEWISE_CACHE, $XDG_CACHE_HOME/edgewise or ~/.cache/edgewise."""
    if "EDGEWISE_CACHE" in os.environ:
        return Path(os.environ["EDGEWISE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgewise"


def _check_free(path: Path, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError("the run folder is a file", code="C20", where={"path": path}, fix="choose another --out")
    if not path.exists() or not any(path.iterdir()):
        return
    if not (path / "run.json").exists():
        raise ConfigError(
            "the folder is not empty and not an edgewise run; it is left alone",
            code="C20",
            where={"folder": path},
            fix="choose a new folder with --out",
        )
    if not force:
        raise ConfigError(
            "there is a run in this folder already; runs are never overwritten",
            code="C21",
            where={"folder": path},
            fix="choose a new folder with --out, or add --force to replace it",
        )


def _lock(path: Path) -> IO[str]:
    """Hold `path/.lock`; the kernel lets go of it when the process ends, however it ends."""
    stream = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        stream.seek(0)
        holder = stream.read().strip()
        stream.close()
        raise UnavailableError(
            "another process is using this run folder",
            code="E02",
            where={"folder": path, "held by": holder or "unknown"},
            fix="wait for it, or choose another folder with --out",
        ) from problem
    stream.truncate(0)
    stream.write(f"pid {os.getpid()}@{socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}")
    stream.flush()
    return stream


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
