"""What `/metrics` counts, in the text format of Prometheus (version 0.0.4).

Labels come from fixed sets (the table of routes, the bundles, the stages): no request can make a new one.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Times:
    """Requests of one route by the bucket their time falls into, the last for all above."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    seconds: float = 0.0


@dataclass(frozen=True)
class LiveFigures:
    """The state of the live source as figures."""

    live: bool
    fps: float
    frames: int
    dropped: int
    viewers: int


class Metrics:
    """Counts; may be told and read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._times: dict[str, _Times] = defaultdict(_Times)
        self._stages: dict[tuple[str, str, str], tuple[int, float]] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered (499: whoever asked went away first)."""
        with self._lock:
            self._requests[route, method, status] += 1
            times = self._times[route]
            times.counts[bisect_left(BUCKETS_S, seconds)] += 1
            times.seconds += seconds

    def stages(self, source: str, bundle: str, ms: Mapping[str, float]) -> None:
        """Milliseconds of the stages of one picture; `source` is "upload" or "live", `bundle` "" for shared stages."""
        with self._lock:
            for stage, value in ms.items():
                count, seconds = self._stages.get((source, bundle, stage), (0, 0.0))
                self._stages[source, bundle, stage] = (count + 1, seconds + value / 1e3)

    def text(self, waiting: int, live: LiveFigures | None) -> str:
        """All of it, one figure a line."""
        with self._lock:
            lines = [*self._request_lines(), *self._time_lines(), *self._stage_lines()]
        lines += _one(
            "edgewise_waiting_pictures", "gauge", "Pictures being received or waiting for their turn.", waiting
        )
        if live is not None:
            lines += _live_lines(live)
        resident = resident_bytes()
        if resident is not None:
            lines += _one("process_resident_memory_bytes", "gauge", "Memory of the server.", resident)
        return "\n".join(lines) + "\n"

    def _request_lines(self) -> Iterator[str]:
        name = "edgewise_requests_total"
        yield from _head(name, "counter", "Requests by route, method and status; 499: the client went away.")
        for (route, method, status), count in sorted(self._requests.items()):
            yield _line(name, (("route", route), ("method", method), ("status", str(status))), count)
        name = "edgewise_request_errors_total"
        yield from _head(name, "counter", "Requests that were answered with a status from 400 on.")
        errors: Counter[str] = Counter()
        for (route, _, status), count in self._requests.items():
            errors[route] += count if status >= 400 else 0
        for route, count in sorted(errors.items()):
            yield _line(name, (("route", route),), count)

    def _time_lines(self) -> Iterator[str]:
        name = "edgewise_request_seconds"
        yield from _head(name, "histogram", "Time from the head of a request to the end of its answer.")
        for route, times in sorted(self._times.items()):
            so_far = 0
            for edge, count in zip((*map(str, BUCKETS_S), "+Inf"), times.counts, strict=True):
                so_far += count
                yield _line(f"{name}_bucket", (("route", route), ("le", edge)), so_far)
            yield _line(f"{name}_sum", (("route", route),), times.seconds)
            yield _line(f"{name}_count", (("route", route),), so_far)

    def _stage_lines(self) -> Iterator[str]:
        name = "edgewise_stage_seconds"
        yield from _head(name, "summary", "Time of each stage of a picture; bundle is empty for stages that all share.")
        for (source, bundle, stage), (count, seconds) in sorted(self._stages.items()):
            labels = (("source", source), ("bundle", bundle), ("stage", stage))
            yield _line(f"{name}_sum", labels, seconds)
            yield _line(f"{name}_count", labels, count)


def resident_bytes() -> int | None:
    """Memory of this process, None where the system does not say (other than Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)


def _live_lines(live: LiveFigures) -> Iterator[str]:
    for name, kind, words, value in (
        ("edgewise_live_up", "gauge", "1 while the source gives frames.", int(live.live)),
        ("edgewise_live_fps", "gauge", "Frames per second that went through the loop lately.", live.fps),
        ("edgewise_live_frames_total", "counter", "Frames that went through the loop.", live.frames),
        (
            "edgewise_live_dropped_frames_total",
            "counter",
            "Frames passed over because a newer one was there.",
            live.dropped,
        ),
        ("edgewise_live_viewers", "gauge", "Pages that watch.", live.viewers),
    ):
        yield from _one(name, kind, words, value)


def _one(name: str, kind: str, words: str, value: float) -> Iterable[str]:
    return (*_head(name, kind, words), _line(name, (), value))


def _head(name: str, kind: str, words: str) -> Iterable[str]:
    return (f"# HELP {name} {words}", f"# TYPE {name} {kind}")


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{shown}}} {value!r}" if labels else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
