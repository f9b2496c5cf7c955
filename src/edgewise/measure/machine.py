"""What machine this is, and whether it was left in peace while something was timed.

Everything is read from files below an injectable root (``/proc``, ``/sys``), so a made-up machine can be tested. What a
machine does not offer is None or empty, never a guess.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OTHER_LOAD = 0.10
"""Largest share of the CPUs that other processes may use during a measurement."""

CLOCK_FALL = 0.05
"""Largest fall of the fastest core's clock during a measurement."""

LEAST_TICKS = 20
"""Other processes' CPU use is not judged over fewer ticks (1/100 s) per core than this."""

_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
}

_PI_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True)
class State:
    """The machine at one moment; None or empty where it does not say.

    `busy_ticks` and `total_ticks` add up all cores, `own_ticks` is this process with its children; a tick is 1/100 s.
    `swapped_pages` counts pages moved to or from swap since boot, `own_swap_bytes` is what of this process lies there.
    `pi_bits` is the Raspberry Pi's throttle word, `throttle_events` the x86 kernel's count, `cooling` the largest
    state of a cooling device that slows the CPU.
    """

    temperature_c: float | None = None
    frequency_khz: tuple[int, ...] = ()
    governors: tuple[str, ...] = ()
    load_1min: float | None = None
    cores: int = 0
    busy_ticks: int | None = None
    total_ticks: int | None = None
    own_ticks: int | None = None
    swapped_pages: int | None = None
    own_swap_bytes: int | None = None
    pi_bits: int | None = None
    throttle_events: int | None = None
    cooling: int | None = None


def snapshot(root: Path = Path("/")) -> State:
    """Read the state of the machine whose file system is at `root`; takes a few milliseconds."""
    cpus = root / "sys/devices/system/cpu"
    stat = _read(root / "proc/stat").splitlines()
    busy, total = _cpu_ticks(stat)
    memory = _fields(_read(root / "proc/vmstat"), None)
    swap = _fields(_read(root / "proc/self/status"), ":").get("VmSwap", "").split()
    load = _read(root / "proc/loadavg").split()
    return State(
        temperature_c=_temperature(root),
        frequency_khz=tuple(_numbers(sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")))),
        governors=tuple(sorted({_read(path) for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")})),
        load_1min=float(load[0]) if load else None,
        cores=sum(line[:3] == "cpu" and line[3:4].isdigit() for line in stat),
        busy_ticks=busy,
        total_ticks=total,
        own_ticks=_own_ticks(root),
        swapped_pages=int(memory["pswpin"]) + int(memory["pswpout"]) if {"pswpin", "pswpout"} <= set(memory) else None,
        own_swap_bytes=int(swap[0]) * 1024 if swap else None,
        pi_bits=_pi_bits(root),
        throttle_events=_sum(_numbers(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))),
        cooling=_cooling(root),
    )


def reasons(before: State, after: State) -> list[str]:
    """Why figures taken between two snapshots are not to be trusted; empty when nothing speaks against them.

    `before` is to be taken when the machine is already warm and busy, else a governor that clocks up hides a fall.
    """
    found = _throttling(before, after)
    if before.frequency_khz and after.frequency_khz:
        start, end = max(before.frequency_khz), max(after.frequency_khz)
        if end < start * (1 - CLOCK_FALL):
            found.append(f"CPU clock fell {start / 1000:.0f} -> {end / 1000:.0f} MHz")
    if before.governors != after.governors:
        found.append(f"governor changed {_join(before.governors)} -> {_join(after.governors)}")
    share = other_load(before, after)
    if share is not None and share > OTHER_LOAD:
        found.append(f"other processes used {share:.0%} of the CPUs")
    swapped = (after.swapped_pages or 0) - (before.swapped_pages or 0)
    if swapped > 0:
        found.append(f"swap was used: {swapped} pages moved")
    elif after.own_swap_bytes:
        found.append(f"swap was used: {after.own_swap_bytes} bytes of this process lie there")
    return found


def other_load(before: State, after: State) -> float | None:
    """Share (0..1) of all cores that other processes used between two snapshots; None when it cannot be told."""
    ticks = (
        before.busy_ticks,
        before.total_ticks,
        before.own_ticks,
        after.busy_ticks,
        after.total_ticks,
        after.own_ticks,
    )
    busy0, total0, own0, busy1, total1, own1 = ticks
    if busy0 is None or total0 is None or own0 is None or busy1 is None or total1 is None or own1 is None:
        return None
    total = total1 - total0
    if total < LEAST_TICKS * max(1, after.cores):
        return None
    return max(0.0, (busy1 - busy0) - (own1 - own0)) / total


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """What the CPU can do, in the kernel's words: avx2, amx_bf16, asimddp ...; empty where it does not say."""
    cpu = _fields(_read(root / "proc/cpuinfo"), ":")
    return frozenset(f"{cpu.get('flags', '')} {cpu.get('Features', '')}".split())


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that processes can still be given without swapping; None where the system does not say."""
    kilobytes = _fields(_read(root / "proc/meminfo"), ":").get("MemAvailable", "").split()
    return int(kilobytes[0]) * 1024 if kilobytes else None


def describe(root: Path = Path("/")) -> dict[str, Any]:
    """Flat facts about the machine, fit for JSON.

    `fingerprint` is 12 hexadecimal digits over the facts that must agree before two figures may stand in one ranking.
    `relative_only` is false, or the reason why only ratios mean anything: a virtual machine, an emulator, a CI runner.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    cpu = _fields(cpuinfo, ":")
    flags = cpu_flags(root)
    logical = sum(line.startswith("processor") for line in cpuinfo.splitlines()) or os.cpu_count() or 1
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    ram = _fields(_read(root / "proc/meminfo"), ":").get("MemTotal", "").split()
    facts: dict[str, Any] = {
        "model": _read(root / "proc/device-tree/model").rstrip("\0") or _read(root / "sys/class/dmi/id/product_name"),
        "cpu": cpu.get("model name") or _ARM_CORES.get(cpu.get("CPU part", ""), cpu.get("CPU part", "unknown")),
        "cores_logical": logical,
        "cores_physical": _physical_cores(root) or logical,
        "ram_bytes": int(ram[0]) * 1024 if ram else None,
        "arch": platform.machine(),
        "os": _os_name(root),
        "kernel": _read(root / "proc/sys/kernel/osrelease"),
        "governor": _read(frequency / "scaling_governor") or None,
        "cpu_quota": _quota(root),
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "dotprod": "asimddp" in flags,
        "vm": "hypervisor" in flags,
    }
    stable = json.dumps(facts, sort_keys=True)
    physical = facts["cores_physical"]
    return {
        **facts,
        "frequency_max_mhz": next((khz // 1000 for khz in _numbers([frequency / "cpuinfo_max_freq"])), None),
        "fingerprint": hashlib.sha256(stable.encode()).hexdigest()[:12],
        "cores": f"{physical} cores" + (f", {logical} threads" if logical != physical else ""),
        "ram": f"{int(ram[0]) * 1024 / 1e9:.0f} GB" if ram else None,
        "relative_only": _relative_reason(facts, cpu) or False,
    }


def _throttling(before: State, after: State) -> list[str]:
    found = []
    if after.pi_bits is not None:
        fresh = (after.pi_bits & ~(before.pi_bits or 0)) >> 16  # bits 16-19: has happened since boot
        seen = (after.pi_bits | (before.pi_bits or 0) | fresh) & 0xF
        found += [
            f"{name} (vcgencmd throttle bits {after.pi_bits:#x})" for bit, name in _PI_BITS.items() if seen >> bit & 1
        ]
    events = (after.throttle_events or 0) - (before.throttle_events or 0)
    if events > 0:
        found.append(f"the CPU was throttled {events} times (thermal_throttle count)")
    cooling = max(before.cooling or 0, after.cooling or 0)
    if cooling > 0:
        found.append(f"the CPU was slowed to cool it (cooling device state {cooling})")
    return found


def _relative_reason(facts: dict[str, Any], cpu: dict[str, str]) -> str:
    if facts["arch"] in ("aarch64", "armv7l") and "vendor_id" in cpu:
        return "the CPU is emulated"
    if facts["vm"]:
        return "virtual machine: the cores are shared with others"
    if os.environ.get("CI"):
        return "CI runner"
    return ""


def _cpu_ticks(stat: list[str]) -> tuple[int | None, int | None]:
    """Busy and total ticks of all cores; guest time is already inside user time."""
    if not stat or not stat[0].startswith("cpu "):
        return None, None
    ticks = [int(text) for text in stat[0].split()[1:9]]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _own_ticks(root: Path) -> int | None:
    """User and system ticks of this process and its ended children (proc(5), fields 14 to 17)."""
    fields = _read(root / "proc/self/stat").rpartition(")")[2].split()
    return sum(int(text) for text in fields[11:15]) if len(fields) > 15 else None


def _temperature(root: Path) -> float | None:
    """The hottest sensor in degrees Celsius; readings outside 1..150 are broken sensors."""
    zones = [millis / 1000 for millis in _numbers((root / "sys/class/thermal").glob("thermal_zone*/temp"))]
    return max((celsius for celsius in zones if 1 <= celsius <= 150), default=None)


def _cooling(root: Path) -> int | None:
    devices = (root / "sys/class/thermal").glob("cooling_device*")
    slowing = [device for device in devices if any(word in _read(device / "type") for word in ("cpufreq", "Processor"))]
    return max(_numbers(device / "cur_state" for device in slowing), default=None)


def _pi_bits(root: Path) -> int | None:
    """The Raspberry Pi's throttle word, from the firmware driver or else from vcgencmd."""
    text = _read(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    if text:
        return int(text, 16)
    command = root / "usr/bin/vcgencmd"
    if not command.is_file():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5, check=True)
        _, _, word = answer.stdout.strip().partition("throttled=")
        return int(word, 16) if word else None
    return None


def _physical_cores(root: Path) -> int:
    topologies = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology")
    return len({(_read(path / "physical_package_id"), _read(path / "core_id")) for path in topologies})


def _quota(root: Path) -> float | None:
    """CPUs that the control group allows, None without a limit."""
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit():
        return int(quota) / int(period)
    old = list(_numbers(root / "sys/fs/cgroup/cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")))
    return old[0] / old[1] if len(old) == 2 and old[0] > 0 else None  # a quota of -1 is none


def _os_name(root: Path) -> str:
    return _fields(_read(root / "etc/os-release"), "=").get("PRETTY_NAME", "").strip('"') or platform.system()


def _fields(text: str, separator: str | None) -> dict[str, str]:
    """`key: value` lines; the first of equal keys counts."""
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        key, *rest = line.split(separator, 1)
        found.setdefault(key.strip(), "".join(rest).strip())
    return found


def _numbers(paths: Iterable[Path]) -> Iterable[int]:
    """The whole numbers in those files that hold one."""
    for path in paths:
        with contextlib.suppress(ValueError):
            yield int(_read(path))


def _sum(numbers: Iterable[int]) -> int | None:
    listed = list(numbers)
    return sum(listed) if listed else None


def _join(names: tuple[str, ...]) -> str:
    return "/".join(names) or "none"


def _read(path: Path) -> str:
    """A file's text, stripped; empty when it is not there or cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
