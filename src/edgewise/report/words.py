"""Figures and texts as they are shown. A missing figure is an en dash."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

NONE = "–"

# Control characters (but tab and line feed), bidirectional overrides and lone surrogates: they could rewrite a
# terminal, turn a name around on the page, or make the text impossible to encode.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""The text with unprintable and direction-changing characters written out, e.g. ESC as ``\x1b``."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def half_width(value: float, low: float, high: float) -> float:
    """The ± of an interval: its wider side, so that value ± half-width covers it."""
    return max(value - low, high - value)


def _figure(value: float, low: float | None, high: float | None, decimals: int, sign: bool = False) -> str:
    """``4.31 ±0.05``: the ± has as many decimals as the value and is rounded up, so that it is never a false zero."""
    text = f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")
    if not text.strip("+−0."):
        text = text.lstrip("+−")
    if low is None or high is None:
        return text
    step = 10.0**decimals
    return f"{text} ±{math.ceil(half_width(value, low, high) * step - 1e-6) / step:.{decimals}f}"


def show_share(value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False) -> str:
    """A share in percent, ``97.8`` or ``97.8 ±1.0``; with `sign`, a difference in points, ``+0.4`` or ``−0.4``."""
    if value is None:
        return NONE
    scaled = [None if end is None else 100 * end for end in (low, high)]
    return _figure(100 * value, scaled[0], scaled[1], 1, sign)


def show_ms(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Milliseconds to three significant digits, ``4.31 ±0.05``."""
    if value is None:
        return NONE
    return _figure(value, low, high, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0)


def show_ratio(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A ratio to two decimals, ``0.31 ±0.02``, or three below a fifth, ``0.141 ±0.005``."""
    return NONE if value is None else _figure(value, low, high, 2 if value >= 0.2 else 3)


def show_scaled(value: float | None, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: ``165 M``, ``376 kB`` (k = 1,000)."""
    if value is None:
        return NONE
    factor, prefix = next((step for step in _PREFIXES if value >= 0.9995 * step[0]), (1.0, ""))
    scaled = value / factor
    decimals = 0 if factor == 1 or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{decimals}f} {prefix}{unit}".rstrip()


_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def show_range(values: Iterable[int]) -> str:
    """One number, or the least and the largest: ``600`` or ``640-992``."""
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,}-{found[-1]:,}"


def plural(count: str, noun: str) -> str:
    """``1 core``, ``4 cores``."""
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"
