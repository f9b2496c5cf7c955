"""Run folders: never overwritten, locked, with a true status; writes that are whole or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgewise import runs
from edgewise.errors import ConfigError, UnavailableError


def status(path: Path) -> str:
    return str(json.loads((path / "run.json").read_text())["status"])


def test_status_tells_how_the_run_ended(tmp_path: Path) -> None:
    with runs.create_run(tmp_path / "a", argv=["edgewise", "run"], seed=3) as run:
        assert status(run.path) == "running"
        run.log_metrics({"epoch": 1})
    assert status(tmp_path / "a") == "complete"
    with pytest.raises(ZeroDivisionError), runs.create_run(tmp_path / "b"):
        _ = 1 / 0
    assert status(tmp_path / "b") == "failed"
    assert "ZeroDivisionError" in (tmp_path / "b/log.txt").read_text()
    with pytest.raises(KeyboardInterrupt), runs.create_run(tmp_path / "c"):
        raise KeyboardInterrupt
    assert status(tmp_path / "c") == "interrupted"


def test_a_run_is_never_overwritten_unless_forced(tmp_path: Path) -> None:
    with runs.create_run(tmp_path / "a") as run:
        (run.path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="runs are never overwritten"), runs.create_run(tmp_path / "a"):
        pass
    assert (tmp_path / "a/precious").exists()
    with runs.create_run(tmp_path / "a", force=True):
        pass
    assert not (tmp_path / "a/precious").exists()


def test_a_folder_that_is_no_run_is_left_alone_even_when_forced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="not an edgewise run"), runs.create_run(tmp_path / "photos", force=True):
        pass
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"), runs.create_run(tmp_path / "file", force=True):
        pass
    assert (tmp_path / "photos/cat.jpg").exists()


def test_force_does_not_follow_links_out_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"x")
    with runs.create_run(tmp_path / "a") as run:
        (run.path / "link").symlink_to(tmp_path / "photos")
    with runs.create_run(tmp_path / "a", force=True):
        pass
    assert (tmp_path / "photos/cat.jpg").exists()


HOLD = """
import sys, time
from pathlib import Path
from edgewise import runs
with runs.create_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError, match="another process") as caught, runs.create_run(folder, force=True):
            pass
        assert f"pid {holder.pid}@" in str(caught.value)
        holder.send_signal(signal.SIGKILL)
    with runs.create_run(folder, force=True):
        assert status(folder) == "running"


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot write the run folder"), runs.create_run(Path("/proc/edgewise")):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    runs.write_json(target, {"a": 1})

    def half(temporary: Path) -> None:
        temporary.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        runs.write_atomic(target, half)
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208 - hidden files too


WRITER = """
import sys
from pathlib import Path
from edgewise import runs
number = 0
while True:
    number += 1
    runs.write_json(Path(sys.argv[1]), {"number": number, "filler": "x" * 200_000})
    if number == 3:
        print("going", flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    for delay in (0.0, 0.003, 0.007, 0.013):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.kill()
        assert len(json.loads(target.read_text())["filler"]) == 200_000


def test_versions_name_what_is_installed() -> None:
    found = runs.versions()
    assert {"python", "edgewise", "numpy"} <= set(found)


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path))
    assert runs.cache_dir() == tmp_path
    monkeypatch.delenv("EDGEWISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert runs.cache_dir() == tmp_path / "x/edgewise"
