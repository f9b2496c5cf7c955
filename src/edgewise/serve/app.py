"""The server: one table of addresses, each answered by a few lines here."""

from __future__ import annotations

import asyncio
import functools
import json
import struct
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgewise.errors import EdgewiseError
from edgewise.serve import metrics as counting
from edgewise.serve.access import Access
from edgewise.serve.answers import Opened, answer, open_picture, told
from edgewise.serve.guard import Log, guarded, refusal
from edgewise.serve.limits import Limits
from edgewise.serve.metrics import Metrics
from edgewise.serve.multipart import is_multipart, read_picture
from edgewise.serve.openapi import document
from edgewise.serve.page import page_files
from edgewise.serve.refusals import bad_threshold, not_here, not_so, unexpected
from edgewise.serve.upload import Intake, read_body
from edgewise.serve.watch import Watch

TRY_AGAIN_LATER, POLICY_VIOLATION, GOING_AWAY = 1013, 1008, 1001
"""WebSocket close codes (RFC 6455; 1013 as registered with IANA)."""

VIEW_WAIT_S = 0.5
"""A page that waits for the next view is told after so long that there is none."""

SEND_S = 10.0
"""For a page to take one view."""


@dataclass(frozen=True)
class Parts:
    """What the routes are made of."""

    bundles: list[Opened]
    limits: Limits
    metrics: Metrics
    intake: Intake
    worker: ThreadPoolExecutor
    watch: Watch | None = None


Handler = Callable[[Request], Awaitable[Response]]


def build(parts: Parts, access: Access, log: Log) -> ASGIApp:
    """The whole server as an ASGI app; its end stops the live source and the worker."""
    app = Starlette(
        routes=routes(parts),
        exception_handlers={HTTPException: _no_such_route, EdgewiseError: _refused, Exception: _failed},
        lifespan=_lifespan(parts),
    )
    app.router.redirect_slashes = False
    return guarded(app, access, parts.limits, parts.metrics, log)


def routes(parts: Parts) -> list[BaseRoute]:
    """The table: everything that can be asked for."""
    description = _json(document(parts.limits))
    facts = _json(model_facts(parts))
    found: list[BaseRoute] = [
        _route("/v1/classify", functools.partial(_classify, parts), "POST"),
        _route("/v1/model", _fixed(facts, "application/json"), "GET"),
        _route("/v1/openapi.json", _fixed(description, "application/json"), "GET"),
        _route("/metrics", functools.partial(_metrics, parts), "GET"),
        _route("/healthz", functools.partial(_health, parts), "GET"),
        WebSocketRoute("/v1/live", functools.partial(_live, parts)),
    ]
    return found + [_route(at, _fixed(file.content, file.media_type), "GET") for at, file in page_files().items()]


def model_facts(parts: Parts) -> dict[str, Any]:
    """What `GET /v1/model` answers."""
    return {
        "edgewise": metadata.version("edgewise"),
        "models": [opened.facts() for opened in parts.bundles],
        "source": parts.watch.name if parts.watch else None,
        "limits": {
            "upload_bytes": parts.limits.upload_bytes,
            "pixels": parts.limits.pixels,
            "body_s": parts.limits.body_s,
            "stale_s": parts.limits.stale_s,
        },
    }


def classify(parts: Parts, data: bytes, threshold: float | None) -> dict[str, Any]:
    """Decode a picture and ask each bundle; runs in the worker's one thread.

    Raises:
        DataError: the picture is refused.
    """
    start = time.perf_counter()
    image = open_picture(data, parts.limits)
    decoded = {"decode": (time.perf_counter() - start) * 1e3}
    said = [answer(opened, image) for opened in parts.bundles]
    parts.metrics.stages("upload", "", decoded)
    for opened, one in zip(parts.bundles, said, strict=True):
        parts.metrics.stages("upload", opened.title, one.ms)
    return {
        "width": image.width,
        "height": image.height,
        "ms": {stage: round(ms, 3) for stage, ms in decoded.items()},
        "results": [told(opened, one, threshold) for opened, one in zip(parts.bundles, said, strict=True)],
    }


async def _classify(parts: Parts, request: Request) -> Response:
    threshold = _threshold(request.query_params.get("threshold"))
    kind = request.headers.get("content-type", "")
    with parts.intake.place() as place:
        body = await read_body(request.stream(), request.headers.get("content-length"), place, parts.limits)
        name, data = read_picture(kind, body) if is_multipart(kind) else ("", body)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(parts.worker, classify, parts, data, threshold)
    return Response(_json({"name": name, **found}), media_type="application/json")


def _threshold(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise bad_threshold(text) from None
    if not 0 <= value <= 1:
        raise bad_threshold(text)
    return value


async def _metrics(parts: Parts, _: Request) -> Response:
    text = parts.metrics.text(parts.intake.waiting, parts.watch.figures() if parts.watch else None)
    return Response(text, headers={"Content-Type": counting.CONTENT_TYPE})


async def _health(parts: Parts, _: Request) -> Response:
    live = parts.watch.newest().view.state if parts.watch else None
    return Response(_json({"status": "ok", "live": live}), media_type="application/json")


async def _live(parts: Parts, socket: WebSocket) -> None:
    """The live view: the page says `next`, and gets the newest view that it has not seen.

    One binary message per view: the length of the facts (4 bytes, big-endian), the facts (JSON), the picture (JPEG).
    `state` is that of the view, or "same" when there is no newer one yet.
    """
    socket.scope["edgewise.route"] = "/v1/live"
    watch = parts.watch
    await socket.accept()
    if watch is None or watch.viewers >= parts.limits.viewers:
        reason = "no live source" if watch is None else "too many pages watch already"
        await socket.close(POLICY_VIOLATION if watch is None else TRY_AGAIN_LATER, reason)
        return
    watch.viewers += 1
    number = 0
    try:
        while not watch.ended:
            if await socket.receive_text() != "next":
                await socket.close(POLICY_VIOLATION, "only `next` is understood")
                return
            number = await _send_view(watch, socket, number)
        await _send_view(watch, socket, number)
        await socket.close(GOING_AWAY, "the source has ended")
    except (WebSocketDisconnect, TimeoutError, KeyError):  # KeyError: a binary message, which has no text
        pass
    finally:
        watch.viewers -= 1


async def _send_view(watch: Watch, socket: WebSocket, number: int) -> int:
    """Send the newest view; its number."""
    sight = await watch.after(number, VIEW_WAIT_S)
    if sight.number == number and sight.view.state == "live":
        facts, picture = {"state": "same"}, b""  # a sign of life; what the page shows is still the newest
    else:
        facts, picture = await asyncio.get_running_loop().run_in_executor(None, watch.message, sight)
    head = _json(facts)
    async with asyncio.timeout(SEND_S):
        await socket.send_bytes(struct.pack(">I", len(head)) + head + picture)
    return sight.number


async def _no_such_route(_: Request, problem: Exception) -> Response:
    status = getattr(problem, "status_code", 404)
    if status == 405:
        return refusal(not_so(), getattr(problem, "headers", None))
    return refusal(not_here())


async def _refused(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, EdgewiseError)
    return refusal(problem)


async def _failed(_: Request, __: Exception) -> Response:
    """The answer only: Starlette raises the error again, and the guard logs it."""
    return refusal(unexpected())


def _route(path: str, handler: Handler, method: str) -> Route:
    """A route that is counted under its own path."""

    async def counted(request: Request) -> Response:
        request.scope["edgewise.route"] = path
        return await handler(request)

    return Route(path, counted, methods=[method])


def _fixed(content: bytes, media_type: str) -> Handler:
    async def send(_: Request) -> Response:
        return Response(content, headers={"Content-Type": media_type})

    return send


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _lifespan(parts: Parts) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Any) -> Any:
        if parts.watch:
            parts.watch.start()
        try:
            yield
        finally:
            if parts.watch:
                await asyncio.to_thread(parts.watch.stop)
            parts.worker.shutdown(wait=False, cancel_futures=True)

    return lifespan
