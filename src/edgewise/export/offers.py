"""What can be written here: for each format and precision whether it is written at all, and what it needs.

Everything that asks this asks here: the status table, a run, `edgewise doctor`. Each exporter says its precisions and
what they need; nothing heavy is imported for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgewise.device import RUNTIMES
from edgewise.export import FORMATS


@dataclass(frozen=True)
class Offer:
    """`ready`, or `missing` something (`reason`: what, with the command that installs it), or `not written` at all."""

    state: Literal["ready", "missing", "not written"]
    reason: str = ""


def offer(format_: str, precision: str) -> Offer:
    """What this machine can do about one format in one precision: write it and run it."""
    if format_ not in FORMATS or format_ not in RUNTIMES:
        return Offer("not written", f"this edgewise does not write {format_}")
    known = FORMATS[format_].precisions
    if precision not in known:
        return Offer("not written", f"{format_} has no {precision} files, only {' and '.join(known)}")
    runtime = RUNTIMES[format_]
    if runtime.version() is None:
        return Offer("missing", f"its runtime is not installed: {runtime.install}")
    lacks = FORMATS[format_].missing(precision)
    return Offer("missing", f"its converter is not installed: {lacks}") if lacks else Offer("ready")
