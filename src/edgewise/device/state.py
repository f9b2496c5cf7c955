"""What a machine says of itself and of its state, read from files below a root (``/proc``, ``/sys``).

Used by ``edgewise.measure.machine`` here and sent to boards by ``edgewise bench``; the syntax is that of Python 3.6 and
nothing but the standard library is needed. What a machine does not offer is None or empty, never a guess.
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import subprocess
import time
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

_ARM_CORES = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd42": "Cortex-A78AE",
}


def read_state(root: str = "/", pid: str = "self") -> Dict[str, Any]:
    """The machine at this moment, with the time and memory of one process; see `edgewise.measure.machine.State`."""
    stat = read(root, "proc/stat").splitlines()
    busy, total = _cpu_ticks(stat)
    memory = fields(read(root, "proc/vmstat"), None)
    swap = fields(read(root, "proc", pid, "status"), ":").get("VmSwap", "").split()
    load = read(root, "proc/loadavg").split()
    uptime = read(root, "proc/uptime").split()
    swapped = None
    if "pswpin" in memory and "pswpout" in memory:
        swapped = int(memory["pswpin"]) + int(memory["pswpout"])
    return {
        "temperature_c": _temperature(root),
        "frequency_khz": list(_numbers(sorted(_cpus(root, "cpufreq/scaling_cur_freq")))),
        "governors": sorted({_text(path) for path in _cpus(root, "cpufreq/scaling_governor")}),
        "load_1min": float(load[0]) if load else None,
        "cores": sum(line[:3] == "cpu" and line[3:4].isdigit() for line in stat),
        "busy_ticks": busy,
        "total_ticks": total,
        "own_ticks": _own_ticks(root, pid),
        "swapped_pages": swapped,
        "own_swap_bytes": int(swap[0]) * 1024 if swap else None,
        "pi_bits": _pi_bits(root),
        "throttle_events": _sum(_numbers(_cpus(root, "thermal_throttle/core_throttle_count"))),
        "cooling": _cooling(root),
        "available_bytes": available_bytes(root),
        "slept_s": float(uptime[0]) - time.monotonic() if uptime else None,
    }


def describe(root: str = "/") -> Dict[str, Any]:
    """Flat facts about the machine, fit for JSON; see `edgewise.measure.machine.describe`."""
    cpuinfo = read(root, "proc/cpuinfo")
    cpu = fields(cpuinfo, ":")
    flags = cpu_flags(root)
    logical = sum(line.startswith("processor") for line in cpuinfo.splitlines()) or os.cpu_count() or 1
    frequency = "sys/devices/system/cpu/cpu0/cpufreq"
    ram = fields(read(root, "proc/meminfo"), ":").get("MemTotal", "").split()
    facts = {
        "model": read(root, "proc/device-tree/model").rstrip("\0") or read(root, "sys/class/dmi/id/product_name"),
        "cpu": cpu.get("model name") or _ARM_CORES.get(cpu.get("CPU part", ""), cpu.get("CPU part", "unknown")),
        "cores_logical": logical,
        "cores_physical": _physical_cores(root) or logical,
        "ram_bytes": int(ram[0]) * 1024 if ram else None,
        "arch": platform.machine(),
        "os": fields(read(root, "etc/os-release"), "=").get("PRETTY_NAME", "").strip('"') or platform.system(),
        "kernel": read(root, "proc/sys/kernel/osrelease"),
        "governor": read(root, frequency, "scaling_governor") or None,
        "cpu_quota": _quota(root),
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "dotprod": "asimddp" in flags,
        "vm": "hypervisor" in flags,
    }  # type: Dict[str, Any]
    stable = json.dumps(facts, sort_keys=True)
    physical = facts["cores_physical"]
    threads = ", {} threads".format(logical) if logical != physical else ""
    return dict(
        facts,
        frequency_max_mhz=next((khz // 1000 for khz in _numbers([_join(root, frequency, "cpuinfo_max_freq")])), None),
        fingerprint=hashlib.sha256(stable.encode()).hexdigest()[:12],
        cores="{} cores{}".format(physical, threads),
        ram="{:.0f} GB".format(int(ram[0]) * 1024 / 1e9) if ram else None,
        relative_only=_relative_reason(facts, cpu) or False,
    )


def cpu_flags(root: str = "/") -> Set[str]:
    """What the CPU can do, in the kernel's words: avx2, amx_bf16, asimddp ...; empty where it does not say."""
    cpu = fields(read(root, "proc/cpuinfo"), ":")
    return set((cpu.get("flags", "") + " " + cpu.get("Features", "")).split())


def available_bytes(root: str = "/") -> Optional[int]:
    """Memory that processes can still be given without swapping; None where the system does not say."""
    kilobytes = fields(read(root, "proc/meminfo"), ":").get("MemAvailable", "").split()
    return int(kilobytes[0]) * 1024 if kilobytes else None


def fastest_cores(count: int, root: str = "/", allowed: Iterable[int] = ()) -> List[int]:
    """So many CPUs with the highest clock, one of each physical core first; fewer where there are fewer.

    On big.LITTLE these are the big ones. `allowed` limits the choice, as the affinity of the process does.
    """
    found = []
    twins = {}  # type: Dict[Tuple[str, str], int]
    for path in glob.glob(_join(root, "sys/devices/system/cpu/cpu[0-9]*")):
        number = int(os.path.basename(path)[3:])
        core = (_text(_join(path, "topology/physical_package_id")), _text(_join(path, "topology/core_id")) or path)
        speed = next(_numbers([_join(path, "cpufreq/cpuinfo_max_freq")]), 0)
        found.append((number, speed, core))
    ranked = []
    for number, speed, core in sorted(found):
        twins[core] = twins.get(core, -1) + 1
        ranked.append((-speed, twins[core], number))
    usable = set(allowed)
    return sorted(number for _, _, number in sorted(one for one in ranked if not usable or one[2] in usable)[:count])


def read(root: str, *parts: str) -> str:
    """A file's text, stripped; empty when it is not there or cannot be read."""
    return _text(_join(root, *parts))


def fields(text: str, separator: Optional[str]) -> Dict[str, str]:
    """`key: value` lines; the first of equal keys counts."""
    found = {}  # type: Dict[str, str]
    for line in filter(str.strip, text.splitlines()):
        key, *rest = line.split(separator, 1)
        found.setdefault(key.strip(), "".join(rest).strip())
    return found


def vcgencmd(root: str, word: str) -> str:
    """The answer of the Raspberry Pi's firmware command, empty where it is not there or fails."""
    command = _join(root, "usr/bin/vcgencmd")
    if os.path.isfile(command):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.check_output(
                [command, word], universal_newlines=True, timeout=5, stderr=subprocess.DEVNULL
            ).strip()
    return ""


def _relative_reason(facts: Dict[str, Any], cpu: Dict[str, str]) -> str:
    if facts["arch"] in ("aarch64", "armv7l") and "vendor_id" in cpu:
        return "the CPU is emulated"
    if facts["vm"]:
        return "virtual machine: the cores are shared with others"
    if os.environ.get("CI"):
        return "CI runner"
    return ""


def _cpu_ticks(stat: List[str]) -> Tuple[Optional[int], Optional[int]]:
    """Busy and total ticks of all cores; guest time is already inside user time."""
    if not stat or not stat[0].startswith("cpu "):
        return None, None
    ticks = [int(text) for text in stat[0].split()[1:9]]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _own_ticks(root: str, pid: str) -> Optional[int]:
    """User and system ticks of a process and its ended children (proc(5), fields 14 to 17)."""
    found = read(root, "proc", pid, "stat").rpartition(")")[2].split()
    return sum(int(text) for text in found[11:15]) if len(found) > 15 else None


def _temperature(root: str) -> Optional[float]:
    """The hottest sensor in degrees Celsius; readings outside 1..150 are broken sensors."""
    zones = [millis / 1000 for millis in _numbers(glob.glob(_join(root, "sys/class/thermal/thermal_zone*/temp")))]
    return max((celsius for celsius in zones if 1 <= celsius <= 150), default=None)


def _cooling(root: str) -> Optional[int]:
    devices = glob.glob(_join(root, "sys/class/thermal/cooling_device*"))
    slowing = [one for one in devices if any(word in _text(_join(one, "type")) for word in ("cpufreq", "Processor"))]
    return max(_numbers(_join(device, "cur_state") for device in slowing), default=None)


def _pi_bits(root: str) -> Optional[int]:
    """The Raspberry Pi's throttle word, from the firmware driver or else from vcgencmd."""
    text = read(root, "sys/devices/platform/soc/soc:firmware/get_throttled")
    if not text:
        text = vcgencmd(root, "get_throttled").partition("throttled=")[2]
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def _physical_cores(root: str) -> int:
    topologies = _cpus(root, "topology")
    return len({(read(path, "physical_package_id"), read(path, "core_id")) for path in topologies})


def _quota(root: str) -> Optional[float]:
    """CPUs that the control group allows, None without a limit."""
    quota, _, period = read(root, "sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit():
        return int(quota) / int(period)
    files = [_join(root, "sys/fs/cgroup/cpu/cpu.cfs_{}_us".format(name)) for name in ("quota", "period")]
    old = list(_numbers(files))
    return old[0] / old[1] if len(old) == 2 and old[0] > 0 else None  # a quota of -1 is none


def _cpus(root: str, name: str) -> List[str]:
    return glob.glob(_join(root, "sys/devices/system/cpu/cpu[0-9]*", name))


def _numbers(paths: Iterable[str]) -> Any:
    """The whole numbers in those files that hold one."""
    for path in paths:
        with contextlib.suppress(ValueError):
            yield int(_text(path))


def _sum(numbers: Iterable[int]) -> Optional[int]:
    listed = list(numbers)
    return sum(listed) if listed else None


def _join(root: str, *parts: str) -> str:
    return os.path.join(root, *parts)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
