"""Run folders and the ways files get into them: atomically, locked, never over somebody else's."""

from __future__ import annotations

import contextlib
import errno
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal

from edgewise.errors import ConfigError, UnavailableError, nearest
from edgewise.interrupt import Interrupted

Status = Literal["running", "complete", "failed", "interrupted"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

_PACKAGES = (
    *("edgewise", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxruntime", "openvino", "nncf"),
    *("numpy", "Pillow"),
)


@dataclass(frozen=True)
class Run:
    """A run folder that this process holds the lock of. Made by `create_run`, or by `open_run` to go on with one.

    With `writes` False nothing is written: one of several processes that train together holds the folder for all.
    """

    path: Path
    resumed: bool = False
    writes: bool = True
    _unwritten: list[str] = field(default_factory=list)

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

    def update(self, **facts: object) -> None:
        """Merge facts into `run.json`."""
        if not self.writes:
            return
        target = self.path / "run.json"
        known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
        write_json(target, {**known, **facts})

    def log_metrics(self, record: dict[str, object]) -> None:
        """Append one line to `metrics.jsonl`; while the disk takes nothing, lines wait for the next call."""
        if self.writes:
            self._unwritten.append(json.dumps(record, ensure_ascii=False) + "\n")
            self._flush_metrics()

    def finish(self, status: Status) -> None:
        """Leave the last word in `run.json`; what a full disk does not take goes to standard error."""
        if self._unwritten:
            self._flush_metrics()
        try:
            self.update(status=status, ended=_now())
        except (OSError, UnavailableError) as problem:
            print(f"warning: run.json could not be brought up to date: {problem}", file=sys.stderr)
        if self._unwritten:
            print("metrics that could not be written:", *self._unwritten, sep="\n", file=sys.stderr)

    def _flush_metrics(self) -> None:
        target = self.path / "metrics.jsonl"
        size = target.stat().st_size if target.exists() else 0
        try:
            with target.open("a", encoding="utf-8") as stream:
                stream.write("".join(self._unwritten))
        except OSError:
            with contextlib.suppress(OSError):  # half a line would spoil the file
                os.truncate(target, size)
        else:
            self._unwritten.clear()


@contextlib.contextmanager
def create_run(
    path: Path, *, force: bool = False, argv: list[str] | None = None, seed: int = 0, facts: Mapping[str, object] = {}
) -> Iterator[Run]:
    """Make a run folder, hold its lock, and leave a true status in `run.json` however the block ends.

    With `force`, an earlier run at the same place is removed first; a folder that is not a run is never touched.
    `facts` stand in `run.json` from the first moment on.

    Raises:
        ConfigError: the folder exists and `force` is not set, or it is not a run.
        UnavailableError: the folder cannot be written, or another process is using it.
    """
    _check_free(path, force)
    with _held(path):
        if force:
            _clear(path)
        run = Run(path)
        run.update(argv=sys.argv if argv is None else argv, seed=seed, started=_now(), versions=versions(), **facts)
        with _status(run):
            yield run


@contextlib.contextmanager
def open_run(path: Path, *, argv: list[str] | None = None) -> Iterator[Run]:
    """Hold the lock of a run that was interrupted, to go on with it; otherwise as `create_run`.

    `metrics.jsonl` starts anew: whoever resumes tells the finished epochs again.

    Raises:
        ConfigError: C25, there is no run.
        UnavailableError: the folder cannot be written, or another process is using it.
    """
    read_run(path)
    with _held(path):
        run = Run(path, resumed=True)
        earlier = read_run(path).get("resumed", [])
        now = {"when": _now(), "argv": sys.argv if argv is None else argv, "versions": versions()}
        run.update(resumed=[*earlier, now])
        (path / "metrics.jsonl").unlink(missing_ok=True)
        with _status(run):
            yield run


def read_run(path: Path) -> dict[str, Any]:
    """The facts in a run's `run.json`.

    Raises:
        ConfigError: C25, there is no run.
    """
    try:
        facts: dict[str, Any] = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(
            "there is no run in this folder",
            code="C25",
            where={"folder": path},
            why=getattr(problem, "strerror", "") or "run.json cannot be read",
            fix="give the folder of a run, e.g. runs/NAME",
        ) from problem
    return facts


def run_and_model(place: Path) -> tuple[Path, str | None]:
    """The run and the name of the model that a folder stands for: RUN/model/NAME, or RUN alone and no name."""
    folder = place.resolve()
    if (folder / "config.json").is_file() and folder.parent.name == Run(place).model_dir.name:
        return Path(os.path.normpath(place / ".." / "..")), folder.name
    return place, None


def finished(path: Path, names: Sequence[str]) -> Run:
    """The folder of a finished run that has these models.

    Raises:
        ConfigError: no run (C25), one that did not finish (C81), or one without such a model (C80).
    """
    facts, run = read_run(path), Run(path)
    if facts.get("status") != "complete":
        command = "compress" if "source" in facts else "run"
        raise ConfigError(
            "this run did not finish",
            code="C81",
            where={"folder": path},
            why=f"its status is {facts.get('status')}",
            fix=f"go on with it first: edgewise {command} --resume {path}",
        )
    known = sorted(entry.name for entry in run.model_dir.iterdir() if entry.is_dir()) if run.model_dir.is_dir() else []
    for name in names:
        if name not in known:
            raise ConfigError(
                f'the run has no model "{name}"',
                code="C80",
                where={"folder": run.model_dir},
                why=nearest(name, known),
                fix="name a model of the run, not a file of it: prune50, not prune50-int8",
            )
    return run


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Make the folder, check that it can be written, and hold its lock."""
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
        yield
    finally:
        lock.close()


@contextlib.contextmanager
def _status(run: Run) -> Iterator[None]:
    """Keep the status in `run.json` true, the traceback of a failure in `log.txt`, and no metrics unwritten."""
    host = {"name": socket.gethostname(), "platform": platform.platform(), "python": platform.python_version()}
    run.update(status="running", host=host, ended=None)
    status: Status = "failed"
    try:
        yield
        status = "complete"
    except Interrupted as stopped:
        status = "interrupted"
        stopped.saved = run.path if run.checkpoints_dir.exists() else None
        raise
    except BaseException as problem:
        status = "failed" if isinstance(problem, Exception) else "interrupted"
        with contextlib.suppress(OSError, UnavailableError):  # the disk may be what failed
            write_text(run.path / "log.txt", traceback.format_exc())
        raise
    finally:
        run.finish(status)


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


def write_bytes(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Write bytes atomically; with `keep`, what stood there before stays under that name.

    Raises:
        UnavailableError: E03, the disk is full, the file may not be so large, or the place is read-only.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        if keep and path.exists():
            keep.unlink(missing_ok=True)
            try:
                os.link(path, keep)
            except OSError:  # a file system without links
                shutil.copyfile(path, keep)

    try:
        write_atomic(path, write)
    except OSError as problem:
        if problem.errno not in _NO_ROOM:
            raise
        raise UnavailableError(
            "cannot write a file; what stood there before is still whole",
            code="E03",
            where={"file": path},
            why=f"{problem.strerror}; {len(data):,} bytes needed, {free_bytes(path.parent):,} free",
            fix="free some space (or lift the limit), then go on with --resume",
        ) from problem


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, or of the nearest folder above it that is there."""
    there = next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), Path("/"))
    return shutil.disk_usage(there).free


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
    stream.write(f"pid {os.getpid()}@{socket.gethostname()} since {_now()}")
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
