"""A machine that grows 20 % slower while it is measured: one after the other against interleaved.

Run it to see the figures that docs/measuring.md prints: ``python tests/measure/drift.py``.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewise.bundle import InputSpec
from edgewise.device.fake import FakeClock, FakeRuntime, Script
from edgewise.measure import machine
from edgewise.measure.intervals import ratio_estimate
from edgewise.measure.latency import ROUNDS, Subject, measure
from edgewise.results import Estimate, Latency

SPEC = InputSpec(8, 8)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
NOISY_MS = tuple(round(1e6 * factor) for factor in np.exp(np.random.default_rng(1).normal(0, 0.03, 200)))
"""A millisecond give or take 3 %, in ns."""


SESSIONS = 20


@dataclass(frozen=True)
class Demonstration:
    """The same two files, equally fast, timed in two ways in many sessions."""

    naive: list[Estimate]
    interleaved: list[Estimate]
    flagged: list[str]

    def __str__(self) -> str:
        lines = [("A A ... B B ...", self.naive), ("interleaved ABBA", self.interleaved)]
        shown = [f"{name:<18}B/A = {mean(found):.3f}, intervals that hold 1: {holding(found)}" for name, found in lines]
        return "\n".join(
            [*shown, f"flagged as invalid: {len(self.flagged)} of {SESSIONS}, the first for: {self.flagged[0]}"]
        )


def mean(found: list[Estimate]) -> float:
    """The mean ratio of the sessions."""
    return float(np.mean([one.value for one in found]))


def holding(found: list[Estimate]) -> str:
    """How many intervals hold the true ratio."""
    return f"{sum(one.low <= 1 <= one.high for one in found)} of {len(found)}"


def slower(total_ns: float) -> FakeClock:
    """A clock on which everything takes 20 % longer after `total_ns`, rising in a straight line."""
    return FakeClock(lambda now: 1 + 0.2 * now / total_ns)


def files(folder: Path, seed: int) -> list[Subject]:
    """Two files that take equally long."""
    return [
        Subject(name, Script(3, 2 * seed + index, NOISY_MS).write(folder / f"{name}.json"), "fake")
        for index, name in enumerate("AB")
    ]


def one_after_the_other(folder: Path, seed: int, runs: int = 192) -> Estimate:
    """The ratio B/A when all runs of A come before all runs of B."""
    clock = slower(2.2e6 * runs)
    blocks = []
    for subject in files(folder, seed):
        session = FakeRuntime(clock).load(subject.path)
        taken = []
        for turn in range(runs):
            start = clock()
            session.scores(IMAGES[turn % 64, None])
            taken.append(clock() - start)
        blocks.append(np.reshape(taken, (ROUNDS, -1)) / 1e6)
    return ratio_estimate(blocks[1], blocks[0], np.random.default_rng(seed))


def interleaved(folder: Path, seed: int) -> Latency:
    """The record of B when `measure` times both."""
    clock = slower(1.57e9)  # about what this session takes
    return measure(
        files(folder, seed),
        IMAGES,
        reference="A",
        spec=SPEC,
        seconds=0.4,
        seed=seed,
        runtimes={"fake": FakeRuntime(clock)},
        clock=clock,
        snapshot=machine.State,
    )["B"]


def demonstrate(folder: Path) -> Demonstration:
    """Both ways, in `SESSIONS` sessions."""
    records = [interleaved(folder, seed) for seed in range(SESSIONS)]
    return Demonstration(
        naive=[one_after_the_other(folder, seed) for seed in range(SESSIONS)],
        interleaved=[record.ratio for record in records if record.ratio],
        flagged=[why for record in records for why in record.invalid_reasons if why.startswith("model drift")],
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        sys.stdout.write(f"{demonstrate(Path(name))}\n")
