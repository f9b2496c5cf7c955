"""Where a bench runs: this machine, or a device behind the system's ssh; and what its ssh means when it fails."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgewise.errors import ConfigError, UnavailableError

CONNECT_S = 10
VENV = "$HOME/.local/share/edgewise/bench-venv"
"""What `--install` makes on a device, and all that it makes."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]*")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]+")
_OFFENDING = re.compile(r"Offending \S+ key in (.+):(\d+)")
_NO_WAY = ("refused", "timed out", "No route", "resolve hostname", "unreachable", "reset by", "Connection closed")


@dataclass(frozen=True)
class Target:
    """A device behind ssh; `config` takes the place of the user's ssh configuration."""

    host: str
    user: str | None = None
    port: int | None = None
    config: Path | None = None

    @property
    def url(self) -> str:
        """As it was given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    def by_hand(self) -> str:
        """The ssh command to try by hand."""
        return shlex.join(["ssh", *self._place()])

    def words(self, command: str) -> list[str]:
        """The ssh command line: no prompt is ever shown, and no host key ever accepted."""
        options = [
            "BatchMode=yes",
            f"ConnectTimeout={CONNECT_S}",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=3",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
        ]
        return ["ssh", "-T", *(word for option in options for word in ("-o", option)), *self._place(), command]

    def _place(self) -> list[str]:
        config = ["-F", str(self.config)] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        user = ["-l", self.user] if self.user else []
        return [*config, *port, *user, self.host]


def parse_target(url: str, config: Path | None = None) -> Target:
    """Read ``ssh://user@host:port``.

    Raises:
        ConfigError: C96, it is not such an address, or a part of it would be read as a flag.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        host, user = parts.hostname or "", parts.username
    except ValueError:
        parts, port, host, user = urlsplit(""), None, "", None
    good = parts.scheme == "ssh" and parts.password is None and not (parts.path.strip("/") or parts.query)
    if not good or not _HOST.fullmatch(host) or (user is not None and not _NAME.fullmatch(user)):
        raise ConfigError(
            "not the address of a device",
            code="C96",
            where={"--device": url},
            why="a device is ssh://USER@HOST or ssh://USER@HOST:PORT; a password is never taken",
            fix="for example --device ssh://pi@192.168.1.20; leave --device away to measure this machine",
        )
    return Target(host, user, port, config)


def remote_command(program: str, python: str | None) -> str:
    """The command for the login shell of a device, whichever shell that is: python3 with a program of one argument.

    The interpreter that `--install` made is taken where it is there.
    """
    chosen = f"p={shlex.quote(python)}" if python else f'p=python3; v="{VENV}/bin/python"; [ -x "$v" ] && p="$v"'
    script = (
        f'{chosen}; if ! command -v "$p" >/dev/null 2>&1; then echo \'EDGEWISE-BENCH {{"problem": "no-python"}}\'; '
        f'exit 127; fi; exec "$p" -u -c {shlex.quote(program)}'
    )
    return f"exec /bin/sh -c {shlex.quote(script)}"


def ssh_failure(target: Target, told: str) -> UnavailableError:
    """What it means that ssh ended without reaching the device.

    Args:
        target: the device.
        told: what ssh wrote to standard error.
    """
    where = {"device": target.url}
    by_hand = f"try by hand: {target.by_hand()}"
    if "IDENTIFICATION HAS CHANGED" in told:
        return UnavailableError(
            "the device shows another host key than it did before",
            code="E92",
            where={**where, "key known": _known_key(told), "key shown": _first(_FINGERPRINT, told)},
            why="it was set up anew, another machine has its address, or somebody listens in; nothing was sent",
            fix=f"compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device itself; only if it is "
            f"the key shown: ssh-keygen -R {shlex.quote(_known_name(target))}, then {by_hand}",
        )
    if "Host key verification failed" in told or "host key is known" in told:
        return UnavailableError(
            "the host key of the device is not known",
            code="E92",
            where=where,
            why="edgewise never accepts a host key",
            fix=f"{by_hand} and compare the fingerprint it shows with the device's before you accept it",
        )
    why = "\n".join(line for line in told.strip().splitlines() if line.strip())[-800:]
    if "Permission denied" in told or "Too many authentication failures" in told:
        return UnavailableError(
            "the device does not let us in",
            code="E93",
            where=where,
            why=why,
            fix=f"bench answers no password prompt; set up a key with `ssh-copy-id`, then {by_hand}",
        )
    reach = any(word in told for word in _NO_WAY)
    return UnavailableError(
        "the device cannot be reached" if reach else "ssh ended without reaching the device",
        code="E91",
        where=where,
        why=why or "ssh said nothing",
        fix=f"is it switched on, on this network, and does it run an ssh server? {by_hand}",
    )


def _known_name(target: Target) -> str:
    return f"[{target.host}]:{target.port}" if target.port not in (None, 22) else target.host


def _known_key(told: str) -> str:
    """The fingerprint of the key on the line of known_hosts that ssh names."""
    found = _OFFENDING.search(told)
    if not found:
        return "in your known_hosts"
    try:
        line = Path(found[1]).read_text(encoding="utf-8").splitlines()[int(found[2]) - 1]
        done = subprocess.run(
            ["ssh-keygen", "-l", "-f", "-"], input=line, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, IndexError, subprocess.SubprocessError):
        return f"line {found[2]} of {found[1]}"
    return f"{_first(_FINGERPRINT, done.stdout)} (line {found[2]} of {found[1]})"


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[0] if found else "not told"
