"""The timing loop: warming up, blocks of consecutive runs, rounds in ABBA order.

Used in this process by ``edgewise.measure.latency`` and on boards by ``edgewise.device.jobs``, so that both take time
in the same way. The syntax is that of Python 3.6 and only numpy is needed. All times are ns of the clock that is given.
"""

import time
from typing import Any, Callable, List, Optional, Sequence

import numpy as np

SETTLE_RUNS = 2  # untimed runs at the start of each block, after which the caches hold this model
WARM_RUNS = 10  # least runs before anything counts
WARM_WINDOW = 20  # warm is when the medians of two windows of so many runs, one after the other, agree
WARM_AGREEMENT = 0.02  # how near those medians are, as a share of the earlier

Clock = Callable[[], int]
Run = Callable[[int], None]

if hasattr(time, "perf_counter_ns"):
    clock_ns = time.perf_counter_ns  # novermin
else:  # Python 3.6

    def clock_ns() -> int:
        """Monotonic, in ns."""
        return int(time.perf_counter() * 1e9)


class Length:
    """How long a block is: at least so many runs, then until so many ns have passed, but never above `most` runs."""

    def __init__(self, least: int, ns: float = 0, most: Optional[int] = None) -> None:
        self.least = least
        self.ns = ns
        self.most = least if most is None else most


class Series:
    """One subject being timed, and its blocks so far; `again` marks the reference's second series of the A/A check.

    `run_model` and `run_e2e` take the number of the turn, which chooses the picture; `run_e2e` is None where that
    clock cannot be taken.
    """

    def __init__(self, name: str, again: bool, run_model: Run, run_e2e: Optional[Run], length: Any = None) -> None:
        self.name = name
        self.again = again
        self.run_model = run_model
        self.run_e2e = run_e2e
        self.length = length  # a `Length`
        self.warm = []  # type: List[int]
        self.model = []  # type: List[Any]
        self.e2e = []  # type: List[Any]


def time_block(run: Run, clock: Clock, first: int, length: Length, settle: int = SETTLE_RUNS) -> List[int]:
    """The ns of consecutive runs on the images from `first` on, after `settle` untimed ones."""
    for turn in range(settle):
        run(first + turn)
    taken = []  # type: List[int]
    begin = clock()
    turn = first
    while True:
        start = clock()
        run(turn)
        end = clock()
        taken.append(end - start)
        turn += 1
        count = len(taken)
        if count >= length.least and (end - begin >= length.ns or count >= length.most):
            return taken


def warm_up(run: Run, clock: Clock, least_ns: float, cap_ns: float) -> List[int]:
    """Run until warm: enough runs, `least_ns`, and two windows whose medians agree, but no longer than `cap_ns`."""
    start = clock()
    taken = []  # type: List[int]
    while True:
        taken += time_block(run, clock, 0, Length(WARM_RUNS), 0)
        passed = clock() - start
        if passed >= cap_ns or (passed >= least_ns and settled(taken)):
            return taken


def settled(taken: Sequence[int]) -> bool:
    """Whether the medians of the last two windows agree."""
    if len(taken) < 2 * WARM_WINDOW:
        return False
    earlier, later = np.median(taken[-2 * WARM_WINDOW : -WARM_WINDOW]), np.median(taken[-WARM_WINDOW:])
    return bool(abs(later - earlier) <= WARM_AGREEMENT * earlier)


def run_rounds(
    series: Sequence[Series],
    orders: Sequence[Sequence[int]],
    clock: Clock,
    on_round: Callable[[], None],
    pack: Callable[[List[int]], Any] = list,
) -> None:
    """In each round, every series runs a block of the model clock in the order given, then one of the e2e clock.

    `pack` stores a block; it runs outside what is timed.
    """
    for turn, order in enumerate(orders):
        for index in order:
            one = series[index]
            one.model.append(pack(time_block(one.run_model, clock, turn * one.length.least, one.length)))
        for index in order:
            one = series[index]
            if one.run_e2e is not None and not one.again:
                one.e2e.append(pack(time_block(one.run_e2e, clock, turn * one.length.least, one.length)))
        on_round()
