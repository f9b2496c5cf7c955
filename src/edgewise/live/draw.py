"""A view as a picture: boxes, labels, confidence; and "no signal" where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgewise.device import Pixels
from edgewise.live.base import View

KNOWN, UNKNOWN, WORDS = (40, 220, 90), (240, 190, 40), (255, 255, 255)
UNKNOWN_LABEL = "unknown"


def draw(view: View, lines: Sequence[str] = (), size: tuple[int, int] = (640, 480)) -> Pixels:
    """The frame of a view with what was seen in it; the frame itself is not changed.

    Args:
        view: of the loop; without a frame the picture says "no signal" and why.
        lines: further words, at the bottom.
        size: width and height where there is no frame.

    Returns:
        uint8 (height, width, 3) RGB.
    """
    if view.frame is None:
        return _card(view, size)
    picture = Image.fromarray(view.frame.pixels)
    pen = ImageDraw.Draw(picture)
    for seen in view.seen:
        colour = UNKNOWN if seen.label is None else KNOWN
        words = f"{seen.label or UNKNOWN_LABEL} {seen.confidence:.0%}"
        box = seen.box
        if seen.track:
            corners = (box.left, box.top, box.left + box.width - 1, box.top + box.height - 1)
            pen.rectangle(corners, outline=colour, width=2)
        _words(pen, (max(0.0, box.left) + 2, max(0.0, box.top - 18) if seen.track else 4), words, colour)
    for at, line in enumerate(reversed(lines)):
        _words(pen, (4, picture.height - 20 * (at + 1)), line, WORDS)
    return np.asarray(picture)


def _card(view: View, size: tuple[int, int]) -> Pixels:
    picture = Image.new("RGB", size, (24, 24, 28))
    pen = ImageDraw.Draw(picture)
    pen.text((size[0] / 2, size[1] / 2 - 14), view.state, fill=UNKNOWN, font=_font(28), anchor="mm")
    pen.text((size[0] / 2, size[1] / 2 + 20), view.note, fill=WORDS, font=_font(14), anchor="mm")
    return np.asarray(picture)


def _words(pen: ImageDraw.ImageDraw, at: tuple[float, float], words: str, colour: tuple[int, int, int]) -> None:
    pen.rectangle(pen.textbbox(at, words, font=_font(14)), fill=(0, 0, 0))
    pen.text(at, words, fill=colour, font=_font(14))


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
