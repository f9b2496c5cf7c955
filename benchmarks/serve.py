"""`edgewise serve` under load and under bad uploads. The server is a process of its own; so are the clients.

    python -m benchmarks.serve load BUNDLE [PICTURE...] [--clients 8] [--seconds 60]
    python -m benchmarks.serve fuzz BUNDLE [--count 1000] [--seed 0]

`load`: each client posts the pictures in turn on one connection, as fast as answers come; without pictures, eight
frames of the test video (scikit-image's astronaut, 640 x 480, JPEG of quality 90). The time of a request is the
client's, from the first byte sent to the last one received; percentiles come with the 95 % intervals of a bootstrap
over the seconds of the run (`edgewise.measure.intervals`). Before and after, the same pictures go through the same
functions in a bare loop, without a server: what the server and its clients cost on the same cores.

`fuzz`: bad uploads one after the other, each on a connection of its own: pictures that are cut, flipped, spliced or lie
in their headers, forms that keep to nothing, bodies that are not as announced. An answer of 500 or above, a connection
that ends without an answer, or a server that has gone is a failure; 503 (busy) is told apart, and must not come from a
single client either.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from edgewise.live.testing import frames
from edgewise.measure.intervals import P90_RUNS, P99_RUNS, percentile_estimates
from edgewise.serve.answers import answer, open_bundles, open_picture
from edgewise.serve.limits import Limits

BARE_S = 10.0
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM", "TIFF")


@contextmanager
def served(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """The command on a free port: (process, port, token)."""
    words = [sys.executable, "-m", "edgewise", "serve", str(bundle), "--port", "0", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "the server did not start"
            told += line
        facts = json.loads(told)
        yield process, facts["port"], facts["token"]
        assert process.poll() is None, "the server has ended"
    finally:
        process.terminate()
        process.wait(20)


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What the clients saw: (end, seconds) of each answered request, statuses, and connections that failed."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    took: float = 0.0

    def blocks(self) -> list[NDArray[np.float64]]:
        """The times in blocks of a second, an even number of them."""
        ordered = np.array(sorted(self.answered))
        second = (ordered[:, 0] - ordered[0, 0]).astype(int)
        found = [ordered[second == one, 1] for one in np.unique(second)]
        return found[: len(found) // 2 * 2]


def photographs() -> list[bytes]:
    """Frames of the test video as JPEG files."""
    found = []
    for pixels in frames(Image.fromarray(skimage.data.astronaut()), 8):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def bare(bundle: Path, pictures: Sequence[bytes], seconds: float) -> float:
    """Pictures a second of a loop that decodes and classifies, and does nothing else."""
    (opened,), limits = open_bundles([bundle], 1), Limits()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        answer(opened, open_picture(pictures[done % len(pictures)], limits))
        done += 1
    return done / (time.perf_counter() - start)


def load(port: int, token: str, pictures: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Post pictures from `clients` connections at once for `seconds`."""
    found, lock = Load(), threading.Lock()
    start = time.perf_counter()

    def client(number: int) -> None:
        times, statuses, turn = [], Counter[int](), number
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
        try:
            while time.perf_counter() - start < seconds:
                turn += 1
                before = time.perf_counter()
                link.request("POST", "/v1/classify", pictures[turn % len(pictures)], headers)
                answer = link.getresponse()
                answer.read()
                now = time.perf_counter()
                times.append((now, now - before))
                statuses[answer.status] += 1
        except (OSError, http.client.HTTPException) as problem:
            with lock:
                found.failed.append(f"{type(problem).__name__}: {problem}")
        finally:
            link.close()
        with lock:
            found.answered += times
            found.statuses += statuses

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.took = time.perf_counter() - start
    return found


LEAST = {0.5: 1, 0.9: P90_RUNS, 0.99: P99_RUNS}
"""Percentile -> requests it needs."""


def load_lines(found: Load, clients: int) -> list[str]:
    """The outcome in words."""
    n, errors = len(found.answered), sum(count for status, count in found.statuses.items() if status != 200)
    lines = [
        f"{clients} clients, {found.took:.1f} s: n = {n}, {n / found.took:.0f} a second, "
        f"errors {errors + len(found.failed)} (statuses {dict(found.statuses)}, connections {found.failed})"
    ]
    shares = [share for share, least in LEAST.items() if n >= least]
    blocks = found.blocks()
    if len(blocks) >= 4:
        for share, one in zip(shares, percentile_estimates(blocks, shares, np.random.default_rng(0)), strict=True):
            lines.append(f"p{100 * share:g} {1e3 * one.value:.1f} [{1e3 * one.low:.1f}, {1e3 * one.high:.1f}] ms")
    return lines


# --- fuzz -------------------------------------------------------------------------------------------------------------


@dataclass
class Fuzzed:
    """Answers by status; `dropped` are connections that ended without an answer, with what was sent."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    dropped: int = 0

    @property
    def server_errors(self) -> int:
        """Answers of 500 and above, those that say busy included."""
        return sum(count for status, count in self.statuses.items() if status >= 500)


def fuzz(port: int, token: str, count: int, seed: int) -> Fuzzed:
    """Send bad uploads one after the other. The same seed sends the same bytes."""
    draw, found = random.Random(seed), Fuzzed()
    for number in range(count):
        kind = draw.choice(sorted(KINDS))
        request = KINDS[kind](draw, token)
        found.kinds[kind] += 1
        status = _status(port, request)
        found.statuses[status or 0] += 1
        if status is None or status >= 500:
            found.dropped += status is None
            found.wrong.append(f"{kind}, seed {seed}, number {number}: {status}, {request[:80]!r}")
    return found


def _status(port: int, request: bytes) -> int | None:
    """The status of the answer to these bytes, None when there was none."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        with suppress(OSError):  # refused before all was sent; the answer is there to be read
            link.sendall(request)
        answer = http.client.HTTPResponse(link)
        try:
            answer.begin()
            answer.read()
        except (OSError, http.client.HTTPException):
            return None
        return answer.status


def picture(draw: random.Random) -> bytes:
    """A small picture of any format, size and mode."""
    form, size = draw.choice(FORMATS), (draw.randint(1, 60), draw.randint(1, 60))
    pixels = np.frombuffer(draw.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def _post(token: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    head = ["POST /v1/classify HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "Connection: close"]
    head += [*fields, f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(head).encode("utf-8") + b"\r\n\r\n" + body


def _cut(draw: random.Random, token: str) -> bytes:
    data = picture(draw)
    return _post(token, data[: draw.randrange(len(data))])


def _flipped(draw: random.Random, token: str) -> bytes:
    data = bytearray(picture(draw))
    for _ in range(draw.choice((1, 4, 16, 64))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return _post(token, bytes(data))


def _spliced(draw: random.Random, token: str) -> bytes:
    one, other = picture(draw), picture(draw)
    return _post(token, one[: draw.randrange(len(one))] + other[draw.randrange(len(other)) :])


def _repeated(draw: random.Random, token: str) -> bytes:
    data = picture(draw)
    at = draw.randrange(len(data))
    return _post(token, data[:at] + data[at : at + draw.randint(1, 40)] * draw.randint(1, 400) + data[at:])


def _noise(draw: random.Random, token: str) -> bytes:
    start = draw.choice(
        (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP", b"P6 ", b"II*\0")
    )
    return _post(token, start + draw.randbytes(draw.randrange(2000)))


def _lying(draw: random.Random, token: str) -> bytes:
    """A PNG whose header names another size, depth or colour than its pixels have."""
    size = draw.choice(((60_000, 60_000), (1, 2**31 - 1), (0, 0), (2**31 - 1, 2**31 - 1), (3_000, 3_000), (5_000, 1)))
    head = struct.pack(
        ">IIBBBBB", *size, draw.choice((1, 2, 8, 16, 77)), draw.choice((0, 2, 3, 4, 6, 9)), 0, 0, draw.choice((0, 1, 5))
    )
    pixels = zlib.compress(bytes(draw.randrange(5000)))
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part)) for name, part in chunks
    )
    return _post(token, b"\x89PNG\r\n\x1a\n" + body)


def _form(draw: random.Random, token: str) -> bytes:
    """A form, whole or with some of it gone wrong."""
    name = draw.choice(
        ('"a.png"', '"../../etc/passwd"', '"<script>"', '"\u202e\u00e9.png"', '"', "a.png", '"\\"x.png"', '""')
    )
    head = f'Content-Disposition: form-data; name="image"; filename={name}\r\nContent-Type: image/png\r\n\r\n'
    part = b"--B\r\n" + head.encode() + picture(draw) + b"\r\n"
    body = bytearray(part * draw.choice((0, 1, 1, 2, 20)) + draw.choice((b"--B--\r\n", b"--B\r\n", b"", b"--B--")))
    for _ in range(draw.choice((0, 0, 1, 5))):
        if body:
            at = draw.randrange(len(body))
            body[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
    boundary = draw.choice(("B", "B", "B", "C", "", '"B', "B" * 100))
    return _post(token, bytes(body), f"Content-Type: multipart/form-data; boundary={boundary}")


def _announced(draw: random.Random, token: str) -> bytes:
    """A length that is too large, no number, or twice; a body in chunks that are none."""
    data = picture(draw)
    return draw.choice(
        (
            _post(token, data, length=draw.choice((1 << 30, 1 << 62, 10**30))),
            _post(token, data, "Content-Length: 7"),
            _post(token, data).replace(b"Content-Length: ", b"Content-Length: -"),
            _post(token, data).replace(b"Content-Length: ", b"Content-Length: x"),
            _post(token, b"zz\r\n" + data).replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX-Length"),
            _post(token, b"5\r\n1234567890\r\n0\r\n\r\n").replace(
                b"Content-Length", b"Transfer-Encoding: chunked\r\nX"
            ),
            _post(token, data).replace(b"Content-Length", b"Transfer-Encoding: gzip\r\nX-Length"),
        )
    )


def _typed(draw: random.Random, token: str) -> bytes:
    """A whole picture under types and thresholds that make no sense."""
    kind = draw.choice(("", "text/html", "a" * 5000, "multipart/form-data", "image/\u00e9", ";;;", "application/json"))
    query = draw.choice(
        ("?threshold=x", "?threshold=1e999", "?threshold=-0", "?threshold=0.5", "?a=%ff%fe", "?" + "a=b&" * 500)
    )
    request = _post(token, picture(draw), f"Content-Type: {kind}")
    return request.replace(b"/v1/classify", b"/v1/classify" + query.encode(), 1)


KINDS: dict[str, Callable[[random.Random, str], bytes]] = {
    "cut": _cut,
    "flipped": _flipped,
    "spliced": _spliced,
    "repeated": _repeated,
    "noise": _noise,
    "lying": _lying,
    "form": _form,
    "announced": _announced,
    "typed": _typed,
}
"""What can be wrong with an upload."""


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description="edgewise serve under load and under bad uploads")
    commands = parser.add_subparsers(dest="command", required=True)
    loaded = commands.add_parser("load")
    loaded.add_argument("bundle", type=Path)
    loaded.add_argument("pictures", type=Path, nargs="*")
    loaded.add_argument("--clients", type=int, default=8)
    loaded.add_argument("--seconds", type=float, default=60.0)
    fuzzed = commands.add_parser("fuzz")
    fuzzed.add_argument("bundle", type=Path)
    fuzzed.add_argument("--count", type=int, default=1000)
    fuzzed.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with served(asked.bundle) as (_, port, token):
        if asked.command == "load":
            pictures = [path.read_bytes() for path in asked.pictures] or photographs()
            load(port, token, pictures, asked.clients, 1.0)  # warm
            alone = [bare(asked.bundle, pictures, BARE_S)]
            found = load(port, token, pictures, asked.clients, asked.seconds)
            alone.append(bare(asked.bundle, pictures, BARE_S))
            print(*load_lines(found, asked.clients), sep="\n")
            rate = len(found.answered) / found.took
            shown = [f"{rate / one:.2f} of {one:.0f} a second" for one in alone]
            print(f"against a bare loop before and after: {', '.join(shown)}")
        else:
            found = fuzz(port, token, asked.count, asked.seed)
            statuses, kinds = dict(sorted(found.statuses.items())), dict(sorted(found.kinds.items()))
            print(f"n = {asked.count}, statuses {statuses}, kinds {kinds}")
            print(f"server errors {found.server_errors}, without an answer {found.dropped}", *found.wrong, sep="\n")


if __name__ == "__main__":
    main()
