"""A real server on a real port, in a thread or as the command, and clients that say exactly what they are told to."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wsproto
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, RejectConnection, Request, TextMessage

from edgewise.serve.guard import Log
from edgewise.serve.limits import Limits
from edgewise.serve.server import Options, Ready, make_ready
from edgewise.serve.source import Asked


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers in lower case (the last of each name), body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A running server: where it is, its token, and the lines that it logged."""

    port: int
    token: str
    lines: list[str] = field(default_factory=list)
    ready: Ready | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        host: str | None = None,
        timeout: float = 30,
    ) -> Reply:
        """One request on a connection of its own; `token` "" sends none, `host` replaces the Host header."""
        token = self.token if token is None else token
        fields = {"Authorization": f"Bearer {token}"} if token else {}
        fields |= {"Host": host or f"127.0.0.1:{self.port}", **(headers or {})}
        with http_connection(self.port, timeout) as link:
            link.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in fields.items():
                link.putheader(name, value)
            if isinstance(body, bytes) and "Content-Length" not in fields and "Transfer-Encoding" not in fields:
                link.putheader("Content-Length", str(len(body)))
            link.endheaders()
            if body is not None:
                link.send(body)
            return read_reply(link)

    def classify(self, picture: bytes | Path, query: str = "", **headers: str) -> Reply:
        data = picture.read_bytes() if isinstance(picture, Path) else picture
        return self.ask(f"/v1/classify{query}", method="POST", body=data, headers=headers)


@contextmanager
def http_connection(port: int, timeout: float = 30) -> Iterator[http.client.HTTPConnection]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        yield link
    finally:
        link.close()


def read_reply(link: http.client.HTTPConnection) -> Reply:
    response = link.getresponse()
    return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@contextmanager
def serving(
    *bundles: Path, live: Asked | None = None, limits: Limits | None = None, port: int | None = 0, **options: Any
) -> Iterator[Running]:
    """A server in a thread of this process, ended at the end of the block."""
    lines: list[str] = []
    asked = Options(bundles, port=port, live=live, limits=limits or Limits(), **options)
    ready = make_ready(asked, Log(lines.append, lines.append))
    thread = threading.Thread(target=ready.run, name="served")
    thread.start()
    try:
        wait_until(lambda: ready.server.started)
        yield Running(ready.port, ready.access.token, lines, ready)
    finally:
        ready.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def command(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Running]]:
    """`edgewise serve WORDS --json` as a process; killed at the end of the block if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewise", "serve", *words, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.communicate()
            told += line
        facts = json.loads(told)
        yield process, Running(facts["port"], facts["token"])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_until(condition: Any, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Socket:
    """A WebSocket client that sends whatever headers it is given."""

    def __init__(self, running: Running, path: str = "/v1/live", *, host: str = "", **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", running.port), timeout=10)
        self._link = wsproto.WSConnection(ConnectionType.CLIENT)
        extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        request = Request(host=host or f"127.0.0.1:{running.port}", target=path, extra_headers=extra)
        self._socket.sendall(self._link.send(request))
        self._pending: list[Any] = []
        answer = self._event()
        self.status = 101 if isinstance(answer, AcceptConnection) else answer.status_code
        self.headers = {name.decode().lower(): value.decode() for name, value in getattr(answer, "headers", [])}
        assert isinstance(answer, (AcceptConnection, RejectConnection))

    def send(self, text: str) -> None:
        self._socket.sendall(self._link.send(TextMessage(text)))

    def view(self) -> tuple[dict[str, Any], bytes]:
        """The next view: facts and picture. Raises `Closed` at the end."""
        data = b""
        while True:
            event = self._event()
            if isinstance(event, CloseConnection):
                raise Closed(event.code, event.reason or "")
            assert isinstance(event, BytesMessage)
            data += bytes(event.data)
            if event.message_finished:
                (length,) = struct.unpack(">I", data[:4])
                return json.loads(data[4 : 4 + length]), data[4 + length :]

    def next(self) -> tuple[dict[str, Any], bytes]:
        self.send("next")
        return self.view()

    def close(self) -> None:
        self._socket.close()

    def _event(self) -> Any:
        while not self._pending:
            data = self._socket.recv(1 << 16)
            self._link.receive_data(data or None)
            self._pending = list(self._link.events())
        return self._pending.pop(0)


class Closed(Exception):
    """The server closed the WebSocket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code


def listening(pid: int) -> set[str]:
    """The local addresses (as in /proc/net/tcp, "ADDRESS:PORT" in hex) on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found


def resident(pid: int) -> int:
    """Memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) * 1024
