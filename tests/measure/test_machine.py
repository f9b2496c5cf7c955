"""A made-up machine under a temporary root: what it is, and what disturbed it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise.measure import machine
from edgewise.measure.machine import State, describe, other_load, reasons, snapshot

Lay = Callable[[dict[str, str]], Path]


@pytest.fixture
def lay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lay:
    """Writes files below a root and gives the root."""
    monkeypatch.delenv("CI", raising=False)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return write


CPUS = "sys/devices/system/cpu"

PI = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n\n"
    "processor\t: 1\nCPU part\t: 0xd0b\n\nRevision\t: d04170\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/meminfo": "MemTotal:        8244128 kB\nMemFree:  1 kB\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    f"{CPUS}/cpu0/cpufreq/scaling_governor": "ondemand\n",
    f"{CPUS}/cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
    f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "2400000\n",
    f"{CPUS}/cpu1/cpufreq/scaling_cur_freq": "1500000\n",
    f"{CPUS}/cpu0/topology/core_id": "0\n",
    f"{CPUS}/cpu0/topology/physical_package_id": "0\n",
    f"{CPUS}/cpu1/topology/core_id": "1\n",
    f"{CPUS}/cpu1/topology/physical_package_id": "0\n",
    "proc/stat": "cpu  1000 10 200 5000 300 5 15 20 0 0\ncpu0 1 0 0 0\ncpu1 1 0 0 0\nintr 5\n",
    "proc/self/stat": "77 (a) (b)) R 1 2 3 4 5 6 7 8 9 10 300 50 7 3 20 0 1 0 99\n",
    "proc/self/status": "Name:\tpython\nVmSwap:\t      16 kB\n",
    "proc/vmstat": "nr_free_pages 5\npswpin 40\npswpout 2\n",
    "proc/loadavg": "0.52 0.40 0.30 1/200 99\n",
    "sys/class/thermal/thermal_zone0/temp": "61250\n",
    "sys/class/thermal/thermal_zone1/temp": "-273000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
}


# --- What it is -------------------------------------------------------------------------------------------------


def test_a_raspberry_pi_is_described(lay: Lay) -> None:
    facts = describe(lay(PI))
    expected = {
        "model": "Raspberry Pi 5 Model B Rev 1.0",
        "cpu": "Cortex-A76",
        "cores_logical": 2,
        "cores_physical": 2,
        "cores": "2 cores",
        "ram_bytes": 8244128 * 1024,
        "ram": "8 GB",
        "arch": platform.machine(),
        "os": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.6.31+rpt-rpi-2712",
        "governor": "ondemand",
        "frequency_max_mhz": 2400,
        "cpu_quota": None,
        "dotprod": True,
        "avx2": False,
        "vnni": False,
        "vm": False,
        "relative_only": False,
    }
    assert {key: facts[key] for key in expected} == expected
    assert json.loads(json.dumps(facts)) == facts


X86 = {
    "proc/cpuinfo": "".join(
        f"processor\t: {index}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n"
        "flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor\n\n"
        for index in range(4)
    ),
    **{f"{CPUS}/cpu{index}/topology/core_id": str(index // 2) for index in range(4)},
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
}


def test_a_virtual_x86_machine_is_described(lay: Lay) -> None:
    facts = describe(lay(X86))
    expected = {"cpu": "Xeon", "cores": "2 cores, 4 threads", "cpu_quota": 1.5, "vm": True}
    assert {key: facts[key] for key in expected} == expected
    assert [facts[key] for key in ("avx2", "avx512", "vnni", "dotprod")] == [True, True, True, False]
    assert facts["relative_only"] == "virtual machine: the cores are shared with others"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(lay: Lay, files: dict[str, str], quota: float | None) -> None:
    assert describe(lay(files))["cpu_quota"] == quota


def test_ci_runners_and_emulated_cpus_are_relative_only(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay(PI)
    monkeypatch.setenv("CI", "true")
    assert describe(root)["relative_only"] == "CI runner"
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    monkeypatch.delenv("CI")
    assert describe(root)["relative_only"] is False
    assert describe(lay({"proc/cpuinfo": X86["proc/cpuinfo"]}))["relative_only"] == "the CPU is emulated"


def test_the_fingerprint_follows_the_machine_and_not_the_moment(lay: Lay) -> None:
    first = describe(lay(PI))["fingerprint"]
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert describe(lay({f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "600000"}))["fingerprint"] == first
    assert describe(lay({f"{CPUS}/cpu0/cpufreq/scaling_governor": "performance"}))["fingerprint"] != first


def test_a_machine_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    assert snapshot(tmp_path) == State()
    facts = describe(tmp_path)
    assert facts["cpu"] == "unknown"
    assert facts["ram_bytes"] is None
    assert facts["cores_logical"] == os.cpu_count()


def test_this_machine_is_described() -> None:
    facts = describe()
    assert facts["cores_logical"] == os.cpu_count()
    assert facts["kernel"] == platform.release()
    assert facts["ram_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert snapshot().cores == os.cpu_count()


# --- Its state --------------------------------------------------------------------------------------------------


def test_a_snapshot_reads_everything(lay: Lay) -> None:
    assert snapshot(lay(PI)) == State(
        temperature_c=61.25,
        frequency_khz=(2_400_000, 1_500_000),
        governors=("ondemand",),
        load_1min=0.52,
        cores=2,
        busy_ticks=1000 + 10 + 200 + 5 + 15 + 20,
        total_ticks=6550,
        own_ticks=360,
        swapped_pages=42,
        own_swap_bytes=16 * 1024,
        pi_bits=0x50000,
        throttle_events=None,
        cooling=0,
    )


def test_own_time_is_what_the_kernel_charges_us_with() -> None:
    ticks = snapshot().own_ticks
    taken = os.times()
    assert ticks is not None
    assert ticks / os.sysconf("SC_CLK_TCK") == pytest.approx(sum(taken[:4]), abs=0.1)


@pytest.mark.parametrize(
    ("script", "bits"), [("echo throttled=0x50005", 0x50005), ("echo error; exit 1", None), ("echo", None)]
)
def test_vcgencmd_is_asked_where_the_driver_says_nothing(lay: Lay, script: str, bits: int | None) -> None:
    root = lay({"usr/bin/vcgencmd": f'#!/bin/sh\n[ "$1" = get_throttled ] && {script}\n'})
    (root / "usr/bin/vcgencmd").chmod(0o755)
    assert snapshot(root).pi_bits == bits


def test_a_command_that_cannot_run_is_no_error(lay: Lay) -> None:
    assert snapshot(lay({"usr/bin/vcgencmd": "not executable"})).pi_bits is None


# --- Why a cell is invalid --------------------------------------------------------------------------------------


def changed(lay: Lay, files: dict[str, str]) -> list[str]:
    """The reasons when these files of the quiet Pi change during a measurement."""
    quiet = {**PI, "proc/self/status": "VmSwap:\t0 kB\n"}
    before = snapshot(lay(quiet))
    return reasons(before, snapshot(lay(files)))


def test_a_quiet_machine_gives_no_reason(lay: Lay) -> None:
    assert changed(lay, {}) == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "50001"},
            "under-voltage (vcgencmd throttle bits 0x50001)",
        ),
        ({"sys/devices/platform/soc/soc:firmware/get_throttled": "d0008"}, "soft temperature limit"),
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "70000"},
            "clock capped (vcgencmd throttle bits 0x70000)",
        ),
        ({f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "2200000"}, "CPU clock fell 2400 -> 2200 MHz"),
        ({f"{CPUS}/cpu0/cpufreq/scaling_governor": "powersave"}, "governor changed ondemand -> powersave"),
        (
            {"sys/class/thermal/cooling_device1/cur_state": "2"},
            "the CPU was slowed to cool it (cooling device state 2)",
        ),
        ({"proc/vmstat": "pswpin 40\npswpout 12\n"}, "swap was used: 10 pages moved"),
        ({"proc/self/status": "VmSwap:\t4 kB\n"}, "swap was used: 4096 bytes of this process"),
    ],
)
def test_what_disturbs_is_named(lay: Lay, files: dict[str, str], reason: str) -> None:
    (found, *more) = changed(lay, files)
    assert found.startswith(reason) or any(one.startswith(reason) for one in more)


@pytest.mark.parametrize(
    "files",
    [
        {f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "2300000"},  # 4 % less
        {f"{CPUS}/cpu1/cpufreq/scaling_cur_freq": "600000"},  # an idle core
        {"sys/class/thermal/cooling_device0/cur_state": "4"},  # the fan
    ],
)
def test_what_does_not_disturb_is_not(lay: Lay, files: dict[str, str]) -> None:
    assert changed(lay, files) == []


def test_x86_throttle_counts_are_compared(lay: Lay) -> None:
    count = f"{CPUS}/cpu0/thermal_throttle/core_throttle_count"
    before = snapshot(lay({count: "5"}))
    assert reasons(before, snapshot(lay({count: "5"}))) == []
    assert reasons(before, snapshot(lay({count: "8"}))) == ["the CPU was throttled 3 times (thermal_throttle count)"]


def load(busy: int, own: int, total: int = 1000) -> tuple[State, State]:
    before = State(cores=2, busy_ticks=100, total_ticks=500, own_ticks=7)
    return before, State(cores=2, busy_ticks=100 + busy, total_ticks=500 + total, own_ticks=7 + own)


@pytest.mark.parametrize(
    ("busy", "own", "share"), [(500, 500, 0.0), (600, 500, 0.1), (620, 500, 0.12), (490, 500, 0.0), (900, 0, 0.9)]
)
def test_load_of_others_leaves_us_out(busy: int, own: int, share: float) -> None:
    states = load(busy, own)
    assert other_load(*states) == pytest.approx(share)
    expected = [f"other processes used {share:.0%} of the CPUs"] if share > 0.1 else []
    assert reasons(*states) == expected


def test_load_is_not_judged_over_a_moment() -> None:
    assert other_load(*load(30, 0, total=39)) is None
    assert other_load(*load(30, 0, total=40)) == pytest.approx(0.75)
    assert other_load(State(), State()) is None
