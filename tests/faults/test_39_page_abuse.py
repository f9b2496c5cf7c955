"""Case 39: foreign Host, foreign Origin, no or wrong token, methods, WebSockets, frames, leaks of the token."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewise.serve.page import FILES, HEADERS
from edgewise.serve.source import Asked
from tests.device.tiny import make_bundle
from tests.serve.serving import Running, Socket, command, listening, serving, wait_until

ROUTES = (
    *FILES,
    "/v1/model",
    "/v1/openapi.json",
    "/v1/classify",
    "/metrics",
    "/healthz",
    "/nothing",
    "/files/../../etc/passwd",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("abused") / "made")


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Running]:
    """A server with a live source, so that its WebSocket has something to hide."""
    with serving(tiny, live=Asked("synthetic:64x48@30")) as running:
        yield running


ABUSES: dict[str, dict[str, object]] = {
    "no token": {"token": ""},
    "wrong token": {"token": "x" * 43},
    "token in the address": {"token": "", "query": True},
    "foreign Host": {"host": "evil.example:80"},
    "rebound name": {"host": "127.0.0.1.evil.example"},
    "foreign Origin": {"headers": {"Origin": "http://evil.example"}},
    "null Origin": {"headers": {"Origin": "null"}},
    "another port's Origin": {"headers": {"Origin": "http://127.0.0.1:1"}},
    "cookie of another server": {"token": "", "headers": {"Cookie": "edgewise-1=x"}},
}


@pytest.mark.parametrize("abuse", ABUSES)
def test_every_route_answers_403_and_nothing_else(server: Running, abuse: str) -> None:
    given = dict(ABUSES[abuse])
    query = f"?token={server.token}" if given.pop("query", False) else ""
    for path in ROUTES:
        if query and path == "/":
            continue  # the one address at which a token is taken
        for method in ("GET", "HEAD", "POST"):
            reply = server.ask(path + query, method=method, **given)  # type: ignore[arg-type]
            assert reply.status == 403, (path, method)
            assert {name.lower(): value for name, value in HEADERS.items()}.items() <= reply.headers.items()
            assert "access-control-allow-origin" not in reply.headers
            assert "set-cookie" not in reply.headers
            if method != "HEAD":
                assert reply.json()["error"] == "V05"
            assert server.token.encode() not in reply.body


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused_even_with_the_token(server: Running, method: str) -> None:
    for path in ROUTES:
        headers = {"Origin": server.address.rstrip("/"), "Access-Control-Request-Method": "POST"}
        assert server.ask(path, method=method).status == 403, path
        reply = server.ask(path, method=method, headers=headers)
        assert reply.status == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers(server: Running) -> None:
    for path in ROUTES:
        reply = server.ask(path)
        assert {name.lower(): value for name, value in HEADERS.items()}.items() <= reply.headers.items(), path
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert policy.startswith("default-src 'none'")
    assert HEADERS["X-Frame-Options"] == "DENY"
    assert HEADERS["X-Content-Type-Options"] == "nosniff"
    assert HEADERS["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/v1/live", "/", "/v1/classify", "/nothing"])
def test_websockets_are_checked_the_same_way(server: Running, path: str) -> None:
    token = f"Bearer {server.token}"
    for host, headers in (
        ("", {}),
        ("", {"Authorization": "Bearer wrong"}),
        ("", {"Authorization": token, "Origin": "http://evil.example"}),
        ("", {"Authorization": token, "Origin": "null"}),
        ("evil.example", {"Authorization": token}),
        ("", {"Cookie": f"edgewise-{server.port}={session(server)}"}),  # a cookie without an Origin
    ):
        refused = Socket(server, path, host=host, **headers)
        refused.close()
        assert refused.status == 403, (host, headers)


def session(server: Running) -> str:
    """The value of the cookie that the token is exchanged for."""
    reply = server.ask(f"/?token={server.token}", token="")
    found = re.fullmatch(
        rf"edgewise-{server.port}=([\w-]+); Path=/; HttpOnly; SameSite=Strict", reply.headers["set-cookie"]
    )
    assert found
    return found[1]


def test_the_token_is_exchanged_for_a_cookie_and_leaves_the_address(server: Running) -> None:
    reply = server.ask(f"/?token={server.token}", token="")
    assert (reply.status, reply.headers["location"], reply.body) == (303, "/", b"")
    cookie = {"Cookie": f"edgewise-{server.port}={session(server)}"}
    assert session(server) != server.token
    assert server.ask("/", token="", headers=cookie).status == 200
    assert server.ask("/v1/model", token="", headers=cookie).status == 200
    assert server.ask("/v1/model", token="", headers={**cookie, "Sec-Fetch-Site": "same-site"}).status == 403
    post = {"method": "POST", "body": b"", "token": ""}
    assert server.ask("/v1/classify", headers=cookie, **post).status == 403  # type: ignore[arg-type]
    own = {**cookie, "Origin": server.address.rstrip("/")}
    assert server.ask("/v1/classify", headers=own, **post).status == 422  # type: ignore[arg-type]
    allowed = Socket(server, **own)
    assert allowed.status == 101
    assert allowed.next()[0]["state"] in ("live", "no signal")
    allowed.close()


def test_the_token_is_in_no_log_and_no_answer(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(tiny) as running:
        for path in (
            f"/?token={running.token}",
            f"/v1/model?token={running.token}",
            f"/x?{running.token}",
            "/",
            "/v1/model",
        ):
            for headers in ({}, {"Referer": f"http://127.0.0.1/?token={running.token}"}):
                reply = running.ask(path, headers=headers)
                assert running.token.encode() not in reply.body
                assert running.token not in str(reply.headers)
        Socket(running, f"/v1/live?token={running.token}").close()
        with socket.create_connection(("127.0.0.1", running.port)) as link:
            link.sendall(f"BAD REQUEST {running.token}\r\n\r\n".encode())
            assert b"400" in link.recv(1000)
        wait_until(lambda: len(running.lines) == 11)
        assert running.token not in "\n".join(running.lines)
    told = capfd.readouterr()
    assert running.token not in told.out + told.err


def test_the_command_listens_on_loopback_only_and_logs_no_token(tiny: Path) -> None:
    with command(str(tiny), "--log", "--port", "0") as (process, running):
        assert running.ask(f"/?token={running.token}", token="").status == 303
        assert running.ask("/v1/model").status == 200
        assert running.ask("/v1/model", token="wrong").status == 403
        assert listening(process.pid) == {f"0100007F:{running.port:04X}"}
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert running.token not in said.replace(f"page: {running.address}?token={running.token}", "").replace(
        f"'Authorization: Bearer {running.token}'", ""
    )
    assert re.findall(r"^GET '(\S+)' (\d+)", said, re.M) == [("/", "303"), ("/v1/model", "200"), ("/v1/model", "403")]


def test_tokens_are_compared_in_constant_time(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False  # whoever does not ask this function would still be let in

    monkeypatch.setattr("hmac.compare_digest", watched)
    cookie = {"Cookie": f"edgewise-{server.port}=some"}
    assert server.ask("/v1/model").status == 403
    assert server.ask("/v1/model", token="", headers=cookie).status == 403
    assert server.ask(f"/?token={server.token}", token="").status == 403
    assert len(compared) == 3
    assert {other for _, other in compared} >= {server.token.encode()}
