"""A device for the tests: a real sshd on the loopback, with keys, home and temporary folder of its own.

It runs as whoever runs the tests, and nothing of theirs is touched: the client is given its own configuration and
known_hosts, the server its own host keys, and each login goes through a script that sets PATH, HOME and TMPDIR.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewise.measure.target import Target

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "sshd"


@dataclass
class Board:
    """The server and what a client needs to reach it; `python` is the python3 that a login finds."""

    folder: Path
    port: int
    server: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", getpass.getuser(), self.port, self.config)

    @property
    def temp(self) -> Path:
        return self.folder / "tmp"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def use_python(self, python: str | Path, how: str = "") -> None:
        """Let python3 be this interpreter, after the shell words `how`."""
        command = self.folder / "bin/python3"
        command.unlink(missing_ok=True)
        command.write_text(f'#!/bin/sh\n{how}\nexec {python} "$@"\n')
        command.chmod(0o755)

    def use_bare_python(self) -> Path:
        """Let python3 be one without any package; gives its site-packages."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.folder / "bare"], check=True)
        self.use_python(self.folder / "bare/bin/python3")
        return next((self.folder / "bare").glob("lib/python*/site-packages"))

    def left_over(self) -> list[str]:
        """What is in the temporary folder of the device."""
        return sorted(path.name for path in self.temp.iterdir())

    def processes(self) -> list[int]:
        """Processes whose working folder or command lies in the temporary folder, or whose TMPDIR it is."""
        marks = str(self.temp).encode()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marks in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found

    def cut(self) -> None:
        """Kill the server's end of all connections, as a pulled plug does for the network; the server goes on."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        for child in map(int, children):
            for one in [*_descendants(child, "sshd"), child]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited in vain; {self.left_over()}, {self.processes()}"
            time.sleep(0.05)

    def edgewise(self, *words: str) -> list[str]:
        """The command line of edgewise."""
        return [sys.executable, "-m", "edgewise", *words]

    def run(self, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        """`edgewise` with these words, to its end."""
        return subprocess.run(self.edgewise(*words), capture_output=True, text=True, check=False, timeout=120)


@contextlib.contextmanager
def board(folder: Path) -> Iterator[Board]:
    """Start the server; it ends with the block."""
    for name in ("bin", "tmp", "home", "keys"):
        (folder / name).mkdir(parents=True)
    for name in ("host", "user", "other"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / "keys" / name]
        subprocess.run(keygen, check=True)
    port = free_port()
    login = folder / "login"
    login.write_text(
        f"#!/bin/sh\nexport HOME={folder}/home TMPDIR={folder}/tmp PATH={folder}/bin:/usr/bin:/bin\n"
        '[ -f "$HOME/.bashrc" ] && . "$HOME/.bashrc"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    login.chmod(0o755)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/keys/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/keys/user.pub\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nForceCommand {login}\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/keys/user\n  IdentitiesOnly yes\n  IdentityAgent none\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where a server of root must be able to lock itself up
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=(folder / "log").open("wb"))
    made = Board(folder, port, server)
    trust(made, "host")
    made.use_python(sys.executable)
    try:
        made.wait_until(lambda: _listens(port))
        yield made
    finally:
        made.cut()
        server.terminate()
        server.wait()


def trust(made: Board, key: str) -> None:
    """Write this key as the one known of the server."""
    public = (made.folder / f"keys/{key}.pub").read_text()
    made.known_hosts.write_text(f"[127.0.0.1]:{made.port} {public}")


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def fingerprint(made: Board, key: str) -> str:
    """The SHA256 fingerprint of a key of the test."""
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", made.folder / f"keys/{key}.pub"], capture_output=True, text=True, check=True
    )
    return told.stdout.split()[1]


def _descendants(pid: int, name: str) -> list[int]:
    """Processes below this one that have this name, the deepest first."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += _descendants(child, name)
            if Path(f"/proc/{child}/comm").read_text().strip().startswith(name):
                found.append(child)
    return found


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
