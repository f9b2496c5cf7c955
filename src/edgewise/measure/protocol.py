"""How long and how often ``edgewise bench`` measures: the protocols, and what makes one shorter than it should be."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class EnergyPlan:
    """When the power is read: idle before and after, blocks at full pace, and one stretch at a camera's pace."""

    idle_s: float = 60.0
    block_s: float = 10.0
    blocks: int = 5
    per_second: float = 5.0
    paced_s: float = 30.0


@dataclass(frozen=True)
class Protocol:
    """What one cell takes; a cell is one bundle at one number of threads.

    Each of `launches` fresh processes loads all bundles and runs `rounds` rounds in ABBA order. `seconds` is the time
    of each clock of a bundle over all launches, `least_runs` its least number of runs, `most_runs` the most (None: as
    many as fit). `cold` is the number of cold starts, `energy` None where the power is not read. `interleaved` is False
    where each bundle runs alone, so that its heat is its own.
    """

    name: Literal["quick", "standard", "sustained"]
    launches: int
    rounds: int
    seconds: float
    least_runs: int
    most_runs: int | None
    warm_s: float
    warm_cap_s: float
    cold: int
    cool_s: float = 300.0
    e2e: bool = True
    interleaved: bool = True
    energy: EnergyPlan | None = None
    shortened: bool = False

    @property
    def block_s(self) -> float:
        """Time of one block of one clock."""
        return self.seconds / (self.launches * self.rounds)

    @property
    def least_block(self) -> int:
        """Least runs of one block."""
        return -(-self.least_runs // (self.launches * self.rounds))

    @property
    def most_block(self) -> int | None:
        """Most runs of one block."""
        return None if self.most_runs is None else max(1, self.most_runs // (self.launches * self.rounds))

    @property
    def label(self) -> str:
        """The name as it stands beside figures."""
        return f"{self.name}, shortened" if self.shortened else self.name


PROTOCOLS = {
    "quick": Protocol("quick", 1, 32, 1.0, 100, 1000, 0.0, 1.0, cold=3, cool_s=0.0),
    "standard": Protocol("standard", 6, 4, 60.0, 1024, None, 1.0, 30.0, cold=6, energy=EnergyPlan()),
    "sustained": Protocol(
        "sustained", 1, 60, 600.0, 60, None, 0.0, 1.0, cold=3, e2e=False, interleaved=False, energy=EnergyPlan()
    ),
}
"""Modelled on the single-stream rules of the field: quick compares files of one session, standard is for publishing,
sustained shows what ten minutes of work do to the clock, as windows of 10 s."""


def shorten(protocol: Protocol, seconds: float | None, launches: int | None) -> Protocol:
    """The protocol with another length; marked as shortened where it falls below its own."""
    changed = dataclasses.replace(
        protocol,
        seconds=protocol.seconds if seconds is None else seconds,
        launches=protocol.launches if launches is None else launches,
        cold=protocol.cold if launches is None else max(launches, 1),
    )
    short = changed.seconds < protocol.seconds or changed.launches < min(protocol.launches, 5)
    if not short or changed == protocol:
        return changed
    plan = protocol.energy
    share = min(1.0, changed.seconds / protocol.seconds)
    if plan is not None:
        plan = dataclasses.replace(
            plan, idle_s=plan.idle_s * share, block_s=plan.block_s * share, paced_s=plan.paced_s * share
        )
    return dataclasses.replace(
        changed,
        least_runs=max(changed.launches * changed.rounds, int(protocol.least_runs * share)),
        warm_s=protocol.warm_s * share,
        warm_cap_s=max(min(1.0, protocol.warm_cap_s), protocol.warm_cap_s * share),
        energy=plan,
        shortened=True,
    )
