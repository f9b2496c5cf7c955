"""One connection's patience: a head that does not come, or a client that does nothing, ends it.

uvicorn limits how long an idle connection is kept after an answer, but not how long the head of a request may take; a
few hundred clients that send a byte now and then would hold all connections for ever. What is added here stands around
uvicorn's protocol, which does all else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from edgewise.serve.limits import Limits
from edgewise.serve.page import HEADERS
from edgewise.serve.refusals import RETRY_AFTER_S

LOOK_S = 1.0
CLOSING_S = 5.0
"""For a client to take the last bytes of an answer."""


def protocol_factory(limits: Limits) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes a protocol of for each connection."""

    def make(config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> asyncio.Protocol:
        return _Patience(H11Protocol(config, server_state, app_state, _loop), limits)

    return make


class _Patience(asyncio.Protocol):
    """Hands everything on to `inner`, and ends the connection when nothing comes of it."""

    def __init__(self, inner: H11Protocol, limits: Limits) -> None:
        self._inner, self._limits = inner, limits
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._cycle: Any = None
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._since = self._loop.time()
        self._timer = self._loop.call_later(LOOK_S, self._look)
        if len(self._inner.connections) >= self._limits.connections:
            self._refused = True
            transport.write(_BUSY)
            transport.close()
            return
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._inner.data_received(data)
        if self._inner.cycle is not self._cycle:
            self._cycle = self._inner.cycle
            self._since = self._loop.time()
        if self._transport and self._transport.get_protocol() is not self:  # a WebSocket from here on
            self._stop()

    def eof_received(self) -> None:
        if not self._refused:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if not self._refused:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if not self._refused:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if not self._refused:
            self._inner.resume_writing()

    def _look(self) -> None:
        assert self._transport is not None
        now = self._loop.time()
        answering = self._cycle is not None and not self._cycle.response_complete
        if self._transport.is_closing():
            answering, patience = False, CLOSING_S
        else:
            patience = self._limits.head_s
        if answering:
            self._since = now  # the app has limits of its own for this
        elif now - self._since > patience:
            self._transport.abort()
            return
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def _stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None


def _canned() -> bytes:
    body = b'{"error": "V14", "what": "the server is busy", "why": "too many connections"}'
    fields = {
        **HEADERS,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Retry-After": str(RETRY_AFTER_S),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + body


_BUSY = _canned()
