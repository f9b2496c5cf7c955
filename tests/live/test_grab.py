"""The grabber: newest for cameras, every one for files; silence, loss and return."""

from __future__ import annotations

import threading
import time

import pytest

from edgewise.errors import UnavailableError
from edgewise.live.fake import Act, FakeSource
from edgewise.live.grab import AHEAD, Grabber, Over, Quiet, Taken
from edgewise.live.pictures import SyntheticSource
from edgewise.live.wanted import Wanted


def numbers(grabber: Grabber, rest: float = 0.0) -> tuple[list[int], list[int]]:
    """The frames' numbers, and how many were dropped before each."""
    taken, dropped = [], []
    while not isinstance(got := grabber.take(1.0), Over):
        assert isinstance(got, Taken)
        taken.append(got.frame.number)
        dropped.append(got.dropped)
        time.sleep(rest)
    assert got.problem is None
    return taken, dropped


def test_every_frame_of_a_file_is_given_however_slow_the_loop_is() -> None:
    grabber = Grabber(FakeSource([Act("moving", 12)], live=False), "every")
    assert numbers(grabber, 0.01) == (list(range(12)), [0] * 12)
    grabber.close()


def test_the_newest_frame_is_given_and_the_others_are_counted() -> None:
    grabber = Grabber(FakeSource([Act("moving", 60)], fps=200), "newest")
    taken, dropped = numbers(grabber, 0.03)
    assert taken == sorted(taken)
    assert len(taken) < 40
    assert taken[-1] == 59
    assert sum(dropped) == 60 - len(taken)
    assert [before + 1 + missing for before, missing in zip(taken, dropped[1:], strict=False)] == taken[1:]
    grabber.close()


def test_a_taken_frame_of_a_camera_is_the_last_one_however_slow_the_loop_is() -> None:
    source = SyntheticSource("s", Wanted(32, 32, 50))
    grabber = Grabber(source, "newest")
    for _ in range(12):
        time.sleep(0.07)
        given = source._number
        got = grabber.take(10.0)
        assert isinstance(got, Taken)
        assert got.frame.number >= given - 2  # the last one may be on its way
    grabber.close()


def test_no_more_is_read_ahead_than_said() -> None:
    source = FakeSource([Act("moving", 50)], live=False)
    grabber = Grabber(source, "every")
    time.sleep(0.1)
    assert source._number <= AHEAD + 1
    grabber.close()


def test_a_camera_that_stalls_is_told_after_the_timeout_and_goes_on() -> None:
    grabber = Grabber(FakeSource([Act("moving"), Act("stall", seconds=0.3), Act("moving")]), "newest")
    assert isinstance(grabber.take(1.0), Taken)
    got = grabber.take(0.05)
    assert got == Quiet("fake has given no frame for 0.05 s")
    assert isinstance(grabber.take(2.0), Taken)
    grabber.close()


def test_a_lost_camera_is_opened_again_with_growing_waits() -> None:
    source = FakeSource([Act("moving"), Act("lost"), Act("absent", 2), Act("moving", 2)], fps=100)
    grabber = Grabber(source, "newest", source.reopen, back_off=(0.05, 0.1, 0.15))
    notes = []
    start = time.perf_counter()
    while not isinstance(got := grabber.take(20.0), Over):
        if isinstance(got, Quiet) and got.note not in notes:
            notes.append(got.note)
    assert notes == [
        "fake is lost (unplugged), trying again in 0.05 s",
        "no camera fake (cameras here: none), trying again in 0.1 s",
        "no camera fake (cameras here: none), trying again in 0.15 s",
    ]
    assert 0.3 <= time.perf_counter() - start < 20.0  # news is told at once, not after the timeout
    assert source.opened == 4
    grabber.close()
    assert source.closed


def test_frames_from_before_a_loss_are_not_given_after_it() -> None:
    source = FakeSource([Act("moving", 3), Act("lost"), Act("stall", seconds=0.2), Act("moving")])
    grabber = Grabber(source, "newest", source.reopen, back_off=(0.01,))
    time.sleep(0.1)
    got = grabber.take(2.0)
    while isinstance(got, Quiet):
        got = grabber.take(2.0)
    assert isinstance(got, Taken)
    assert (got.frame.number, got.dropped) == (3, 3)
    grabber.close()


def test_a_lost_source_that_cannot_be_opened_again_ends_with_its_error() -> None:
    grabber = Grabber(FakeSource([Act("moving"), Act("lost")]), "every")
    assert isinstance(grabber.take(1.0), Taken)
    got = grabber.take(1.0)
    assert isinstance(got, Over)
    assert isinstance(got.problem, UnavailableError)
    grabber.close()


def test_any_error_of_a_driver_comes_to_the_loop() -> None:
    source = FakeSource([Act("moving")])
    source.read = lambda: 1 // 0  # type: ignore[assignment, method-assign]
    grabber = Grabber(source, "newest")
    got = grabber.take(1.0)
    assert isinstance(got, Over)
    assert isinstance(got.problem, ZeroDivisionError)
    grabber.close()


@pytest.mark.parametrize("policy", ["newest", "every"])
def test_closing_ends_the_thread_and_the_source(policy: str) -> None:
    before = threading.active_count()
    source = FakeSource([Act("moving", 10_000)], fps=500)
    grabber = Grabber(source, policy)  # type: ignore[arg-type]
    grabber.take(1.0)
    grabber.close()
    grabber.close()
    assert source.closed
    assert threading.active_count() == before
