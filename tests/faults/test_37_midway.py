"""Case 37: a bench that is disturbed in the middle: the connection goes, the process is killed, the board throttles."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise.bench import Options, bench
from edgewise.device.onboard import MARK
from edgewise.device.sending import boot_programs
from edgewise.errors import UnavailableError
from edgewise.measure import channel as channels
from edgewise.measure.channel import connect
from edgewise.measure.protocol import PROTOCOLS, Protocol, shorten

from .board import Board

QUICK = shorten(PROTOCOLS["quick"], 0.3, 1)


def standard(seconds: float) -> Protocol:
    return dataclasses.replace(shorten(PROTOCOLS["standard"], seconds, 2), energy=None, cold=1)


# --- The connection ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cut_connection_keeps_what_was_whole_cleans_up_and_is_resumed(
    device: Board, bundle: Path, colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["bench", str(bundle), "--device", device.url, "--ssh-config", str(device.config), "--images", str(colours)]
    words += ["--out", str(out), "--protocol", "standard", "--launches", "1", "-q", "--seconds"]
    process = subprocess.Popen(device.edgewise(*words, "40"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def is_timing() -> bool:
        return any(b"measure" in _command(pid) for pid in device.processes())

    device.wait_until(is_timing)
    device.cut()
    device.wait_until(lambda: device.left_over() == [] and not device.processes())
    _, told = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "error[E97]" in told
    assert "--resume" in told
    assert not list(out.glob("cells/*.json")) or not _cell(out)["complete"]

    done = device.run(*words, "1", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    cell = _cell(out)
    assert cell["complete"]
    assert cell["latency_ms"]["model"]["n"] > 0
    again = device.run(*words, "1", "--resume", "--json")
    assert again.returncode == 0
    assert _cell(out) == cell  # nothing was missing: nothing was measured again


@pytest.mark.slow
def test_partial_samples_are_kept_and_marked(device: Board, bundle: Path, colours: Path, tmp_path: Path) -> None:
    """The connection goes when the third of four rounds has come."""
    rounds = 0

    class Cutting:
        def task(self, title: str, total: int) -> Any:

            @contextlib.contextmanager
            def inside() -> Any:
                def advance(steps: int = 1, note: str = "") -> None:
                    nonlocal rounds
                    rounds += title.startswith("standard")
                    if rounds == 4:
                        device.cut()

                yield advance

            return inside()

        def say(self, text: str) -> None:
            pass

    protocol = standard(8.0)
    assert protocol.block_s >= 1  # blocks come one by one
    options = Options(protocol, tmp_path / "out", device.target, images=colours)
    with pytest.raises(UnavailableError, match="E97"):
        bench([bundle], options, progress=Cutting())
    cell = _cell(tmp_path / "out")
    assert not cell["complete"]
    assert not cell["valid"]
    assert "incomplete: the connection to the device ended" in cell["invalid_reasons"][0]
    with gzip.open(tmp_path / "out" / cell["raw_csv"], "rt") as stream:
        lines = stream.read().splitlines()
    assert lines[0] == "launch,clock,block,run,ns"
    rows = [line.split(",") for line in lines[1:]]  # of a second launch too, where the cut took its time
    runs = Counter((int(launch), int(block)) for launch, clock, block, *_ in rows if clock == "model")
    # Figures are of pairs of blocks: the last of an odd number is in the raw samples only.
    paired = sorted(runs)[: len(runs) // 2 * 2]
    assert sum(runs[block] for block in paired) == cell["latency_ms"]["model"]["n"] > 0
    device.wait_until(lambda: device.left_over() == [] and not device.processes())


@pytest.mark.slow
def test_stopping_the_bench_stops_the_device(device: Board, bundle: Path, colours: Path, tmp_path: Path) -> None:
    words = ["bench", str(bundle), "--device", device.url, "--ssh-config", str(device.config), "--images", str(colours)]
    words += ["--out", str(tmp_path / "out"), "--protocol", "standard", "-q"]
    process = subprocess.Popen(device.edgewise(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    device.wait_until(lambda: any(b"measure" in _command(pid) for pid in device.processes()))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in told
    device.wait_until(lambda: device.left_over() == [] and not device.processes())


# --- The lease --------------------------------------------------------------------------------------------------


def start(temp: Path, lease_s: float) -> tuple[subprocess.Popen[bytes], Path]:
    """The program as it is started on a device, greeted; its process and folder."""
    first, program = boot_programs()
    process = subprocess.Popen([sys.executable, "-c", first], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    hello = json.dumps({"lease_s": lease_s, "temp": [str(temp)]})
    process.stdin.write(f"{len(program.encode())}\n{program}{hello}\n".encode())
    process.stdin.flush()
    answer = json.loads(process.stdout.readline().decode().removeprefix(MARK))
    return process, Path(answer["folder"])


def test_a_device_that_hears_nothing_cleans_up_although_the_pipe_is_open(tmp_path: Path) -> None:
    process, folder = start(tmp_path, lease_s=0.5)
    assert folder.is_dir()
    assert process.wait(timeout=10) == 1
    assert not folder.exists()
    process.communicate()


def test_a_closed_pipe_ends_it_at_once(tmp_path: Path) -> None:
    process, folder = start(tmp_path, lease_s=600)
    assert process.stdin
    process.stdin.close()
    assert process.wait(timeout=10) == 1
    assert not folder.exists()
    assert process.stdout
    process.stdout.close()


def test_what_a_killed_program_left_is_removed_by_the_next_and_what_lives_is_not(tmp_path: Path) -> None:
    dead, folder_of_dead = start(tmp_path, lease_s=600)
    dead.kill()
    dead.communicate()
    assert folder_of_dead.exists()  # it had no chance
    living, folder_of_living = start(tmp_path, lease_s=600)
    (tmp_path / "edgewise-bench-mine").mkdir()  # no lease in it: not one of ours
    with connect(None, temp=[str(tmp_path)]):
        assert not folder_of_dead.exists()
        assert folder_of_living.exists()
    assert living.poll() is None
    living.communicate(b'{"do": "bye"}\n')
    assert not folder_of_living.exists()


def test_a_job_dies_with_the_program_that_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(None, temp=[str(tmp_path)]) as channel:
        command = [sys.executable, "-c", f"import time; open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(300)"]
        waiting = threading.Thread(target=_ask_in_vain, args=(channel, command))
        waiting.start()
        _wait(lambda: (tmp_path / "up").exists())
        (child,) = _children(channel._process.pid)
        os.kill(channel._process.pid, signal.SIGKILL)
        _wait(lambda: not Path(f"/proc/{child}").exists() or b"Z" in Path(f"/proc/{child}/stat").read_bytes()[:40])
        waiting.join(timeout=10)


def test_a_job_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with connect(None, temp=[str(tmp_path)]) as channel:
        command = [sys.executable, "-c", "import time; time.sleep(300)"]
        ended = channel.ask("run", 30, words=[], python=command, timeout_s=0.3)
        assert ended["timed_out"]
        assert ended["code"] == -signal.SIGKILL


def test_silence_of_the_device_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "READY_S", 0.5)
    with pytest.raises(UnavailableError, match=r"error\[E98\]"), connect(None, python="/usr/bin/yes"):
        pass


# --- The machine ------------------------------------------------------------------------------------------------

PI = {
    "proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd0b\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/meminfo": "MemTotal: 8244128 kB\nMemAvailable: 4000000 kB\n",
    "proc/uptime": "0.0 0.0\n",
    "proc/vmstat": "pswpin 0\npswpout 0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/class/thermal/thermal_zone0/temp": "61250\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "5", "under-voltage"),
        ("sys/devices/platform/soc/soc:firmware/get_throttled", "80008", "soft temperature limit"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "governor changed ondemand -> powersave"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000", "CPU clock fell 2400 -> 1500 MHz"),
        ("proc/vmstat", "pswpin 9\npswpout 0", "swap was used"),
        ("proc/uptime", "3600.0 0.0", "the machine was suspended"),
    ],
)
def test_a_board_that_is_disturbed_midway_has_its_cell_struck(
    name: str, text: str, reason: str, bundle: Path, colours: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for file, content in PI.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)

    class Disturbing:
        def task(self, title: str, total: int) -> Any:

            @contextlib.contextmanager
            def inside() -> Any:
                rounds = 0

                def advance(steps: int = 1, note: str = "") -> None:
                    nonlocal rounds
                    rounds += title.startswith("quick")
                    if rounds == 3:
                        (root / name).write_text(text)

                yield advance

            return inside()

        def say(self, text: str) -> None:
            pass

    options = Options(QUICK, tmp_path / "out", images=colours, root=str(root))
    (cell,) = bench([bundle], options, progress=Disturbing())
    assert not cell["valid"]
    assert any(reason in why for why in cell["invalid_reasons"]), cell["invalid_reasons"]
    assert cell["device"]["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert cell["state"]["temp_start"] == 61.25
    assert cell["complete"]


def test_a_throttle_that_comes_and_goes_between_is_seen_too() -> None:
    from edgewise.measure.machine import State, reasons, reasons_during

    calm, hot = State(pi_bits=0, frequency_khz=(2_400_000,)), State(pi_bits=4, frequency_khz=(1_500_000,))
    assert reasons(calm, calm) == []
    assert reasons_during([calm, hot, calm]) == ["throttled (vcgencmd throttle bits 0x4)"]
    assert reasons_during([calm, hot, hot, calm])[-1] == "CPU clock fell 2400 -> 1500 MHz for a while"
    assert reasons_during([calm]) == []


def _cell(out: Path) -> dict[str, Any]:
    (path,) = out.glob("cells/*.json")
    read: dict[str, Any] = json.loads(path.read_text())
    return read


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _ask_in_vain(channel: channels.Channel, command: list[str]) -> None:
    with pytest.raises(UnavailableError, match="E97"):
        channel.ask("run", 60, words=[], python=command, timeout_s=60)
