"""A runtime that computes nothing and waits for nothing: scripted scores, scripted time.

It lets the benchmark itself be tested: a fake session moves a fake clock by the delays of its script, so that true
medians and true ratios are known exactly and no test waits or depends on the machine.

>>> clock = FakeClock()
>>> runtimes = {"fake": FakeRuntime(clock)}  # for `edgewise.measure.latency.measure(..., clock=clock)`
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.device.base import Pixels, Scores
from edgewise.errors import UntrustedError


class FakeClock:
    """A clock in nanoseconds that moves only when it is told to.

    Args:
        slowdown: how many times longer everything takes at a given time in ns; plants a drift.
    """

    def __init__(self, slowdown: Callable[[int], float] | None = None) -> None:
        self._now = 0
        self._slowdown = slowdown

    def __call__(self) -> int:
        """The time in ns."""
        return self._now

    def advance(self, ns: float) -> None:
        """Let `ns` of undisturbed work pass."""
        self._now += round(ns * (self._slowdown(self._now) if self._slowdown else 1.0))


@dataclass(frozen=True)
class Script:
    """The contents of a fake model file.

    `delays_ns` is drawn from with `seed`, one delay an inference; one value means that every inference takes it.
    """

    classes: int
    seed: int = 0
    delays_ns: tuple[int, ...] = (1_000_000,)

    def write(self, path: Path) -> Path:
        """Write it as a model file."""
        content = {"classes": self.classes, "seed": self.seed, "delays_ns": list(self.delays_ns)}
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
        return path


class FakeSession:
    """Scores that depend on nothing but the script's seed and the pixels."""

    def __init__(self, script: Script, clock: FakeClock, threads: int) -> None:
        self._script = script
        self._clock = clock
        self._threads = threads
        self._random = random.Random(script.seed)
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def scores(self, batch: Pixels) -> Scores:
        """Logits (N, classes), the same for the same picture; the clock moves by one delay for each call."""
        self._clock.advance(self._random.choice(self._script.delays_ns))
        return np.stack([self._row(image.tobytes()) for image in batch])

    def _row(self, pixels: bytes) -> NDArray[np.float32]:
        if pixels not in self._known:
            source = np.random.default_rng([self._script.seed, zlib.crc32(pixels)])
            self._known[pixels] = source.standard_normal(self._script.classes, dtype=np.float32)
        return self._known[pixels]

    def describe(self) -> dict[str, str]:
        """Runtime name, version and threads."""
        return {"runtime": "fake", "version": "0", "provider": "script", "threads": str(self._threads)}


@dataclass(frozen=True)
class FakeRuntime:
    """Runs `Script` files against a fake clock; see `edgewise.device.base.Runtime`."""

    clock: FakeClock
    format: str = "fake"
    module: str = "edgewise.device.fake"
    install: str = "pip install edgewise"
    example: str = "logits = np.zeros((1, 1))"

    def load(self, path: Path, threads: int = 1) -> FakeSession:
        """Read a script.

        Raises:
            UntrustedError: the file is not a script.
        """
        try:
            raw: Any = json.loads(path.read_text(encoding="utf-8"))
            script = Script(int(raw["classes"]), int(raw["seed"]), tuple(int(delay) for delay in raw["delays_ns"]))
            if script.classes < 1 or not script.delays_ns:
                raise ValueError("a script has at least one class and one delay")
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UntrustedError(
                "the fake runtime refuses this model file",
                code="U20",
                where={"file": path},
                why=f"{type(problem).__name__}: {problem}",
                fix="write it with edgewise.device.fake.Script(classes=3).write(path)",
            ) from problem
        return FakeSession(script, self.clock, threads)

    def version(self) -> str | None:
        """Always there."""
        return "0"
