"""What stands around every route: the check of who asks, the headers, the time limit, the count, the log line."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgewise.errors import EdgewiseError
from edgewise.serve.access import Access, judge
from edgewise.serve.limits import Limits
from edgewise.serve.metrics import Metrics
from edgewise.serve.page import HEADERS
from edgewise.serve.refusals import RETRY_AFTER_S, STATUS, answer_of, busy, not_let_in, unexpected


@dataclass(frozen=True)
class Log:
    """Where lines go: `request` is told of every request, `failure` of those that the server failed at.

    No line has a query, a cookie or a token.
    """

    request: Callable[[str], None]
    failure: Callable[[str], None]


GONE = 499
"""Counted for requests whose client went away; never sent."""

NO_ROUTE = "(none)"
"""Counted for requests that were refused before anything was looked up, and for addresses that are not there."""


_GO_ON = '<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>edgewise</title>'


def refusal(problem: EdgewiseError, headers: Mapping[str, str] | None = None) -> Response:
    """An error as the answer to a request; the connection ends where more of the request may be under way."""
    status = STATUS[problem.code]
    more = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    close = {} if status in (404, 405, 422) else {"Connection": "close"}
    body = json.dumps(answer_of(problem), ensure_ascii=False)
    return Response(body, status, {**(headers or {}), **more, **close}, "application/json")


@dataclass
class _Sent:
    """What was sent so far."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=lambda: dict(HEADERS))


def guarded(app: ASGIApp, access: Access, limits: Limits, metrics: Metrics, log: Log) -> ASGIApp:
    """Put the guard around an app."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        sent = _Sent()

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                sent.status = message["status"]
                own = {name.lower().encode() for name in sent.fields}
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in own]
                ours = [(name.lower().encode(), value.encode()) for name, value in sent.fields.items()]
                message = {**message, "headers": [*kept, *ours]}
            elif message["type"] == "websocket.accept":
                sent.status = 101
            elif message["type"] == "websocket.close" and not sent.status:
                sent.status = 403  # what the server makes of a close before the accept
            await send(message)

        try:
            await _answered(app, access, limits, log, sent, scope, receive, sending)
        except ClientDisconnect:
            sent.status = GONE
        finally:
            method = scope.get("method", "WEBSOCKET")
            seconds = time.perf_counter() - started
            metrics.request(
                scope.get("edgewise.route", NO_ROUTE), method if sent.status != 403 else "any", sent.status, seconds
            )
            log.request(f"{method} {scope['path'][:80]!r} {sent.status} {seconds * 1e3:.1f} ms")

    return guard


async def _answered(
    app: ASGIApp, access: Access, limits: Limits, log: Log, sent: _Sent, scope: Scope, receive: Receive, send: Send
) -> None:
    """Refuse, exchange the token, or let the app answer."""
    is_http = scope["type"] == "http"
    method = scope["method"] if is_http else "GET"
    verdict = judge(access, scope["type"], method, scope["path"], scope["query_string"], scope["headers"])
    if verdict.refused:
        await refusal(not_let_in(verdict.refused))(scope, receive, send)
        return
    if verdict.exchange:
        cookie = f"{access.cookie}={access.session}; Path=/; HttpOnly; SameSite=Strict"
        go_on = Response(b"", 303, {"Location": "/"}) if verdict.exchange == "redirect" else HTMLResponse(_GO_ON)
        go_on.headers["Set-Cookie"] = cookie
        await go_on(scope, receive, send)
        return
    if not is_http:
        await app(scope, receive, send)
        return
    try:
        async with asyncio.timeout(limits.answer_s):
            await app(scope, receive, send)
    except TimeoutError:
        if not sent.status:
            await refusal(busy(f"no answer within {limits.answer_s:g} s"))(scope, receive, send)
    except ClientDisconnect:
        raise
    except Exception:  # noqa: BLE001 - one request that fails must not end the server, nor show its traceback to the asker
        log.failure(f"error[V08]: {method} {scope['path'][:80]!r}\n{traceback.format_exc()}")
        if not sent.status:
            await refusal(unexpected())(scope, receive, send)
