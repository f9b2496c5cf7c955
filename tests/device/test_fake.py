"""The fake runtime: scripted time, scores that depend on the picture alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgewise.device import Runtime
from edgewise.device.fake import FakeClock, FakeRuntime, Script
from edgewise.errors import UntrustedError

BATCH = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_time_passes_only_as_scripted(tmp_path: Path) -> None:
    clock = FakeClock()
    runtime: Runtime = FakeRuntime(clock)
    session = runtime.load(Script(3, delays_ns=(250,)).write(tmp_path / "m.json"), threads=2)
    assert clock() == 0
    session.scores(BATCH)
    session.scores(BATCH)
    assert clock() == 500
    assert session.describe() == {"runtime": "fake", "version": "0", "provider": "script", "threads": "2"}
    assert runtime.version() == "0"


def test_delays_are_drawn_from_the_script_with_its_seed(tmp_path: Path) -> None:
    path = Script(3, seed=5, delays_ns=(100, 300)).write(tmp_path / "m.json")

    def drawn() -> list[int]:
        clock = FakeClock()
        session = FakeRuntime(clock).load(path)
        taken = []
        for _ in range(200):
            before = clock()
            session.scores(BATCH[:1])
            taken.append(clock() - before)
        return taken

    assert drawn() == drawn()
    assert set(drawn()) == {100, 300}


def test_a_slowdown_stretches_the_work() -> None:
    clock = FakeClock(lambda now: 1 + now / 1000)
    clock.advance(1000)
    clock.advance(1000)
    assert clock() == 1000 + 2000


def test_scores_depend_on_the_picture_and_the_seed_alone(tmp_path: Path) -> None:
    def scores(seed: int, batch: np.ndarray) -> np.ndarray:
        return FakeRuntime(FakeClock()).load(Script(3, seed).write(tmp_path / "m.json")).scores(batch)

    assert scores(0, BATCH).shape == (2, 3)
    assert scores(0, BATCH).dtype == np.float32
    np.testing.assert_array_equal(scores(0, BATCH)[1:], scores(0, BATCH[1:]))
    assert not np.array_equal(scores(0, BATCH)[0], scores(0, BATCH)[1])
    assert not np.array_equal(scores(0, BATCH), scores(1, BATCH))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"classes": 0, "seed": 0, "delays_ns": [1]}', '{"classes": 2, "seed": 0, "delays_ns": []}'],
)
def test_what_is_no_script_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(UntrustedError, match=r"error\[U20\]: the fake runtime refuses this model file"):
        FakeRuntime(FakeClock()).load(path)
