"""Which int8 scheme is kept."""

from __future__ import annotations

from edgewise.export.deliver import _best
from edgewise.results import Candidate


def candidate(scheme: str, f1: float, ratio: float, size: int = 100) -> Candidate:
    return Candidate("base", scheme, f1, f1, 0.0, ratio, size, 0.0, 1.0, passed=True, kept=False)


def test_the_fastest_is_kept_when_it_is_clearly_faster() -> None:
    tried = [candidate("fast", 0.90, 0.5), candidate("right", 0.95, 0.9)]
    assert _best(tried, noise=0.1).scheme == "fast"


def test_of_the_equally_fast_the_most_accurate_then_the_smallest_is_kept() -> None:
    tried = [candidate("fast", 0.90, 0.80), candidate("right", 0.95, 0.86), candidate("lean", 0.95, 0.88, size=90)]
    assert _best(tried, noise=0.1).scheme == "lean"
    assert _best(tried, noise=0.07).scheme == "right"
    assert _best(tried, noise=0.0).scheme == "fast"
