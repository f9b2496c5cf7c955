"""Receiving a body: counted as it comes, and let go of in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from edgewise.errors import DataError, EdgewiseError, UnavailableError
from edgewise.serve.limits import Limits
from edgewise.serve.upload import Intake, read_body

LIMITS = replace(Limits(), upload_bytes=1 << 20, held_bytes=3 << 20, waiting=4, body_s=0.2)


class Pieces:
    """A body in pieces, which counts how many were asked for."""

    def __init__(self, *pieces: bytes, pause: float = 0.0) -> None:
        self._pieces = pieces
        self._pause = pause
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await asyncio.sleep(self._pause)
            self.given += 1
            yield piece


def received(pieces: Pieces, length: str | None, intake: Intake | None = None) -> bytes:
    async def receive() -> bytes:
        taken = intake or Intake(LIMITS)
        try:
            with taken.place() as place:
                return await read_body(pieces.__aiter__(), length, place, LIMITS)
        finally:
            assert (taken.held, taken.waiting) == (0, 0)

    return asyncio.run(receive())


def test_a_body_is_what_its_pieces_are() -> None:
    assert received(Pieces(b"ab", b"", b"c"), None) == b"abc"
    assert received(Pieces(b"x" * (1 << 20)), str(1 << 20)) == b"x" * (1 << 20)


@pytest.mark.parametrize("length", [str((1 << 20) + 1), "9" * 40])
def test_a_length_that_is_too_large_refuses_before_anything_is_read(length: str) -> None:
    pieces = Pieces(b"x")
    with pytest.raises(DataError, match="too large") as caught:
        received(pieces, length)
    assert caught.value.code == "V10"
    assert pieces.given == 0


def test_without_a_length_it_ends_at_the_piece_that_is_too_much() -> None:
    pieces = Pieces(*[b"x" * (1 << 19)] * 100)
    with pytest.raises(DataError) as caught:
        received(pieces, None)
    assert (caught.value.code, pieces.given) == ("V10", 3)


@pytest.mark.parametrize("length", ["-1", "1.5", "\u0663", "0x10", ""])
def test_a_length_that_is_no_number(length: str) -> None:
    with pytest.raises(DataError) as caught:
        received(Pieces(), length)
    assert caught.value.code == "V12"


def test_a_body_that_drips_is_cut_off() -> None:
    pieces = Pieces(*[b"x"] * 1000, pause=0.02)
    with pytest.raises(DataError) as caught:
        received(pieces, None)
    assert caught.value.code == "V11"
    assert pieces.given < 20


def test_places_and_bytes_of_all_are_counted() -> None:
    async def many() -> list[EdgewiseError]:
        intake, problems = Intake(LIMITS), []
        with intake.place() as one, intake.place() as two, intake.place() as three, intake.place() as four:
            for place in (one, two, three):
                place.grow(1 << 20)
            try:
                four.grow(1)
            except EdgewiseError as problem:
                problems.append(problem)
            try:
                with intake.place():
                    raise AssertionError("a fifth place")
            except UnavailableError as problem:
                problems.append(problem)
        assert (intake.held, intake.waiting) == (0, 0)
        return problems

    assert [problem.code for problem in asyncio.run(many())] == ["V14", "V14"]
