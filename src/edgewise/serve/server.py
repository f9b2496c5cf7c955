"""From bundles to a running server: open them, take a port, answer until somebody says stop."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from edgewise.errors import UnavailableError
from edgewise.serve.access import Access, is_loopback, new_access
from edgewise.serve.answers import Opened, open_bundles
from edgewise.serve.app import Parts, build
from edgewise.serve.connection import protocol_factory
from edgewise.serve.guard import Log
from edgewise.serve.limits import Limits
from edgewise.serve.metrics import Metrics
from edgewise.serve.source import Asked, open_views
from edgewise.serve.upload import Intake
from edgewise.serve.watch import Watch

FIRST_PORT = 8000
PORTS_TRIED = 20
LONGEST_MESSAGE = 64
"""Bytes of a message that a page may send over its WebSocket."""


@dataclass(frozen=True)
class Options:
    """What is served and how. `port` None is 8000 or the next free one; `token` None is a random one."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    threads: int = 1
    live: Asked | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Ready:
    """A server that has its port and waits for `run`."""

    address: str
    access: Access
    port: int
    bundles: list[Opened]
    server: uvicorn.Server
    socket: socket.socket
    watch: Watch | None

    @property
    def url(self) -> str:
        """The address with the token, for the user only."""
        return f"{self.address}?token={self.access.token}"

    def run(self) -> None:
        """Answer until SIGINT or SIGTERM (which is raised again when the server has ended), or until `stop`."""
        serving = self.server.serve(sockets=[self.socket])
        try:
            asyncio.run(serving)
        finally:
            serving.close()  # a signal may have come before it began
            self.socket.close()
            if self.watch:
                self.watch.stop()

    def stop(self) -> None:
        """Make `run` return; from any thread."""
        self.server.should_exit = True


def make_ready(options: Options, log: Log | None = None) -> Ready:
    """Open the bundles and take the port.

    Args:
        options: what is served.
        log: where lines go; None for nowhere.

    Raises:
        ConfigError: V03, V04, or the words of the source or detector are wrong.
        UnavailableError: V02, the port; or what a runtime or a source raises.
        UntrustedError: a bundle is damaged.
    """
    bundles = open_bundles(options.bundles, options.threads)
    listening = take_port(options.host, options.port)
    try:
        port: int = listening.getsockname()[1]
        access = new_access(port, options.host, options.token, (*options.names, *own_names(options.host)))
        metrics = Metrics()
        watch = open_watch(options, metrics)
        parts = Parts(
            bundles,
            options.limits,
            metrics,
            Intake(options.limits),
            ThreadPoolExecutor(1, "edgewise-classify"),
            watch,
        )
        app = build(parts, access, log or Log(_nowhere, _nowhere))
        server = uvicorn.Server(_config(app, options.limits))
    except BaseException:
        listening.close()
        raise
    shown = options.host if options.host not in ("0.0.0.0", "::") else socket.gethostname()
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    return Ready(address, access, port, bundles, server, listening, watch)


def _nowhere(_: str) -> None:
    pass


def open_watch(options: Options, metrics: Metrics) -> Watch | None:
    """The live source with models of its own: runtimes are not all made for two threads at once."""
    if options.live is None:
        return None
    bundles = open_bundles(options.bundles, options.threads)
    looking = open_views(options.live, bundles[0])
    return Watch(looking.name, looking.views, bundles, options.limits, metrics)


def _config(app: object, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol_factory(limits),  # type: ignore[arg-type]
        loop="asyncio",
        ws="wsproto",
        ws_max_size=LONGEST_MESSAGE,
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        log_level="critical",  # it would say what clients send; the guard logs what is fit to be logged
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )


def own_names(host: str) -> list[str]:
    """The names of this machine, under which a server that is open to a network may be asked."""
    name = socket.gethostname()
    return [] if is_loopback(host) else [name, f"{name}.local"]


def take_port(host: str, port: int | None) -> socket.socket:
    """A socket that is bound to a port of `host`; without `port` to the first free one of twenty.

    Raises:
        UnavailableError: V02, the port is in use, or the address is not this machine's.
    """
    tried = [port] if port is not None else [*range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)]
    problem = OSError()
    for one in tried:
        try:
            return _bound(host, one)
        except OSError as found:
            problem = found
    where = f"{host}:{tried[0]}" if len(tried) == 1 else f"{host}:{tried[0]} to {tried[-1]}"
    raise UnavailableError(
        "cannot listen there",
        code="V02",
        where={"address": where},
        why=problem.strerror or str(problem),
        fix="choose another --port, or leave it out for the first free one from 8000 on"
        if is_loopback(host)
        else "give an address of this machine as --host, and another --port",
    )


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening
