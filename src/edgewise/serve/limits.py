"""What one server takes on at most. Whoever asks for more gets an answer that says so, never a slower server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes, times and counts; the answers to what goes beyond are in `edgewise.serve.refusals`.

    A picture is decoded to 3 or 4 bytes a pixel, a few times over while transparency is laid on white. Only one picture
    is decoded at a time.
    """

    upload_bytes: int = 16 << 20
    """Of one picture, as it is sent."""
    pixels: int = 32_000_000
    """Of one picture, told from its header before it is decoded."""
    waiting: int = 32
    """Pictures that are being received, or wait for their turn."""
    held_bytes: int = 64 << 20
    """Bytes of all of these together."""
    body_s: float = 20.0
    """For sending a picture."""
    head_s: float = 10.0
    """For sending the head of a request, and for a connection that does nothing."""
    answer_s: float = 60.0
    """For a whole request, the wait for its turn included."""
    connections: int = 128
    viewers: int = 4
    """Pages that watch the live view at the same time."""
    stale_s: float = 2.0
    """Without a new frame for so long, the source counts as standing still."""
