"""Watched threads: results in order, errors handed on, and a file that stands still is named."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edgewise.data import pool
from edgewise.errors import DataError

FILES = [Path(f"dir/{number}.png") for number in range(200)]


def test_results_are_in_order_whoever_ends_first() -> None:
    def work(index: int) -> int:
        time.sleep(0.002 if index < 64 else 0)
        return index * index

    assert pool.each(FILES, work, None) == [index * index for index in range(200)]
    assert pool.each([], work, None) == []


def test_an_error_is_raised_where_the_results_are_awaited() -> None:
    def work(index: int) -> int:
        if index == 70:
            raise OSError(28, "No space left on device")
        return index

    with pytest.raises(OSError, match="No space left"):
        pool.each(FILES, work, None)


def test_a_file_that_stands_still_is_named_and_nobody_waits_for_it() -> None:
    never = threading.Event()

    def work(index: int) -> int:
        if index == 77:
            never.wait(30)
        return index

    started = time.monotonic()
    with pytest.raises(DataError, match="reading a file stands still") as caught:
        pool.each(FILES, work, None, patience=0.3)
    never.set()
    assert time.monotonic() - started < 10
    assert (caught.value.code, caught.value.exit_code) == ("D33", 3)
    assert caught.value.where == {"file": "dir/77.png"}


def test_slow_files_that_go_on_are_no_standstill() -> None:
    def work(index: int) -> int:
        time.sleep(0.05)
        return index

    assert pool.each(FILES[:20], work, None, patience=0.6) == list(range(20))
