"""Power sensors made up below a root, and a vcgencmd that answers as a Raspberry Pi 5 does."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewise.device.power import Meter, Source, describe_source, find_source, pmic_watts

PMIC = """  3V7_WL_SW_A current(0)=0.05855840A
   3V3_SYS_A current(1)=0.10000000A
  VDD_CORE_A current(7)=1.50000000A
   3V3_SYS_V volt(9)=3.30000000V
 3V7_WL_SW_V volt(8)=3.70000000V
  VDD_CORE_V volt(15)=0.80000000V
     EXT5V_V volt(24)=5.14000000V
      BATT_V volt(25)=0.00292000V
"""
PMIC_WATTS = 0.0585584 * 3.7 + 0.1 * 3.3 + 1.5 * 0.8


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lay(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


def hwmon(number: int, name: str, **files: str) -> dict[str, str]:
    place = f"sys/class/hwmon/hwmon{number}"
    return {f"{place}/name": name, **{f"{place}/{key}": text for key, text in files.items()}}


def rapl(package: int, name: str, energy: int, limit: int = 1_000_000) -> dict[str, str]:
    place = f"sys/class/powercap/intel-rapl:{package}"
    return {f"{place}/name": name, f"{place}/energy_uj": str(energy), f"{place}/max_energy_range_uj": str(limit)}


JETSON = hwmon(
    2,
    "ina3221",
    in1_label="VDD_IN",
    in1_input="5000",
    curr1_input="1200",
    in2_label="VDD_CPU",
    in2_input="5000",
    curr2_input="400",
    in4_label="sum",
)


def watts_of(root: str) -> tuple[Source, float]:
    source, _ = find_source(root)
    assert source is not None
    assert source.watts is not None
    watts = source.watts()
    assert watts is not None
    return source, watts


def test_a_machine_without_a_sensor_says_so(tmp_path: Path) -> None:
    assert find_source(str(tmp_path)) == (None, "this device has no power sensor that the kernel knows")
    assert describe_source(*find_source(str(tmp_path))) == {
        "source": None,
        "why": "this device has no power sensor that the kernel knows",
    }


def test_a_jetsons_whole_module_is_one_rail(tmp_path: Path) -> None:
    source, watts = watts_of(lay(tmp_path, JETSON))
    assert (source.name, source.boundary) == ("INA3221 (hwmon)", "whole module (VDD_IN)")
    assert watts == pytest.approx(6.0)


def test_rails_are_added_where_none_is_the_whole(tmp_path: Path) -> None:
    files = {name: text.replace("VDD_IN", "VDD_GPU") for name, text in JETSON.items()}
    source, watts = watts_of(lay(tmp_path, files))
    assert source.boundary == "sum of the rails VDD_CPU, VDD_GPU"
    assert watts == pytest.approx(8.0)


def test_a_rail_that_cannot_be_read_gives_no_figure(tmp_path: Path) -> None:
    root = lay(tmp_path, JETSON)
    source, _ = find_source(root)
    assert source is not None
    (tmp_path / "sys/class/hwmon/hwmon2/curr1_input").write_text("")
    assert source.watts is not None
    assert source.watts() is None


def test_a_monitor_of_its_own_is_worth_more_than_rails(tmp_path: Path) -> None:
    source, watts = watts_of(lay(tmp_path, {**JETSON, **hwmon(5, "ina226", power1_input="7250000")}))
    assert source.name == "ina226 (hwmon)"
    assert watts == 7.25
    assert find_source(lay(tmp_path / "b", hwmon(0, "coretemp", power1_input="1")))[0] is None


def test_the_pi_5_adds_its_rails(tmp_path: Path) -> None:
    command = tmp_path / "usr/bin/vcgencmd"
    lay(tmp_path, {"usr/bin/vcgencmd": f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && cat <<EOF\n{PMIC}EOF'})
    command.chmod(0o755)
    source, watts = watts_of(str(tmp_path))
    assert source.name == "PMIC (vcgencmd)"
    assert "left out" in source.boundary
    assert watts == pytest.approx(PMIC_WATTS)
    assert pmic_watts('error=1 error_msg="Command not registered"') is None  # a Pi 4


def test_rapl_counts_and_its_counter_wraps(tmp_path: Path) -> None:
    root = lay(tmp_path, {**rapl(0, "package-0", 900_000), **rapl(1, "psys", 5), **rapl(2, "package-1", 10)})
    source, _ = find_source(root)
    assert source is not None
    assert (source.name, source.watts) == ("RAPL", None)
    assert "CPU package only" in source.boundary
    clock = Clock()
    meter = Meter(source, clock)
    meter.sample()
    clock.now = 1.0
    lay(tmp_path, {**rapl(0, "package-0", 950_000), **rapl(2, "package-1", 30)})
    meter.sample()
    clock.now = 2.0
    lay(tmp_path, {**rapl(0, "package-0", 100_000), **rapl(2, "package-1", 50)})  # 950,000 -> 1,000,000 = 0 -> 100,000
    meter.sample()
    assert [when for when, _ in meter.samples] == [0.0, 1.0, 2.0]
    assert [joules for _, joules in meter.samples] == pytest.approx([0.0, 0.05002, 0.20004])


def test_rapl_that_only_root_may_read_is_told(tmp_path: Path) -> None:
    files = {**rapl(0, "package-0", 1)}
    files["sys/class/powercap/intel-rapl:0/energy_uj"] = ""  # what a refused reading looks like
    source, why = find_source(lay(tmp_path, files))
    assert source is None
    assert "only root may read it (since CVE-2020-8694)" in why


def test_watts_are_added_up_as_trapezoids_and_a_failed_reading_is_bridged() -> None:
    clock = Clock()
    readings = iter([2.0, 4.0, None, 4.0])
    meter = Meter(Source("s", "b", 0.1, watts=lambda: next(readings)), clock)
    for when in (0.0, 1.0, 2.0, 4.0):
        clock.now = when
        meter.sample()
    assert meter.samples == [(0.0, 0.0), (1.0, 3.0), (4.0, 15.0)]
