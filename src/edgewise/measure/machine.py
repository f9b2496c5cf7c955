"""What machine this is, and whether it was left in peace while something was timed.

Everything is read from files below an injectable root (``/proc``, ``/sys``), so a made-up machine can be tested. What a
machine does not offer is None or empty, never a guess.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise.device import state

OTHER_LOAD = 0.10
"""Largest share of the CPUs that other processes may use during a measurement."""

CLOCK_FALL = 0.05
"""Largest fall of the fastest core's clock during a measurement."""

LEAST_TICKS = 20
"""Other processes' CPU use is not judged over fewer ticks (1/100 s) per core than this."""

SLEPT_S = 1.0
"""Longest time that the machine may have been suspended during a measurement."""

_PI_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True)
class State:
    """The machine at one moment; None or empty where it does not say.

    `busy_ticks` and `total_ticks` add up all cores, `own_ticks` is this process with its children; a tick is 1/100 s.
    `swapped_pages` counts pages moved to or from swap since boot, `own_swap_bytes` is what of this process lies there.
    `pi_bits` is the Raspberry Pi's throttle word, `throttle_events` the x86 kernel's count, `cooling` the largest
    state of a cooling device that slows the CPU, `available_bytes` the memory that programs can still have.
    `slept_s` grows by the seconds that the machine was suspended (its offset means nothing).
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
    available_bytes: int | None = None
    slept_s: float | None = None


def snapshot(root: Path = Path("/")) -> State:
    """Read the state of the machine whose file system is at `root`; takes a few milliseconds."""
    return state_of(state.read_state(str(root)))


def state_of(facts: dict[str, Any]) -> State:
    """A record of what `edgewise.device.state.read_state` said, here or on a board.

    Raises:
        TypeError: a key is not one of `State`.
    """
    lists = {key: tuple(facts.get(key, ())) for key in ("frequency_khz", "governors")}
    return State(**{**facts, **lists})


def reasons(before: State, after: State) -> list[str]:
    """Why figures taken between two snapshots are not to be trusted; empty when nothing speaks against them.

    `before` is to be taken when the machine is already warm and busy, else a governor that clocks up hides a fall.
    """
    found = _throttling(before, after)
    if before.frequency_khz and after.frequency_khz:
        start, end = max(before.frequency_khz), max(after.frequency_khz)
        if end < start * (1 - CLOCK_FALL):
            found.append(f"CPU clock fell {start / 1000:.0f} -> {end / 1000:.0f} MHz")
    slept = (after.slept_s or 0.0) - (before.slept_s or 0.0)
    if before.slept_s is not None and after.slept_s is not None and slept > SLEPT_S:
        found.append(f"the machine was suspended for {slept:.0f} s")
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


def reasons_during(states: Sequence[State]) -> list[str]:
    """Why figures taken while these states were read, one a second, are not to be trusted.

    Between the first and the last everything is looked at; in between, flags, governors and clocks. A clock counts as
    fallen when two neighbouring readings say so: a single one may be caught between two blocks.
    """
    if len(states) < 2:
        return []
    first = states[0]
    found = reasons(first, states[-1])
    for one in states[1:-1]:
        found += _throttling(first, one)
        if one.governors != first.governors:
            found.append(f"governor changed {_join(first.governors)} -> {_join(one.governors)}")
    clocks = [max(one.frequency_khz) for one in states if one.frequency_khz]
    pairs = [max(pair) for pair in itertools.pairwise(clocks)]
    if pairs and min(pairs) < clocks[0] * (1 - CLOCK_FALL) and not any("CPU clock" in why for why in found):
        found.append(f"CPU clock fell {clocks[0] / 1000:.0f} -> {min(pairs) / 1000:.0f} MHz for a while")
    return list(dict.fromkeys(found))


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
    return frozenset(state.cpu_flags(str(root)))


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that processes can still be given without swapping; None where the system does not say."""
    return state.available_bytes(str(root))


def describe(root: Path = Path("/")) -> dict[str, Any]:
    """Flat facts about the machine, fit for JSON.

    `fingerprint` is 12 hexadecimal digits over the facts that must agree before two figures may stand in one ranking.
    `relative_only` is false, or the reason why only ratios mean anything: a virtual machine, an emulator, a CI runner.
    """
    return state.describe(str(root))


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


def _join(names: tuple[str, ...]) -> str:
    return "/".join(names) or "none"
