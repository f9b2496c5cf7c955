"""The short form of `python -m benchmarks.serve load`: many clients at once, and no request fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.serve import Load, load, load_lines, served


@pytest.mark.slow
def test_eight_clients_are_served_without_an_error(tiny: Path, pictures: dict[str, Path]) -> None:
    with served(tiny) as (_, port, token):
        found = load(port, token, [path.read_bytes() for path in pictures.values()], clients=8, seconds=5)
    assert found.failed == []
    assert set(found.statuses) == {200}
    assert found.statuses[200] == len(found.answered) > 100
    assert load_lines(found, 8)[0].startswith("8 clients, ")


def test_the_words_of_a_load_leave_out_what_too_few_requests_cannot_say() -> None:
    times = [(at / 10, 0.001 * (1 + at % 10)) for at in range(100)]
    found = Load(times, failed=["OSError: gone"], took=10.0)
    found.statuses.update({200: 99, 503: 1})
    first, *percentiles = load_lines(found, 2)
    assert first == (
        "2 clients, 10.0 s: n = 100, 10 a second, errors 2 (statuses {200: 99, 503: 1}, connections ['OSError: gone'])"
    )
    assert [line.split()[0] for line in percentiles] == ["p50", "p90"]  # p99 needs 459
    assert np.isclose(float(percentiles[1].split()[1]), 9.0)
