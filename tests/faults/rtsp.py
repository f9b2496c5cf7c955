"""A real RTSP camera for the tests: Motion JPEG over RTP in the RTSP connection (RFC 2326, RFC 2435)."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import struct
import threading
import time
from types import TracebackType

import numpy as np
from PIL import Image

SIZE = (64, 48)
RATE = 25


def jpeg(number: int) -> tuple[bytes, bytes]:
    """(quantisation tables, entropy-coded data) of a baseline 4:2:0 picture with the standard Huffman tables."""
    noise = np.random.default_rng(number).integers(60, 200, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize(SIZE, Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80, subsampling=2, optimize=False)
    data, tables, at = stream.getvalue(), b"", 2
    while data[at + 1] != 0xDA:
        length = struct.unpack(">H", data[at + 2 : at + 4])[0]
        if data[at + 1] == 0xDB:
            part = data[at + 4 : at + 2 + length]
            tables += b"".join(part[start + 1 : start + 65] for start in range(0, len(part), 65))
        at += 2 + length
    scan = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return tables, data[scan:-2]


def packet(number: int) -> bytes:
    """One picture as one interleaved RTP packet on channel 0."""
    tables, scan = jpeg(number)
    head = struct.pack(">BBHBBBB", 0, 0, 0, 1, 255, SIZE[0] // 8, SIZE[1] // 8)
    body = head + struct.pack(">BBH", 0, 0, len(tables)) + tables + scan
    rtp = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, number * 90000 // RATE, 7) + body
    return b"$\0" + struct.pack(">H", len(rtp)) + rtp


class Server:
    """Serves one address of the loopback; `stop` cuts all connections, `start` takes the same port again."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        self._port = 0

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen()
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        for one in [self._listener, *self._open]:
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._listener, self._open = None, []

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as asked:
                while first := asked.readline():
                    fields = {}
                    while (row := asked.readline().strip()) != b"":
                        key, _, value = row.decode().partition(":")
                        fields[key.lower()] = value.strip()
                    method = first.decode().split()[0]
                    connection.sendall(self._answer(method, fields))
                    if method == "PLAY":
                        self._play(connection)
        except (OSError, ValueError):
            return

    def _answer(self, method: str, fields: dict[str, str]) -> bytes:
        body, more = "", []
        if method == "OPTIONS":
            more = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"]
        elif method == "DESCRIBE":
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                f"m=video 0 RTP/AVP 26\r\na=framerate:{RATE}\r\na=control:video\r\n"
            )
            more = ["Content-Type: application/sdp", f"Content-Base: {self.url}/", f"Content-Length: {len(body)}"]
        elif method == "SETUP" and "TCP" not in fields.get("transport", ""):
            return f"RTSP/1.0 461 Unsupported Transport\r\nCSeq: {fields['cseq']}\r\n\r\n".encode()
        elif method == "SETUP":
            more = ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        elif method == "PLAY":
            more = ["Session: 1", "Range: npt=0-"]
        return "\r\n".join(["RTSP/1.0 200 OK", f"CSeq: {fields['cseq']}", *more, "", body]).encode()

    @staticmethod
    def _play(connection: socket.socket) -> None:
        for number in itertools.count():
            connection.sendall(packet(number))
            time.sleep(1 / RATE)
