"""What is asked of a camera."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgewise.errors import ConfigError
from edgewise.live.base import Source

MAX_SIDE = 8192


@dataclass(frozen=True)
class Wanted:
    """Width and height in pixels, and frames per second. A camera may give others: those of its frames count."""

    width: int = 640
    height: int = 480
    fps: float = 30.0


def parse_wanted(text: str, default: Wanted | None = None) -> Wanted:
    """`640x480`, `640x480@30` or `@30`; what is not said is as in `default`.

    Raises:
        ConfigError: L01.
    """
    known = default or Wanted()
    found = re.fullmatch(r"(?:(\d{1,4})x(\d{1,4}))?(?:@(\d{1,3}(?:\.\d+)?))?", text.strip())
    if found:
        width, height = int(found[1] or known.width), int(found[2] or known.height)
        fps = known.fps if found[3] is None else float(found[3])
        if 16 <= width <= MAX_SIDE and 16 <= height <= MAX_SIDE:
            return Wanted(width, height, fps)
    raise ConfigError(
        f'not a size: "{text}"', code="L01", fix=f"WIDTHxHEIGHT@FPS, e.g. 640x480@30; sides from 16 to {MAX_SIDE}"
    )


def frame_rate(source: Source) -> float | None:
    """Frames per second that a source says it gives, None where it does not say."""
    rate = getattr(source, "fps", None)  # no part of the protocol: most cameras do not know it
    return float(rate) if rate else None
