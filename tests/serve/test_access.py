"""Who is let in: every rule by itself, without a server."""

from __future__ import annotations

import pytest

from edgewise.errors import ConfigError
from edgewise.serve.access import Access, Verdict, judge, new_access

ACCESS = new_access(8000, "127.0.0.1", "a-token-of-the-tests")
OPEN = new_access(8000, "0.0.0.0", "a-token-of-the-tests", ["board.local"])
BEARER = (b"authorization", b"Bearer a-token-of-the-tests")
COOKIE = (b"cookie", f"other=1; edgewise-8000={ACCESS.session}".encode())


def asked(
    *headers: tuple[bytes, bytes],
    access: Access = ACCESS,
    host: bytes | None = b"127.0.0.1:8000",
    method: str = "GET",
    path: str = "/v1/model",
    query: bytes = b"",
    kind: str = "http",
) -> Verdict:
    hosts = [(b"host", host)] if host is not None else []
    return judge(access, kind, method, path, query, [*hosts, *headers])  # type: ignore[arg-type]


def test_the_token_or_its_cookie_lets_in() -> None:
    assert asked(BEARER) == asked(COOKIE) == Verdict()
    assert asked(COOKIE, (b"sec-fetch-site", b"same-origin")) == Verdict()
    assert asked(COOKIE, (b"origin", b"http://127.0.0.1:8000"), method="POST") == Verdict()
    assert asked(BEARER, method="POST") == Verdict()


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer a-token-of-the-test"),
        (b"authorization", b"Bearer "),
        (b"authorization", b"Basic a-token-of-the-tests"),
        (b"authorization", "Bearer \u00e9\u00e9".encode()),
        (b"cookie", b"edgewise-8000=a-token-of-the-tests"),  # the token is no cookie
        (b"cookie", f"edgewise-8001={ACCESS.session}".encode()),
        (b"cookie", b"edgewise-8000="),
        (b"x-nothing", b""),
    ],
)
def test_nothing_else_does(header: tuple[bytes, bytes]) -> None:
    assert asked(header).refused == "no or wrong token"


def test_a_wrong_token_is_not_mended_by_a_cookie() -> None:
    assert asked((b"authorization", b"Bearer wrong"), COOKIE).refused
    assert asked(BEARER, (b"authorization", b"Bearer wrong")).refused


@pytest.mark.parametrize(
    "host",
    [
        *(b"rebound.example:8000", b"127.0.0.1.example", b"localhost.", b"127.0.0.1:8000@x", b"", b"127.0.0.1:80 00"),
        *(None, b"192.168.1.7:8000", b"[::1", b"::1", b"2130706433", b"127.1"),
    ],
)
def test_foreign_hosts_are_refused_whatever_the_token(host: bytes | None) -> None:
    assert asked(BEARER, host=host).refused == "Host is not a name of this server"


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:9000", b"127.0.0.1", b"[::1]:8000"])
def test_own_hosts_may_come_by_another_port(host: bytes) -> None:
    assert asked(BEARER, host=host) == Verdict()  # as through ssh -L


def test_two_hosts_are_none() -> None:
    assert asked(BEARER, (b"host", b"127.0.0.1:8000")).refused


@pytest.mark.parametrize(
    "origin", [b"http://evil.example", b"null", b"http://127.0.0.1:8001", b"https://127.0.0.1:8000"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_origins_are_refused_whatever_the_token(origin: bytes, method: str) -> None:
    assert asked(BEARER, (b"origin", origin), method=method).refused == "Origin is another page"


def test_a_cookie_alone_changes_nothing() -> None:
    assert asked(COOKIE, method="POST").refused == "a cookie without Origin is good for reading only"
    assert asked(COOKIE, kind="websocket").refused
    assert asked(COOKIE, (b"origin", b"http://127.0.0.1:8000"), kind="websocket") == Verdict()
    assert asked(BEARER, kind="websocket") == Verdict()


@pytest.mark.parametrize("site", [b"same-site", b"cross-site", b"anything"])
def test_a_page_of_another_port_cannot_use_the_cookie(site: bytes) -> None:
    assert asked(COOKIE, (b"sec-fetch-site", site)).refused == "the request comes from another site"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_methods_that_are_never_served(method: str) -> None:
    assert asked(BEARER, method=method).refused == "this method is not served"


def test_the_token_is_exchanged_at_one_address_only() -> None:
    query = b"token=a-token-of-the-tests"
    assert asked(path="/", query=query) == Verdict(exchange="redirect")
    assert asked((b"sec-fetch-site", b"none"), path="/", query=query) == Verdict(exchange="redirect")
    assert asked((b"sec-fetch-site", b"cross-site"), path="/", query=query) == Verdict(exchange="page")
    assert asked(path="/", query=b"token=wrong").refused
    assert asked(path="/", query=query, method="HEAD").refused
    assert asked(path="/v1/model", query=query).refused
    assert asked(path="/", query=query, kind="websocket").refused
    assert asked(path="/", query=b"&".join([b"a=b"] * 20 + [query])).refused
    assert asked((b"origin", b"http://evil.example"), path="/", query=query).refused


def test_a_server_for_a_network_knows_addresses_and_names_but_no_others() -> None:
    for host in (b"192.168.1.7:8000", b"[fe80::1]:8000", b"board.local:8000", b"localhost"):
        assert asked(BEARER, host=host, access=OPEN) == Verdict()
    assert asked(BEARER, host=b"rebound.example:8000", access=OPEN).refused


def test_tokens_are_random_and_given_ones_have_to_be_long() -> None:
    one, other = new_access(1, "127.0.0.1"), new_access(1, "127.0.0.1")
    assert len({one.token, one.session, other.token, other.session}) == 4
    assert len(one.token) >= 43
    assert one.token not in repr(one)
    assert one.session not in repr(one)
    for bad in ("short", "a token with blanks in it", "1234567890123456&"):
        with pytest.raises(ConfigError, match="will not do") as caught:
            new_access(1, "127.0.0.1", bad)
        assert caught.value.code == "V03"
        assert bad not in str(caught.value)
