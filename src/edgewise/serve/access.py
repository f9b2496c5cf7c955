"""Who may come in: the one check that every request passes, static files and WebSockets included.

Three things must hold, whatever is asked for:

1. **Host** is a name of this server. A page elsewhere can make its own name point here (DNS rebinding); it cannot make
   the browser send another Host.
2. **Origin**, which browsers send with every request that can change something or that comes from another site, is
   this server. A cookie without an Origin is good for reading only.
3. **The token**, as `Authorization: Bearer TOKEN`; or the cookie that a browser got for it. The token stands in an
   address once, in that of `/`, and is exchanged there for a cookie of another value. Both are compared in constant
   time.

Cookies know no ports: the browser shows this cookie to every server on the same host. Its value is therefore not the
token, its name carries the port, and a request that comes from a page of another port is refused (`Sec-Fetch-Site`).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs

from edgewise.errors import ConfigError

METHODS = ("GET", "HEAD", "POST")
"""What is served at all; anything else is refused whoever asks."""

TOKEN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-._~")
SHORTEST_TOKEN = 16

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI gives them: names in lower case."""


@dataclass(frozen=True)
class Access:
    """What lets a request in.

    `hosts` are the names under which this server may be asked, in lower case; `addresses` lets any IP address stand in
    Host, which no name can be rebound to, for servers that are open to a network.
    """

    token: str = field(repr=False)
    session: str = field(repr=False)
    cookie: str
    hosts: frozenset[str]
    addresses: bool = False


def new_access(port: int, host: str, token: str | None = None, names: Iterable[str] = ()) -> Access:
    """The access of a server on `host`; without `token` a random one of 256 bits.

    Args:
        port: that the server listens on.
        host: address that it is bound to.
        token: at least `SHORTEST_TOKEN` of `TOKEN_CHARACTERS`.
        names: further names under which it may be asked.

    Raises:
        ConfigError: V03, the token is too short or would not stand in an address as it is.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not TOKEN_CHARACTERS.issuperset(token)):
        raise ConfigError(
            "this token will not do",
            code="V03",
            why=f"it needs at least {SHORTEST_TOKEN} letters, digits or -._~",
            fix='leave --token out for a random one, or: EDGEWISE_TOKEN="$(openssl rand -hex 32)"',
        )
    loopback = is_loopback(host)
    known = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in names)}
    return Access(
        token=token or secrets.token_urlsafe(32),
        session=secrets.token_urlsafe(32),
        cookie=f"edgewise-{port}",
        hosts=frozenset(known),
        addresses=not loopback,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address (or a name that is localhost's)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class Verdict:
    """Whether a request is let in: `refused` says why not, "" when it is.

    With `exchange` it came with the token in its address, and gets the cookie and the address without it: by redirect,
    or, where a page of another site was left for it, by a page that goes on by itself, because browsers do not send a
    strict cookie along a redirect that another site began.
    """

    refused: str = ""
    exchange: Literal["", "redirect", "page"] = ""


def judge(
    access: Access, kind: Literal["http", "websocket"], method: str, path: str, query: bytes, headers: Headers
) -> Verdict:
    """Check one request; see the top of this file. `method` of a WebSocket is GET."""
    hosts = _values(headers, b"host")
    host = hosts[0] if len(hosts) == 1 else ""
    if not _known_host(access, host):
        return Verdict("Host is not a name of this server")
    origins = _values(headers, b"origin")
    own = f"http://{host}".lower()
    if any(origin.lower() != own for origin in origins) or len(origins) > 1:
        return Verdict("Origin is another page")
    if method not in METHODS:
        return Verdict("this method is not served")
    changes = kind == "websocket" or method == "POST"
    bearers = _values(headers, b"authorization")
    if bearers:
        scheme, _, word = bearers[0].partition(" ")
        right = len(bearers) == 1 and scheme.lower() == "bearer" and _same(word.strip(), access.token)
        return Verdict("" if right else _NO_TOKEN)
    if kind == "http" and method == "GET" and path == "/" and query:
        given = parse_qs(query.decode("latin-1"), max_num_fields=8) if query.count(b"&") < 8 else {}
        if any(_same(word, access.token) for word in given.get("token", ())):
            return Verdict(exchange="redirect" if _from_here(headers) else "page")
    if not any(_same(value, access.session) for value in _cookies(headers, access.cookie)):
        return Verdict(_NO_TOKEN)
    if not _from_here(headers):
        return Verdict("the request comes from another site")
    if changes and not origins:
        return Verdict("a cookie without Origin is good for reading only")
    return Verdict()


_NO_TOKEN = "no or wrong token"


def _from_here(headers: Headers) -> bool:
    """Whether the user or a page of this server asks, by what the browser says; other clients say nothing."""
    return all(site in ("same-origin", "none") for site in _values(headers, b"sec-fetch-site"))


def _same(given: str, wanted: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


def _cookies(headers: Headers, name: str) -> list[str]:
    pairs = [pair.strip().partition("=") for line in _values(headers, b"cookie") for pair in line.split(";")]
    return [value for key, _, value in pairs if key == name]


def _known_host(access: Access, host: str) -> bool:
    """Whether a Host header names this server; its port may be another, as it is behind `ssh -L`."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", host)
    if not found:
        return False
    name = (found[1] or found[2]).lower()
    if name in access.hosts:
        return True
    if not access.addresses:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
