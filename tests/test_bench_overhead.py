"""`python -m benchmarks.bench_overhead`: its ratios, what it refuses, and its clock of a start."""

from __future__ import annotations

import re

import numpy as np
import pytest
from benchmarks.bench_overhead import alternate, compared, main, start_ms, until_line

BUSY = "import time\nend = time.thread_time() + {}\nwhile time.thread_time() < end: pass\n"
LINE = "print(1, flush=True)\n"


@pytest.mark.parametrize("pairs", ["0", "3", "4"])
def test_too_few_pairs_for_an_interval_are_refused(pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["bundle", "--pairs", pairs])
    assert f"{pairs} are too few for an interval: at least 5" in capsys.readouterr().err


def test_the_least_pairs_give_an_interval_of_finite_width() -> None:
    """Pairs that are nearly alike but one: resampling them ended in an overflow."""
    one = np.array([1.0] * 8 + [2.0, 2.0]) + np.arange(10) * 1e-12
    found = compared(one, np.ones(10))
    assert found.startswith("1.1 [0.8, 1.7], 10 turns each")


@pytest.mark.parametrize(("spread", "digits"), [(0.001, 3), (0.02, 3), (0.2, 2), (1.0, 1)])
def test_no_more_digits_than_the_interval_leaves(spread: float, digits: int) -> None:
    ours = np.exp(np.repeat(np.random.default_rng(0).normal(0, spread, 20), 2))
    number = rf"\d\.\d{{{digits}}}"
    assert re.match(rf"{number} \[{number}, {number}\], 40 turns each", compared(ours, np.ones(40)))


@pytest.mark.parametrize(
    ("ratio", "spread", "verdict"),
    [(1.0, 0.01, "shown"), (1.1, 0.01, "missed"), (0.9, 0.01, "missed"), (1.02, 0.05, "not decided")],
)
def test_a_target_is_shown_only_by_the_whole_interval(ratio: float, spread: float, verdict: str) -> None:
    noise = np.repeat(np.random.default_rng(1).normal(0, spread, 16), 2)
    assert f"within 3%: {verdict}" in compared(ratio * np.exp(noise), np.ones(32), 0.03)


def test_a_drift_falls_out_of_programs_that_take_turns() -> None:
    time = iter(range(10_000))
    found = alternate({name: lambda: (1.0 + next(time) / 100,) for name in "abc"}, 6)
    assert [len(found[name]) for name in "abc"] == [12, 12, 12]
    sums = [figures.reshape(-1, 2).sum(axis=1) for figures in found.values()]
    np.testing.assert_allclose(sums[0], sums[1])
    np.testing.assert_allclose(sums[0], sums[2])


def test_the_clock_of_a_start_counts_the_work_before_the_first_line_only() -> None:
    before, _ = until_line(["-c", BUSY.format(0.2) + LINE])
    after, _ = until_line(["-c", LINE + BUSY.format(0.2)])
    waiting, _ = until_line(["-c", "import time\ntime.sleep(0.2)\n" + LINE])
    assert before > 200 > after
    assert waiting < 200
    assert start_ms(["-c", "import time\ntime.sleep(0.2)\n" + LINE]) > 200


def test_peak_memory_is_that_of_the_process_and_not_of_who_started_it() -> None:
    held = np.ones(64 << 20, np.uint8)  # this process is larger than the one that it starts
    _, small = until_line(["-c", LINE])
    _, large = until_line(["-c", "held = b'1' * (32 << 20)\n" + LINE])
    _, later = until_line(["-c", LINE + "held = b'1' * (32 << 20)\n"])
    assert small < 40 < held.nbytes / 1e6
    assert large == pytest.approx(small + 32, abs=3)
    assert later == pytest.approx(small, abs=3)


def test_a_program_that_fails_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="without a line"):
        until_line(["-c", "raise SystemExit(1)"])
    for clock in (until_line, start_ms):
        with pytest.raises(RuntimeError, match="ended with 3"):
            clock(["-c", LINE + "raise SystemExit(3)"])
