"""Receiving a picture: in pieces, counted as they come, refused as soon as it is clear that it will not be taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from edgewise.errors import DataError
from edgewise.serve.limits import Limits
from edgewise.serve.refusals import busy, malformed, too_large, too_slow


class Intake:
    """The pictures that are being received or wait for their turn: how many, and how many bytes of them are held.

    To be used from one event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.waiting = 0
        self.held = 0

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place for one picture, with its bytes, until the block ends.

        Raises:
            UnavailableError: V14, all places are taken.
        """
        if self.waiting >= self._limits.waiting:
            raise busy(f"{self.waiting} pictures are waiting already")
        self.waiting += 1
        place = Place(self, self._limits)
        try:
            yield place
        finally:
            self.waiting -= 1
            self.held -= place.size


class Place:
    """What one picture holds of an `Intake`."""

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self._intake = intake
        self._limits = limits
        self.size = 0

    def grow(self, count: int) -> None:
        """Hold `count` more bytes.

        Raises:
            DataError: V10, the picture is larger than is taken.
            UnavailableError: V14, all pictures together are.
        """
        if self.size + count > self._limits.upload_bytes:
            raise larger(self._limits)
        if self._intake.held + count > self._limits.held_bytes:
            raise busy(f"the waiting pictures hold {self._intake.held >> 20} MB already")
        self.size += count
        self._intake.held += count


def larger(limits: Limits) -> DataError:
    """The error for an upload of too many bytes."""
    return too_large(f"more than {limits.upload_bytes >> 20} MB", "scale it down, or save it as JPEG, first")


async def read_body(stream: AsyncIterator[bytes], length: str | None, place: Place, limits: Limits) -> bytes:
    """The whole body of a request.

    Args:
        stream: the body in pieces.
        length: the request's Content-Length, which refuses a body before any of it is read; None for a body that is
            sent in chunks, or says nothing.
        place: counts the bytes.
        limits: of the server.

    Raises:
        DataError: V10, too large; V11, too slow; V12, the length is no number.
        UnavailableError: V14, too much at once.
    """
    if length is not None:
        if not length.isascii() or not length.isdigit():
            raise malformed("Content-Length is no number")
        if len(length) > 12 or int(length) > limits.upload_bytes:
            raise larger(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for piece in stream:
                place.grow(len(piece))
                body += piece
    except TimeoutError:
        raise too_slow(limits) from None
    return bytes(body)
