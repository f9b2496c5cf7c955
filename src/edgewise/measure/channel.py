"""Talking to the program on the device, be it here or behind ssh: one pipe for files, commands and answers.

`edgewise.device.onboard` is what is at the other end. It is sent as text with each connection, so that nothing has to
be installed there, and it cleans up when the pipe closes.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from edgewise.device import onboard
from edgewise.device.onboard import MARK
from edgewise.device.sending import board_files, boot_programs
from edgewise.errors import UnavailableError
from edgewise.measure.target import Target, remote_command, ssh_failure

BEAT_S = 10.0
"""How often the device hears from us."""

LEASE_S = 60.0
"""How long the program on the device waits for that before it cleans up and ends."""

READY_S = 60.0
"""How long the program may take to answer at first: sshd may look up names, a small board starts Python in seconds."""

ROOM = 8 << 20
"""Bytes of room on the device besides the files that are sent."""

OnLine = Callable[[dict[str, Any]], None]


class Channel:
    """A connection to the program on the device; made by `connect`."""

    def __init__(self, process: subprocess.Popen[bytes], target: Target | None, *, has_edgewise: bool) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self.target = target
        self.has_edgewise = has_edgewise
        self.folder = ""
        self.sent_bytes = 0
        self._process = process
        self._input: IO[bytes] = process.stdin
        self._writing = threading.Lock()
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._told: list[str] = []
        self._closing = threading.Event()
        self._error_reader = threading.Thread(target=self._read_errors, args=(process.stderr,), daemon=True)
        self._threads = [
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True),
            self._error_reader,
            threading.Thread(target=self._beat, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def place(self) -> str:
        """Where the device is, for messages."""
        return self.target.url if self.target else "this machine"

    def greet(self, hello: Mapping[str, Any]) -> None:
        """Send the program and its options, and wait until it is ready.

        Raises:
            UnavailableError: E91 to E94 the device or its python3 is not to be had, E96 no room there.
        """
        program = boot_programs()[1].encode("utf-8")
        with contextlib.suppress(OSError):
            self._write(str(len(program)).encode() + b"\n" + program + json.dumps(hello).encode() + b"\n")
        answer = self._next(READY_S, started=False)
        problem = answer.get("problem")
        if problem in ("no-python", "old-python"):
            had = f"python3 is {answer['version']}" if problem == "old-python" else "there is no python3 on its PATH"
            raise UnavailableError(
                "the device has no Python that can be used",
                code="E94",
                where={"device": self.place},
                why=had,
                fix="python3 of version 3.6 or newer is needed: sudo apt install python3 (bench never does it)",
            )
        if problem == "no-room":
            raise UnavailableError(
                "the device has no room for a temporary folder",
                code="E96",
                where={"device": self.place},
                why="\n".join(answer["tried"]),
                fix="free some space there, or set TMPDIR to a folder that can be written",
            )
        self.folder = str(answer["folder"])

    def put(self, name: str, content: bytes) -> None:
        """Store a file in the temporary folder of the device.

        Raises:
            UnavailableError: E96 the disk is full, E97 the connection ended.
        """
        self._write_command({"do": "put", "name": name, "size": len(content)}, content)
        self.sent_bytes += len(content)
        problem = self._end(600.0, None).get("problem")
        if problem:
            raise UnavailableError(
                "a file cannot be stored on the device",
                code="E96",
                where={"device": self.place, "file": f"{self.folder}/{name}"},
                why=problem,
                fix="free some space there, or set TMPDIR to a folder with more room",
            )

    def ask(self, do: str, within_s: float = 60.0, on_line: OnLine | None = None, **more: Any) -> dict[str, Any]:
        """Send a command and wait for its last answer; `on_line` gets the lines before it.

        Raises:
            UnavailableError: E97 the connection ended, E98 no answer within `within_s`.
        """
        self._write_command({"do": do, **more})
        return self._end(within_s, on_line)

    def run(
        self, words: Sequence[str], timeout_s: float = 120.0, *, power: bool = False, on_line: OnLine | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Run a job of `edgewise.device.jobs` on the device.

        Returns:
            Its lines, and how it ended: `code` (below 0: the signal), `stderr`, `timed_out`, `states`, `energy`.
        """
        lines: list[dict[str, Any]] = []

        def take(answer: dict[str, Any]) -> None:
            lines.append(answer["line"])
            if on_line:
                on_line(answer["line"])

        path = str(Path(onboard.__file__).parents[2]) if self.has_edgewise else ""
        command = {"words": list(words), "timeout_s": timeout_s, "power": power, "path": path}
        return lines, self.ask("run", timeout_s + 60.0, take, **command)

    def close(self) -> None:
        """Let the program clean up and end; what does not end is ended."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._write_command({"do": "bye"})
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self._process.stdout, self._process.stderr):
            if stream:
                stream.close()

    def _end(self, seconds: float, on_line: OnLine | None) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            answer = self._next(deadline - time.monotonic(), started=True)
            if answer.get("end"):
                return answer
            if on_line and "line" in answer:
                on_line(answer)

    def _next(self, seconds: float, *, started: bool) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=max(0.01, seconds))
        except queue.Empty:
            raise UnavailableError(
                "the program on the device does not answer",
                code="E98",
                where={"device": self.place},
                why=self._words() or f"nothing for {seconds:.0f} s",
                fix="is the device overloaded or its login shell waiting for input? try again",
            ) from None
        if answer is None:
            raise self._ended(started=started)
        return answer

    def _ended(self, *, started: bool) -> UnavailableError:
        code = self._process.wait()
        self._error_reader.join(timeout=5)
        if started:
            return UnavailableError(
                "the connection to the device ended",
                code="E97",
                where={"device": self.place},
                why=self._words() or f"the pipe closed (exit code {code})",
                fix="what was measured so far is kept; run the same command with --resume when the device is back",
            )
        if self.target and code == 255:
            return ssh_failure(self.target, self._words())
        return UnavailableError(
            "the program on the device did not start",
            code="E98",
            where={"device": self.place},
            why=self._words() or f"it ended with exit code {code} and without a word",
            fix="does the login shell of that user run commands? try `ssh ... python3 -V` by hand",
        )

    def _words(self) -> str:
        return "".join(self._told)[-4000:].strip()

    def _write_command(self, command: Mapping[str, Any], payload: bytes = b"") -> None:
        try:
            self._write(json.dumps(command).encode() + b"\n" + payload)
        except (OSError, ValueError):
            if command["do"] == "bye":
                return
            raise self._ended(started=True) from None

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._input.write(data)
            self._input.flush()

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            with contextlib.suppress(OSError, ValueError):
                self._write(b'{"do": "beat"}\n')

    def _read(self, stream: IO[bytes]) -> None:
        mark = MARK.encode()
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                _, found, told = line.partition(mark)
                if not found:
                    continue  # what a login shell prints
                with contextlib.suppress(ValueError):
                    answer = json.loads(told)
                    if isinstance(answer, dict):
                        self._answers.put(answer)
        self._answers.put(None)

    def _read_errors(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                self._told.append(line.decode("utf-8", "replace"))


@contextlib.contextmanager
def connect(
    target: Target | None,
    *,
    python: str | None = None,
    need_bytes: int = 0,
    root: str = "/",
    temp: Sequence[str] = (),
) -> Iterator[Channel]:
    """Open a channel; on leaving, the processes and the folder on the device are gone.

    Args:
        target: the device, None for this machine.
        python: the interpreter to use there; default: what `--install` made, else python3 (here: this one).
        need_bytes: room that the files to be sent need.
        root: of the files that tell about the machine, for a made-up one.
        temp: folders to try for the temporary one; default: $TMPDIR, /tmp, /var/tmp, /dev/shm, the home folder.

    Raises:
        UnavailableError: E90 to E98; see `Channel`.
    """
    first = boot_programs()[0]
    if target is None:
        words = [python or sys.executable, "-u", "-c", first]
    else:
        if shutil.which("ssh") is None:
            raise UnavailableError(
                "there is no ssh command here", code="E90", fix="install OpenSSH's client: apt install openssh-client"
            )
        words = target.words(remote_command(first, python))
    # A session of its own: Ctrl-C reaches us alone, and we close the pipe.
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    channel = Channel(process, target, has_edgewise=target is None and python is None)
    try:
        hello = {"need_bytes": need_bytes + ROOM, "root": root, "lease_s": LEASE_S, "temp": list(temp)}
        channel.greet(hello)
        for name, text in board_files().items():
            channel.put(name, text.encode("utf-8"))
        yield channel
    finally:
        channel.close()
