"""How a run was measured, and which of its timings do not stand, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from edgewise.report.words import clean, plural, show_range, show_scaled
from edgewise.results import Latency, RunResult


def method_line(result: RunResult) -> str:
    """How the figures were taken, in one line: machine, runtime, threads, batch, runs, statistic, validity."""
    machine = result.machine
    shown = [form(machine[key]) for key, form in _MACHINE_FACTS.items() if machine.get(key) not in (None, "")]
    if "onnxruntime" in result.versions:
        shown.append(f"onnxruntime {result.versions['onnxruntime']}")
    shown += _timing_words([one.latency for one in result.measurements if one.latency])
    if result.measurements:
        shown.append(f"quality on {show_range(one.test.n for one in result.measurements)} test images")
    return clean(", ".join(shown)).replace("\n", " ")


_MACHINE_FACTS: dict[str, Callable[[Any], str]] = {
    "model": str,
    "cpu": str,
    "cores_physical": lambda cores: plural(f"{cores}", "core"),
    "ram_bytes": lambda size: f"{show_scaled(size, 'B')} RAM",
    "os": str,
    "kernel": lambda kernel: f"kernel {kernel}",
    "governor": lambda governor: f"governor {governor}",
}


def _timing_words(timed: Sequence[Latency]) -> list[str]:
    if not timed:
        return ["no latency measured"]
    protocols = ", ".join(dict.fromkeys(latency.protocol for latency in timed))
    return [
        plural(show_range(latency.threads for latency in timed), "thread"),
        f"batch 1, n={show_range(latency.model.n for latency in timed)}, p50 [95 % CI]",
        f"{protocols} protocol" + (" (not comparable with other sessions)" if "quick" in protocols else ""),
        _validity_words(timed),
    ]


def _validity_words(timed: Sequence[Latency]) -> str:
    """Which of the two kinds of latency stand: milliseconds, and the paired ratios to the base."""
    compared = [latency for latency in timed if latency.ratio]
    invalid = sum(not latency.valid for latency in timed)
    failed = sum(not latency.comparable for latency in compared)
    if not invalid and not failed:
        return "all latencies valid"
    milliseconds = (
        f"milliseconds of {invalid} of {_files(len(timed))} not valid" if invalid else "all milliseconds valid"
    )
    if not compared:
        return f"{milliseconds}, no paired ratios"
    if failed:
        ratios = "paired ratios do not compare" + (f" ({failed} of {len(compared)})" if failed < len(compared) else "")
    else:
        ratios = "paired ratios compare"
    return f"{milliseconds}, {ratios}"


def invalid_words(result: RunResult) -> list[str]:
    """Which latencies of a run do not stand and why, in at most two lines: milliseconds, then ratios.

    Reasons of the same kind are put together over the files, the most frequent kind first; each file's own reasons are
    in its row.
    """
    timed = [one.latency for one in result.measurements if one.latency]
    lines = []
    reasons = [latency.invalid_reasons or ["no reason given"] for latency in timed if not latency.valid]
    if reasons:
        kinds = [f"{words} ({count} of {_files(len(timed))})" for words, count in _kinds(reasons)]
        more = [f"and {plural(str(len(kinds) - _KINDS), 'more kind')} of reason"] if len(kinds) > _KINDS else []
        lines.append(f"milliseconds not valid: {'; '.join([*kinds[:_KINDS], *more])}")
    failed = sum(not latency.comparable for latency in timed if latency.ratio)
    if failed:
        lines.append(f"ratios do not compare: the A/A check did not hold ({failed} of {_files(len(timed))})")
    return [clean(line).replace("\n", " ") for line in lines]


_KINDS = 4  # kinds of reason that are written out

_NUMBER = re.compile(r"(?<![\w.])(?:0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_DRIFT = re.compile(rf"\w+ drift ({_NUMBER.pattern}) -> ({_NUMBER.pattern}) ms")


def _kinds(files: Sequence[Sequence[str]]) -> list[tuple[str, int]]:
    """Reasons, listed file by file, as kinds: in words, and how many files have it."""
    texts: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for reasons in files:
        kinds = [_kind(reason) for reason in reasons]
        counts.update(dict.fromkeys(kinds, 1))
        for kind, reason in zip(kinds, reasons, strict=True):
            texts.setdefault(kind, []).append(reason)
    return [(_merged(texts[kind]), count) for kind, count in counts.most_common()]


def _kind(reason: str) -> str:
    """What reasons of one kind share: drift of any clock is one kind, others are alike but for their numbers."""
    return _DRIFT.pattern if _drift(reason) is not None else _NUMBER.sub("#", reason)


def _drift(reason: str) -> float | None:
    """The change that a reason such as ``model drift 0.39 -> 0.429 ms`` tells, as a share; None for other reasons."""
    found = _DRIFT.fullmatch(reason)
    if found is None or _number(found[1]) == 0:
        return None
    start, end = _number(found[1]), _number(found[2])
    return abs(end - start) / start


def _merged(reasons: Sequence[str]) -> str:
    """One text for reasons of one kind: the largest drift, else the text with a range where a number differs."""
    drifts = [drift for drift in map(_drift, reasons) if drift is not None]
    if drifts:
        return f"drift of up to {100 * max(drifts):.0f} %"
    slots = iter(zip(*(_NUMBER.findall(reason) for reason in reasons), strict=True))

    def fill(_: re.Match[str]) -> str:
        numbers = next(slots)
        low, high = min(numbers, key=_number), max(numbers, key=_number)
        return low if _number(low) == _number(high) else f"{low}-{high}"

    return re.sub(r"(\d)%", r"\1 %", _NUMBER.sub(fill, reasons[0]))


def _number(text: str) -> float:
    return float(int(text, 16)) if text.startswith("0x") else float(text)


def _files(count: int) -> str:
    return plural(str(count), "file")


def relative_only(result: RunResult) -> str | None:
    """Why absolute times of this machine mean little (a shared or virtual one), None when they can be trusted."""
    reason = result.machine.get("relative_only")
    if not reason:
        return None
    return clean(reason) if isinstance(reason, str) else "a shared or virtual machine"
