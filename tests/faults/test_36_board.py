"""Case 36: boards that lack something. What can be had here is real; the rest are a board's answers made up."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.device import onboard
from edgewise.errors import UnavailableError
from edgewise.measure import board as boards
from edgewise.measure.channel import connect
from edgewise.measure.session import job_failure
from edgewise.measure.target import VENV

from .board import Board


def measured(device: Board, bundle: Path, colours: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = ["--device", device.url, "--ssh-config", str(device.config), "--images", str(colours), "-q"]
    short = ["--seconds", "0.2", "--out", str(device.folder / "out")]
    return device.run("bench", str(bundle), *given, *short, *words)


def test_a_board_without_packages_is_told_what_it_lacks(device: Board, bundle: Path, colours: Path) -> None:
    device.use_bare_python()
    done = measured(device, bundle, colours)
    assert done.returncode == 4
    assert "error[E95]: the device lacks numpy and onnxruntime" in done.stderr
    assert "No module named 'onnxruntime'" in done.stderr
    assert "--install" in done.stderr
    assert not (device.home / ".local").exists()
    assert device.left_over() == []
    report = json.loads(device.run("doctor", "--on", device.url, "--ssh-config", str(device.config), "--json").stdout)
    lacking = {check["name"] for check in report["checks"] if not check["ok"]}
    assert {"numpy", "onnxruntime"} <= lacking
    assert "python3" not in lacking


def test_a_missing_instruction_becomes_a_message(device: Board, bundle: Path, colours: Path) -> None:
    packages = device.use_bare_python()
    (packages / "numpy.py").write_text("__version__ = '1.19.5'\n")
    (packages / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = measured(device, bundle, colours)
    assert done.returncode == 4
    assert "importing onnxruntime failed on the device: killed by SIGILL" in done.stderr
    assert "instructions that this CPU does not have" in done.stderr
    assert "onnxruntime<1.19" in done.stderr
    assert device.left_over() == []


@pytest.mark.parametrize(
    ("python", "why"),
    [("absent", "there is no python3 on its PATH"), ("old", "python3 is 3.5")],
)
def test_no_python_or_one_too_old(device: Board, python: str, why: str) -> None:
    if python == "old":
        fake = device.folder / "old.py"
        fake.write_text(
            "import sys\nprogram = sys.argv[sys.argv.index('-c') + 1]\nsys.version_info = (3, 5, 3)\nexec(program)\n"
        )
        device.use_python(f"{sys.executable} {fake}")
    name = "python3" if python == "old" else "no-such-python"
    with pytest.raises(UnavailableError, match="E94") as caught, connect(device.target, python=name):
        pass
    assert why in caught.value.why
    assert "never" in caught.value.fix


def test_a_disk_that_is_full_is_told_and_left_clean(device: Board) -> None:
    device.use_python(sys.executable, "ulimit -f 256")  # blocks of 512 bytes (or 1024): a file may hold no more
    with (
        pytest.raises(UnavailableError, match=r"error\[E96\]: a file cannot be stored") as caught,
        connect(device.target) as channel,
    ):
        channel.put("large", bytes(1 << 20))
    assert "File too large" in caught.value.why
    assert device.left_over() == []


def test_a_board_without_room_lists_what_it_tried(device: Board) -> None:
    with (
        pytest.raises(UnavailableError, match=r"error\[E96\]: the device has no room") as caught,
        connect(device.target, need_bytes=1 << 60),
    ):
        pass
    assert f"{device.temp}: " in caught.value.why
    assert "needed" in caught.value.why


def test_a_place_that_cannot_be_written_gives_way_to_the_next(device: Board, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    with connect(device.target, temp=["/proc", str(tmp_path / "absent"), str(tmp_path / "free")]) as channel:
        assert Path(channel.folder).parent == tmp_path / "free"
    assert list((tmp_path / "free").iterdir()) == []


def test_noexec_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert onboard._noexec(str(Path(sys.executable).parent)) is False
    assert onboard._noexec(str(tmp_path / "absent")) is None
    real = os.statvfs(tmp_path)
    answer = os.statvfs_result([*real[:8], real.f_flag | os.ST_NOEXEC, real.f_namemax])
    monkeypatch.setattr(os, "statvfs", lambda place: answer)
    assert onboard._noexec(str(tmp_path)) is True


FACTS: dict[str, Any] = {
    "machine": {"arch": "aarch64", "os": "Debian", "kernel": "6.1", "cpu": "Cortex-A72"},
    "bits": 64,
    "python": "3.11.2",
    "executable": "/usr/bin/python3",
    "libc": "glibc 2.36",
    "where": "ssh://pi@board",
    "temp": {"folder": "/tmp/x", "free": 1 << 30, "noexec": False},
    "places": [{"folder": "/tmp", "free": 1 << 30, "noexec": False}, {"folder": "/ram", "free": None, "noexec": None}],
    "power": {"source": None, "why": "this device has no power sensor"},
    "packages": {"numpy": {"version": "1.26"}, "onnxruntime": {"version": "1.20"}, "PIL": {"error": "none"}},
    "died": "",
}


def facts(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(FACTS), **changes}


def test_a_sound_board_has_no_hindrance() -> None:
    boards.refuse(facts())
    assert boards.hindrances(facts()) == []
    assert {check["name"] for check in boards.checks(facts()) if not check["ok"]} == {
        "Pillow (e2e clock only)",
        "power sensor",
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"bits": 32}, "a 32-bit system (aarch64): there is no onnxruntime wheel"),
        ({"machine": {**FACTS["machine"], "arch": "armv7l"}}, "armv7l"),
        ({"python": "3.6.9"}, "Python 3.6.9: pip finds an older onnxruntime"),
        ({"libc": "glibc 2.23"}, "glibc 2.23: wheels of onnxruntime want 2.27"),
        ({"temp": {"folder": "/tmp/x", "free": 1, "noexec": True}}, "/tmp/x is mounted noexec"),
    ],
)
def test_what_stands_against_a_runtime_is_named(changes: dict[str, Any], word: str) -> None:
    told = facts(**changes)
    (found,) = boards.hindrances(told)
    assert word in found
    assert any(check["detail"] == found and not check["ok"] for check in boards.checks(told))
    told["packages"] = {"numpy": {"version": "1"}, "onnxruntime": {"error": "No module named 'onnxruntime'"}}
    with pytest.raises(UnavailableError, match="the device lacks onnxruntime") as caught:
        boards.refuse(told)
    assert word in caught.value.why


@pytest.mark.parametrize(
    ("code", "stderr", "why", "fix"),
    [
        (-4, "", "killed by SIGILL", "OPENBLAS_CORETYPE"),
        (-9, "", "killed by SIGKILL", "out of memory"),
        (-11, "", "killed by SIGSEGV", "by hand"),
        (1, "a\nb\nImportError: GLIBC_2.28 not found", "GLIBC_2.28 not found", "device's own"),
        (3, "", "exit code 3", "device's own"),
    ],
)
def test_how_a_job_ended_is_told(code: int, stderr: str, why: str, fix: str) -> None:
    problem = job_failure("ssh://pi@board", "measure", code, stderr)
    assert problem.exit_code == 4
    assert why in problem.why
    assert fix in problem.fix


@pytest.mark.slow
def test_install_makes_an_environment_in_the_home_folder_and_nothing_else(
    device: Board, bundle: Path, colours: Path
) -> None:
    """The real thing: a bare python, a real venv, numpy and onnxruntime from the package index."""
    device.use_bare_python()
    done = measured(device, bundle, colours, "--install", "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)
    assert cell["latency_ms"]["model"]["n"] > 0
    assert cell["latency_ms"]["e2e"]["n"] > 0  # PNG pictures need no Pillow
    made = Path(VENV.replace("$HOME", str(device.home)))
    assert (made / "bin/python").exists()
    assert {path.name for path in device.home.iterdir()} <= {".local", ".cache"}
    assert device.left_over() == []


@pytest.mark.slow
def test_an_environment_that_cannot_be_made_leaves_nothing(device: Board) -> None:
    device.use_bare_python()
    device.use_python(device.folder / "bare/bin/python3", "export PIP_INDEX_URL=http://127.0.0.1:9 PIP_RETRIES=0")
    with pytest.raises(UnavailableError, match="E99"), connect(device.target) as channel:
        boards.install(channel)
    assert not Path(VENV.replace("$HOME", str(device.home))).exists()
