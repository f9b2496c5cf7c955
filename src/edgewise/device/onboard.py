"""The end of ``edgewise bench`` that runs on the device: commands from standard input, answers on standard output.

It is sent as text and run by the python3 that is there, 3.6 or newer, with nothing but the standard library; what
measures (``edgewise.device.jobs``) runs in processes that it starts. Each answer is one line, ``MARK`` and a JSON
object, so that whatever a login shell prints besides is ignored. All files live in one temporary folder.

The lease: the other side says something at least every ten seconds. When its end of the pipe closes, or nothing was
heard for ``lease_s``, whatever was started is killed, the folder is removed and the process ends. A folder that was
left by a process that could not do so (the power went) is removed by the next one.
"""

import ctypes
import fcntl
import glob
import json
import os
import platform
import queue
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from typing import Any, Dict, List, Optional, Tuple

MARK = "EDGEWISE-BENCH "
PREFIX = "edgewise-bench-"
CHUNK = 1 << 20


class Board:
    """The temporary folder, the process that is running, and the pipe to the other side."""

    def __init__(self, source: Any, sink: Any, hello: Dict[str, Any]) -> None:
        self.root = hello.get("root", "/")  # type: str
        self.folder = ""
        self._source = source
        self._sink = sink
        self._lease_s = float(hello.get("lease_s", 60.0))
        self._heard = time.monotonic()
        self._commands = queue.Queue()  # type: Any
        self._child = None  # type: Any
        self._lock = None  # type: Any
        self._tried = []  # type: List[str]
        self._candidates = hello.get("temp") or _candidates()
        self._make_folder(int(hello.get("need_bytes", 0)))

    def serve(self) -> int:
        """Answer commands until the other side says bye."""
        if not self.folder:
            self.say({"problem": "no-room", "tried": self._tried})
            return 4
        sys.path.insert(0, self.folder)  # where the other modules will be
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        for work in (self._listen, self._watch):
            threading.Thread(target=work, daemon=True).start()
        self.say({"ready": True, "folder": self.folder, "tried": self._tried, "pid": os.getpid()})
        try:
            while True:
                command = self._commands.get()
                if command["do"] == "bye":
                    return 0
                self.say(dict(getattr(self, "_do_" + command["do"])(command), end=True))
        finally:
            self._clean()

    def say(self, answer: Dict[str, Any]) -> None:
        """One answer, one line."""
        try:
            self._sink.write(MARK + json.dumps(answer) + "\n")
            self._sink.flush()
        except (OSError, ValueError):
            self._leave()

    # --- Commands ---------------------------------------------------------------------------------------------------

    def _do_put(self, command: Dict[str, Any]) -> Dict[str, Any]:
        return {"problem": command["problem"]} if command["problem"] else {"put": command["name"]}

    def _do_facts(self, _: Dict[str, Any]) -> Dict[str, Any]:
        from edgewise.device.power import describe_source, find_source
        from edgewise.device.state import describe, read, read_state

        return {
            "machine": describe(self.root),
            "power_mode": read(self.root, "var/lib/nvpmodel/status"),
            "state": read_state(self.root),
            "power": describe_source(*find_source(self.root)),
            "python": ".".join(str(part) for part in sys.version_info[:3]),
            "executable": sys.executable,
            "bits": struct.calcsize("P") * 8,
            "libc": " ".join(platform.libc_ver()).strip(),
            "user": os.getuid(),
            "temp": {"folder": self.folder, "free": _free(self.folder), "noexec": _noexec(self.folder)},
            "places": [{"folder": one, "free": _free(one), "noexec": _noexec(one)} for one in self._candidates],
            "home_free": _free(os.path.expanduser("~")),
        }

    def _do_wait(self, command: Dict[str, Any]) -> Dict[str, Any]:
        """Do nothing for a while, with the sensors read: how the machine is when it is idle."""
        watch = _Watch(self.root, "self", bool(command.get("power")))
        end = time.monotonic() + command["seconds"]
        while time.monotonic() < end:
            time.sleep(max(0.0, min(end - time.monotonic(), watch.pause())))
            watch.look()
        return watch.found()

    def _do_cool(self, command: Dict[str, Any]) -> Dict[str, Any]:
        """Wait until the hottest sensor is at most `celsius`, but no longer than `seconds`."""
        from edgewise.device.state import read_state

        start = time.monotonic()
        while True:
            celsius = read_state(self.root)["temperature_c"]
            waited = time.monotonic() - start
            if celsius is None or celsius <= command["celsius"] or waited >= command["seconds"]:
                return {"temperature_c": celsius, "waited_s": waited}
            time.sleep(min(1.0, command["seconds"] / 10.0))

    def _do_run(self, command: Dict[str, Any]) -> Dict[str, Any]:
        """Run a job; its lines are passed on, the state of the machine is read every second."""
        words = [repr(time.monotonic()) if word == "@now" else word for word in command["words"]]
        path = [self.folder] + [part for part in (command.get("path") or "").split(os.pathsep) if part]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path), TMPDIR=self.folder)
        environment["ORT_DISABLE_TELEMETRY"] = "1"  # the official onnxruntime sends usage data else
        environment.update(command.get("environment", {}))
        with tempfile.TemporaryFile() as errors:
            self._child = subprocess.Popen(
                command.get("python", [sys.executable, "-u", "-m", "edgewise.device.jobs"]) + words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self.folder,
                env=environment,
                preexec_fn=_child_setup,
            )
            watch = _Watch(self.root, str(self._child.pid), bool(command.get("power")))
            ended = self._follow(self._child, watch, time.monotonic() + command["timeout_s"])
            code = self._child.wait()
            errors.seek(0)
            told = errors.read()[-4000:].decode("utf-8", "replace")
            self._child = None
        return dict(watch.found(), code=code, stderr=told, timed_out=not ended)

    def _follow(self, child: Any, watch: Any, deadline: float) -> bool:
        """Pass on the lines of a child until it closes its output; False when it had to be killed."""
        rest = b""
        pipe = child.stdout.fileno()
        while True:
            if time.monotonic() >= deadline:
                _kill(child)
                return False
            ready, _, _ = select.select([pipe], [], [], max(0.0, min(watch.pause(), deadline - time.monotonic())))
            watch.look()
            if not ready:
                continue
            piece = os.read(pipe, CHUNK)
            if not piece:
                return True
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):  # a runtime may print words of its own
                    self.say({"line": json.loads(line.decode("utf-8"))})

    # --- The pipe ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            while True:
                line = self._source.readline()
                if not line:
                    break
                self._heard = time.monotonic()
                command = json.loads(line.decode("utf-8"))
                if command["do"] == "beat":
                    continue
                if command["do"] == "put":
                    command["problem"] = self._receive(command["name"], command["size"])
                self._commands.put(command)
                if command["do"] == "bye":
                    return
        except (OSError, ValueError, KeyError):
            pass
        self._leave()

    def _receive(self, name: str, size: int) -> str:
        """Store the next `size` bytes under a name; what went wrong, or "". The bytes are always read to their end."""
        path = os.path.join(self.folder, name)
        problem = ""
        inside = os.path.abspath(path).startswith(self.folder + os.sep)
        stream = None
        try:
            if not inside:
                raise OSError("the name leaves the folder")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            stream = open(path, "wb")
        except OSError as failure:
            problem = str(failure)
        while size > 0:
            piece = self._source.read(min(size, CHUNK))
            if not piece:
                raise OSError("the connection ended")
            size -= len(piece)
            self._heard = time.monotonic()
            try:
                if stream is not None:
                    stream.write(piece)
            except OSError as failure:
                problem, stream = problem or str(failure), None
        try:
            if stream is not None:
                stream.close()
        except OSError as failure:
            problem = problem or str(failure)
        return problem

    def _watch(self) -> None:
        while time.monotonic() - self._heard < self._lease_s:
            time.sleep(min(5.0, self._lease_s / 4))
        self._leave()

    def _on_signal(self, _number: int, _frame: Any) -> None:
        self._leave()

    def _leave(self) -> None:
        self._clean()
        os._exit(1)

    def _clean(self) -> None:
        child = self._child
        if child is not None:
            _kill(child)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- The folder -------------------------------------------------------------------------------------------------

    def _make_folder(self, need: int) -> None:
        for place in self._candidates:
            _remove_stale(place)
            free = _free(place)
            if free is None:
                self._tried.append("{}: not there".format(place))
            elif free < need:
                self._tried.append("{}: {} bytes free, {} needed".format(place, free, need))
            else:
                try:
                    folder = tempfile.mkdtemp(prefix=PREFIX, dir=place)
                    self._lock = open(os.path.join(folder, "lease"), "w")
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.folder = os.path.abspath(folder)
                    return
                except OSError as problem:
                    self._tried.append("{}: {}".format(place, problem.strerror))


class _Watch:
    """Reads the state of the machine every second and the power as often as its sensor is worth reading."""

    def __init__(self, root: str, pid: str, power: bool) -> None:
        from edgewise.device.power import Meter, find_source

        source = find_source(root)[0] if power else None
        self._root = root
        self._pid = pid
        self._meter = Meter(source) if source else None
        self._period = min(1.0, source.period_s) if source else 1.0
        self._states = []  # type: List[Dict[str, Any]]
        self._next_state = self._next_power = time.monotonic()
        self.look()

    def pause(self) -> float:
        """Seconds until there is something to read."""
        wanted = min(self._next_state, self._next_power) if self._meter else self._next_state
        return max(0.0, wanted - time.monotonic())

    def look(self) -> None:
        """Read what is due."""
        from edgewise.device.state import read_state

        now = time.monotonic()
        if self._meter and now >= self._next_power:
            self._meter.sample()
            self._next_power = now + self._period
        if now >= self._next_state:
            self._states.append(dict(read_state(self._root, self._pid), t=now))
            self._next_state = now + 1.0

    def found(self) -> Dict[str, Any]:
        """Everything that was read."""
        if self._meter:
            self._meter.sample()
        return {"states": self._states, "energy": self._meter.samples if self._meter else []}


def _candidates() -> List[str]:
    places = [os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~")]
    return list(dict.fromkeys(place for place in places if place))


def _remove_stale(place: str) -> None:
    """Remove the folders of this user whose process is gone: nobody holds the lock of their lease."""
    for folder in glob.glob(os.path.join(place, PREFIX + "*")):
        try:
            if os.lstat(folder).st_uid != os.getuid() or os.path.islink(folder):
                continue
            with open(os.path.join(folder, "lease"), "a") as lease:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _free(place: str) -> Optional[int]:
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


def _noexec(place: str) -> Optional[bool]:
    try:
        return bool(os.statvfs(place).f_flag & os.ST_NOEXEC)
    except OSError:
        return None


def _kill(child: Any) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        child.kill()


_LIBC = ctypes.CDLL(None)


def _child_setup() -> None:
    """In the child: a process group of its own, and an end when its parent ends, however that happens."""
    os.setsid()
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(source: Any, sink: Any) -> None:
    """Read the greeting, serve, and end the process at once: a thread is still reading the pipe."""
    code = 1
    try:
        hello = json.loads(source.readline().decode("utf-8"))  # type: Dict[str, Any]
        code = Board(source, sink, hello).serve()
    except BaseException:  # noqa: BLE001 - whatever it is, the other side is to see it before the process ends
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def boot() -> Tuple[str, str]:
    """The program that python3 is given on its command line, and the one it then reads from standard input."""
    import inspect

    first = (
        "import sys\n"
        "if sys.version_info < (3, 6):\n"
        "    sys.stdout.write('" + MARK + '{"problem": "old-python", "version": "%d.%d"}\\n\' % sys.version_info[:2])\n'
        "    sys.exit(0)\n"
        "source = sys.stdin.buffer\n"
        "names = {'__name__': 'onboard'}\n"
        "exec(compile(source.read(int(source.readline())), 'onboard.py', 'exec'), names)\n"
        "names['main'](source, sys.stdout)\n"
    )
    return first, inspect.getsource(sys.modules[__name__])
