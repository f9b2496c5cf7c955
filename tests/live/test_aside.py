"""A detector beside the loop: when its answers come, and which are not wanted any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from edgewise.device import Pixels
from edgewise.live.aside import Aside
from edgewise.live.base import Box
from edgewise.live.track import Tracker

PICTURE = np.zeros((48, 64, 3), np.uint8)


class Slow:
    """Finds one box, as wide as the number of its calls, when it is let go on."""

    name = "slow"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0
        self.threads: set[str] = set()

    def find(self, pixels: Pixels) -> list[Box]:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        assert self.go.wait(20)
        return [Box(0, 0, self.calls, 1)]


@pytest.fixture
def slow() -> Iterator[Slow]:
    detector = Slow()
    yield detector
    detector.go.set()


def test_without_a_lag_an_answer_comes_as_soon_as_it_is_there_and_nobody_waits(slow: Slow) -> None:
    aside, mark = Aside(slow, None), Tracker(4).mark()
    assert aside.answer() is None
    aside.later(PICTURE, mark)
    assert [aside.answer() for _ in range(50)] == [None] * 50
    assert aside.busy
    slow.go.set()
    while (answer := aside.answer()) is None:
        pass
    assert answer[0] is mark
    assert answer[1].boxes == [Box(0, 0, 1, 1)]
    assert not aside.busy
    aside.close()


def test_with_a_lag_it_comes_after_just_so_many_frames_also_when_it_was_there_before(slow: Slow) -> None:
    slow.go.set()
    aside = Aside(slow, 3)
    for call in (1, 2):
        aside.later(PICTURE, Tracker(4).mark())
        while aside._asked is not None and not aside._asked.answer.done():
            pass
        answers = [aside.answer() for _ in range(4)]
        assert [answer is None for answer in answers] == [True, True, False, True]
        assert answers[2] is not None
        assert answers[2][1].boxes == [Box(0, 0, call, 1)]
    aside.close()


def test_with_a_lag_it_is_waited_for(slow: Slow) -> None:
    aside = Aside(slow, 1)
    aside.later(PICTURE, Tracker(4).mark())
    threading.Timer(0.05, slow.go.set).start()
    answer = aside.answer()
    assert answer is not None
    assert answer[1].ms >= 40
    aside.close()


def test_what_is_asked_for_now_is_answered_now_and_takes_the_place_of_what_was_to_come(slow: Slow) -> None:
    aside = Aside(slow, None)
    aside.later(PICTURE, Tracker(4).mark())
    slow.go.set()
    assert aside.now(PICTURE) == [Box(0, 0, slow.calls, 1)]
    assert not aside.busy
    assert aside.answer() is None
    assert len(slow.threads) == 1  # a cascade must not be used by two at once
    assert threading.current_thread().name not in slow.threads
    aside.close()


def test_an_error_of_the_detector_reaches_the_loop() -> None:
    class Broken:
        name = "broken"

        def find(self, pixels: Pixels) -> list[Box]:
            raise RuntimeError("no memory")

    aside = Aside(Broken(), 1)
    with pytest.raises(RuntimeError, match="no memory"):
        aside.now(PICTURE)
    aside.later(PICTURE, Tracker(4).mark())
    with pytest.raises(RuntimeError, match="no memory"):
        aside.answer()
    aside.close()


def test_closing_ends_the_thread(slow: Slow) -> None:
    aside = Aside(slow, None)
    aside.later(PICTURE, Tracker(4).mark())
    slow.go.set()
    aside.close()
    assert not any(thread.name.startswith("edgewise-detect") for thread in threading.enumerate())
