"""What a machine can say of the power it draws: sensors below a root, read as energy so far.

Sent to boards by ``edgewise bench``; the syntax is that of Python 3.6 and only the standard library is needed. Sources
in order of worth, each with its boundary, what the figure includes and what it leaves out: power monitors that the
kernel knows (INA219, INA226, INA260 ...), the rails of a Jetson (INA3221), the Raspberry Pi 5's power chip, and the CPU
package counters of x86 (RAPL). A model of power is never used in place of a sensor.
"""

import glob
import os
import re
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from edgewise.device.state import read, vcgencmd

_MONITORS = ("ina219", "ina220", "ina226", "ina228", "ina230", "ina231", "ina237", "ina238", "ina260")
_WHOLE = ("VDD_IN", "POM_5V_IN")
_RAIL = re.compile(r"(\w+?)_([AV])\s+(?:current|volt)\(\d+\)=([\d.]+)[AV]")


class Source:
    """One way to learn the power; `watts` reads it now, or `counters` read energy counters in microjoules.

    A counter is (value, the largest value before it starts again at 0).
    """

    def __init__(
        self,
        name: str,
        boundary: str,
        period_s: float,
        watts: Optional[Callable[[], Optional[float]]] = None,
        counters: Optional[Callable[[], List[Tuple[int, int]]]] = None,
    ) -> None:
        self.name = name
        self.boundary = boundary
        self.period_s = period_s
        self.watts = watts
        self.counters = counters


class Meter:
    """Adds up the energy since it was made; each `sample` is (seconds, joules so far)."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._joules = 0.0
        self._last = None  # type: Any
        self.samples = []  # type: List[Tuple[float, float]]

    def sample(self) -> None:
        """Read the sensor once; a reading that fails is left out, and the next one bridges the gap."""
        now = self._clock()
        if self._source.counters is not None:
            counters = self._source.counters()
            if not counters:
                return
            if self._last is not None:
                for (value, limit), (before, _) in zip(counters, self._last):  # noqa: B905 - Python 3.6
                    self._joules += (value - before if value >= before else value - before + limit) / 1e6
            self._last = counters
        elif self._source.watts is not None:
            watts = self._source.watts()
            if watts is None:
                return
            if self._last is not None:
                then, before = self._last
                self._joules += (now - then) * (watts + before) / 2
            self._last = (now, watts)
        self.samples.append((now, self._joules))


def find_source(root: str = "/") -> Tuple[Optional[Source], str]:
    """The best sensor of the machine, or None and why there is none."""
    missing = []  # type: List[str]
    for look in (_monitor, _rails, _pmic, _rapl):
        found, why = look(root)
        if found is not None:
            return found, ""
        if why:
            missing.append(why)
    return None, "; ".join(missing) or "this device has no power sensor that the kernel knows"


def describe_source(source: Optional[Source], why: str) -> Dict[str, Any]:
    """The source as JSON."""
    if source is None:
        return {"source": None, "why": why}
    return {"source": source.name, "boundary": source.boundary, "period_s": source.period_s}


def _monitor(root: str) -> Tuple[Optional[Source], str]:
    for folder, name in _hwmons(root):
        inputs = sorted(glob.glob(os.path.join(folder, "power*_input")))
        if name in _MONITORS and inputs:

            def watts(path: str = inputs[0]) -> Optional[float]:
                microwatts = _number(path)
                return None if microwatts is None else microwatts / 1e6

            return Source(name + " (hwmon)", "what hangs behind this power monitor", 0.1, watts=watts), ""
    return None, ""


def _rails(root: str) -> Tuple[Optional[Source], str]:
    """The three channels of each INA3221: millivolts times milliamperes."""
    rails = {}  # type: Dict[str, Tuple[str, str]]
    for folder, name in _hwmons(root):
        if name != "ina3221":
            continue
        for label in sorted(glob.glob(os.path.join(folder, "in[1-3]_label"))):
            number = os.path.basename(label)[2:3]
            volts = os.path.join(folder, "in{}_input".format(number))
            amperes = os.path.join(folder, "curr{}_input".format(number))
            if os.path.exists(volts) and os.path.exists(amperes):
                rails[_line(label)] = (volts, amperes)
    if not rails:
        return None, ""
    whole = [name for name in _WHOLE if name in rails]
    used = whole[:1] or sorted(rails)
    boundary = "whole module ({})".format(whole[0]) if whole else "sum of the rails {}".format(", ".join(used))
    files = [rails[name] for name in used]

    def watts() -> Optional[float]:
        total = 0.0
        for volts, amperes in files:
            millivolts, milliamperes = _number(volts), _number(amperes)
            if millivolts is None or milliamperes is None:
                return None
            total += millivolts * milliamperes / 1e6
        return total

    return Source("INA3221 (hwmon)", boundary, 0.1, watts=watts), ""


def _pmic(root: str) -> Tuple[Optional[Source], str]:
    if pmic_watts(vcgencmd(root, "pmic_read_adc")) is None:
        return None, ""
    boundary = "rails of the Raspberry Pi's power chip; what hangs on 5 V directly (USB, fan, HATs) is left out"
    return Source("PMIC (vcgencmd)", boundary, 0.5, watts=lambda: pmic_watts(vcgencmd(root, "pmic_read_adc"))), ""


def pmic_watts(answer: str) -> Optional[float]:
    """The sum over rails of current times voltage in an answer of `vcgencmd pmic_read_adc`; None where it has none."""
    rails = {}  # type: Dict[str, Dict[str, float]]
    for name, kind, value in _RAIL.findall(answer):
        rails.setdefault(name, {})[kind] = float(value)
    powers = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == 2]
    return sum(powers) if powers else None


def _rapl(root: str) -> Tuple[Optional[Source], str]:
    folders = sorted(glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:*")))
    packages = [one for one in folders if _line(os.path.join(one, "name")).startswith("package")]
    if not packages:
        return None, ""

    def counters() -> List[Tuple[int, int]]:
        found = []
        for folder in packages:
            value, limit = (_number(os.path.join(folder, name)) for name in ("energy_uj", "max_energy_range_uj"))
            if value is None or limit is None:
                return []
            found.append((value, limit))
        return found

    if not counters():
        return None, "RAPL is there, but only root may read it (since CVE-2020-8694)"
    return Source("RAPL", "CPU package only: no memory, disk, screen or power supply", 1.0, counters=counters), ""


def _hwmons(root: str) -> List[Tuple[str, str]]:
    folders = sorted(glob.glob(os.path.join(root, "sys/class/hwmon/hwmon*")))
    return [(folder, _line(os.path.join(folder, "name"))) for folder in folders]


def _line(path: str) -> str:
    return read(os.path.dirname(path), os.path.basename(path))


def _number(path: str) -> Optional[int]:
    text = _line(path)
    return int(text) if text.lstrip("-").isdigit() else None
