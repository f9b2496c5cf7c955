"""Case 40: uploads that are huge, slow, many, no pictures or bombs; paths; a port in use; no browser."""

from __future__ import annotations

import io
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.serve import fuzz
from PIL import Image

from edgewise.serve.limits import Limits
from tests.device.tiny import make_bundle
from tests.serve.serving import Running, command, http_connection, read_reply, serving, wait_until

MB = 1 << 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("uploads") / "made")


@pytest.fixture(scope="module")
def process(tiny: Path) -> Iterator[tuple[int, Running]]:
    """The command, whose memory is its own: (pid, server)."""
    with command(str(tiny), "--port", "0") as (child, running):
        assert running.classify(picture()).status == 200
        yield child.pid, running


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(stream, "PNG")
    return stream.getvalue()


def black(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of so many black pixels, a few kilobytes; only the first `rows` are really there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeezer, line = zlib.compressobj(9), bytes(1 + 3 * width)
    pixels = b"".join(squeezer.compress(line) for _ in range(height if rows is None else rows)) + squeezer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def still_well(running: Running) -> None:
    assert running.classify(picture()).json()["results"][0]["label"] == "red"


@contextmanager
def little_memory(pid: int, most: int) -> Iterator[None]:
    """The server must not grow by more than `most` bytes, even for a moment."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # sets the peak back to what is in use now
    before = memory(pid, "VmRSS")
    yield
    grown = memory(pid, "VmHWM") - before
    assert grown < most, f"{grown / MB:.1f} MB"


def memory(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key + ":"))


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_gigabyte_is_refused_before_it_is_read(process: tuple[int, Running]) -> None:
    pid, running = process
    with little_memory(pid, 8 * MB):
        for _ in range(20):
            reply = running.ask("/v1/classify", method="POST", headers={"Content-Length": str(1 << 30)})
            assert (reply.status, reply.json()["error"]) == (413, "V10")
            assert reply.headers["connection"] == "close"
    still_well(running)


def test_a_gigabyte_in_chunks_ends_at_the_limit(process: tuple[int, Running]) -> None:
    pid, running = process
    chunk = b"100000\r\n" + bytes(MB) + b"\r\n"
    with little_memory(pid, 60 * MB), http_connection(running.port) as link:
        link.putrequest("POST", "/v1/classify")
        link.putheader("Authorization", f"Bearer {running.token}")
        link.putheader("Transfer-Encoding", "chunked")
        link.endheaders()
        sent = 0
        try:
            while sent < 1024:
                link.send(chunk)
                sent += 1
        except OSError:  # the server has hung up
            pass
        assert 16 <= sent < 40
        with suppress(OSError):  # the answer may have been overtaken by the end of the connection
            assert read_reply(link).status == 413
    still_well(running)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (8_000, 4_001), (1, 2**31 - 1)])
def test_bombs_are_refused_from_the_header(process: tuple[int, Running], width: int, height: int) -> None:
    pid, running = process
    with little_memory(pid, 8 * MB):
        reply = running.classify(black(width, height, rows=10))
        assert (reply.status, reply.json()["error"]) == (413, "V10")
        assert re.search(r"\d{8} pixels|x 4001 pixels, more than the 32000000 allowed", reply.json()["why"])
    still_well(running)


def test_the_largest_pictures_that_are_taken_stay_within_bounds(process: tuple[int, Running]) -> None:
    """Four at once of 32 million pixels: one is decoded at a time."""
    pid, running = process
    large = black(8_000, 4_000)
    with little_memory(pid, 400 * MB), ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(running.classify, [large] * 4))
    assert [reply.status for reply in replies] == [200] * 4
    still_well(running)


# --- time and number --------------------------------------------------------------------------------------------------


def test_slow_clients_are_cut_off_and_others_are_served(tiny: Path) -> None:
    limits = replace(Limits(), head_s=2.0, body_s=2.0)
    with serving(tiny, limits=limits) as running:
        links = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(30)]
        head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.token}\r\n".encode()
        for i, link in enumerate(links):
            if i % 3 == 1:
                link.sendall(head)  # a head without its end
            elif i % 3 == 2:
                link.sendall(head + b"Content-Length: 1000\r\n\r\n")  # a body that does not come
        ends: dict[int, bytes] = {}

        def drip(i: int) -> None:
            """A byte now and then, until the server ends it."""
            link, end = links[i], time.monotonic() + 15
            link.settimeout(0.2)
            while time.monotonic() < end:
                try:
                    if i % 3:
                        link.sendall(b"x")
                    said = link.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    said = b""
                ends[i] = ends.get(i, b"") + said
                if not said:
                    return

        threads = [threading.Thread(target=drip, args=(i,)) for i in range(len(links))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            still_well(running)
        for thread, link in zip(threads, links, strict=True):
            thread.join()
            link.close()
        assert len(ends) == len(links)
        assert all(b" 408 " in ends[i] for i in range(2, len(links), 3))


def test_too_many_at_once_are_told_to_come_again(tiny: Path) -> None:
    limits = replace(Limits(), waiting=2, body_s=20)
    with serving(tiny, limits=limits) as running:
        links = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(2)]
        for link in links:
            head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.token}\r\n"
            link.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode() + bytes(50))
        wait_until(lambda: b"edgewise_waiting_pictures 2" in running.ask("/metrics").body)
        reply = running.classify(picture())
        assert (reply.status, reply.json()["error"], reply.headers["retry-after"]) == (503, "V14", "1")
        assert running.ask("/healthz").status == 200
        for link in links:
            link.close()
        wait_until(lambda: b"edgewise_waiting_pictures 0" in running.ask("/metrics").body)
        still_well(running)


def test_too_many_connections_are_told_to_come_again(tiny: Path) -> None:
    with serving(tiny, limits=replace(Limits(), connections=10)) as running:
        links = [socket.create_connection(("127.0.0.1", running.port), timeout=20) for _ in range(10)]
        wait_until(lambda: len(running.ready.server.server_state.connections) == 10 if running.ready else False)
        reply = running.ask("/healthz")
        assert (reply.status, reply.headers["retry-after"], reply.headers["x-frame-options"]) == (503, "1", "DENY")
        for link in links:
            link.close()
        wait_until(lambda: running.ask("/healthz").status == 200)


@pytest.mark.slow
def test_ten_thousand_requests_leave_nothing_behind(process: tuple[int, Running]) -> None:
    pid, running = process
    good, head = picture(), {"Authorization": f"Bearer {running.token}"}

    def many(count: int) -> set[int]:
        found = set()
        with http_connection(running.port) as link:
            for i in range(count):
                if i % 5 == 0:
                    link.request("POST", "/v1/classify", good if i % 2 else b"no picture", head)
                else:
                    link.request("GET", ("/healthz", "/nothing", "/v1/model", "/metrics")[i % 4], headers=head)
                found.add(read_reply(link).status)
        return found

    many(500)  # caches are filled
    threads, descriptors = tasks(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))
    with little_memory(pid, 30 * MB), ThreadPoolExecutor(4) as pool:
        statuses = set().union(*pool.map(many, [2_500] * 4))
    assert statuses == {200, 404, 422}
    assert tasks(pid) == threads
    wait_until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) <= descriptors)


def tasks(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_a_client_that_goes_away_leaves_nothing_behind(tiny: Path) -> None:
    with serving(tiny) as running:
        for i in range(50):
            with socket.create_connection(("127.0.0.1", running.port), timeout=20) as link:
                head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {running.token}\r\n"
                link.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode() + bytes(1000 * i))
                if i % 2:
                    link.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )  # a reset, not a close
        wait_until(lambda: b"edgewise_waiting_pictures 0" in running.ask("/metrics").body)

        def gone() -> int:
            found = re.search(rb'status="499"} (\d+)', running.ask("/metrics").body)
            return int(found[1]) if found else 0

        wait_until(lambda: gone() >= 25)  # a reset may overtake the head of its request
        assert gone() <= 50
        still_well(running)


# --- what comes -------------------------------------------------------------------------------------------------------


def test_fuzzed_uploads_never_end_the_server_nor_make_it_fail(process: tuple[int, Running]) -> None:
    """The short form of `python -m benchmarks.serve fuzz`."""
    pid, running = process
    with little_memory(pid, 200 * MB):
        found = fuzz(running.port, running.token, count=300, seed=random.randrange(1 << 30))
    assert sum(found.statuses.values()) == 300
    assert found.server_errors == 0, found
    assert found.dropped == 0, found
    still_well(running)


@pytest.mark.parametrize(
    "path",
    [
        *("/files/../../etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd"),
        *("/style.css/../../server.py", "/%00", "/style.css%00.png", "//etc/passwd", "/..\\..\\etc\\passwd"),
        *("/%252e%252e%252fetc%252fpasswd", "/etc/passwd", "/index.html", "/./style.css", "/style.css/"),
        "/page/index.html",
    ],
)
def test_paths_lead_nowhere(process: tuple[int, Running], path: str) -> None:
    _, running = process
    reply = running.ask(path)
    assert (reply.status, reply.json()["error"]) == (404, "V06")
    assert b"root:" not in reply.body


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_told_or_passed_over(tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "edgewise", "serve", str(tiny), "--port", str(port)], capture_output=True, text=True
        )
        assert done.returncode == 4
        assert done.stderr.startswith(f"error[V02]: cannot listen there\n  address: 127.0.0.1:{port}\n")
        assert "choose another --port" in done.stderr
        assert done.stdout == ""
    with serving(tiny, port=None) as one, serving(tiny, port=None) as other:
        assert 8000 <= one.port < other.port < 8020
        assert one.ask("/healthz").status == other.ask("/healthz").status == 200
        assert one.ask("/healthz", token=other.token).status == 403


def test_without_a_browser_the_address_is_printed_and_served(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with command(str(tiny), "--port", "0", "--browser", PATH=str(tmp_path / "bin"), BROWSER="", DISPLAY="") as (
        process,
        running,
    ):
        assert running.ask("/healthz").status == 200
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"page: {running.address}?token={running.token}\n" in said
    assert "note: no browser could be opened here; open the page by its address\n" in said
