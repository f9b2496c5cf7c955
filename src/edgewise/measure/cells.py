"""From the samples of a bench session to its cells: one JSON object for each bundle at each setting, and their order.

A cell is invalid when the machine was disturbed, drifted, or the session's A/A check failed; it keeps its figures and
ranks nothing. Cells are ranked inside one session only, by the paired ratio to the session's first bundle, and two that
the session cannot tell apart are a tie.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import model_bytes
from edgewise.device.jobs import ON_BOARD
from edgewise.measure import machine
from edgewise.measure.accuracy import quality
from edgewise.measure.energy import per_inference
from edgewise.measure.intervals import (
    LAUNCHES,
    P90_RUNS,
    P99_RUNS,
    median_of_launches,
    percentile_estimates,
    ratio_estimate,
    ratio_of_launches,
)
from edgewise.measure.latency import AA_LEVEL, drift
from edgewise.measure.protocol import Protocol
from edgewise.measure.session import Candidate, Samples, Setting, Taken, Timed
from edgewise.results import Estimate

SCHEMA = 1
"""Version of the layout of a cell."""

LEAST_ROUNDS = 4
"""Rounds without which nothing is said of a clock."""

_NUMBER = re.compile(r"(0x)?[0-9a-f]*[0-9][0-9a-f.]*")

Floats = NDArray[np.float64]
Cell = dict[str, Any]


def clock_figures(launches: Sequence[Samples], random: np.random.Generator) -> dict[str, Any] | None:
    """One clock of one bundle: p50, p90, p99, mean, sd, min and n, in milliseconds; None for less than four blocks.

    The interval of p50 is that over launches where there are five or more, else over pairs of blocks. p90 and p99 are
    withheld (None) below 44 and 459 runs.

    Args:
        launches: the blocks of each launch, in ns.
        random: source of the resamples.
    """
    blocks = _even([block / 1e6 for launch in launches for block in launch])
    if len(blocks) < LEAST_ROUNDS:
        return None
    runs = np.concatenate(blocks)
    shares = [0.5] + [0.9] * (runs.size >= P90_RUNS) + [0.99] * (runs.size >= P99_RUNS)
    p50, *others = percentile_estimates(blocks, shares, random)
    medians = [float(np.median(np.concatenate(launch))) / 1e6 for launch in launches if launch]
    if len(medians) >= LAUNCHES:
        p50 = median_of_launches(medians, runs.size)
    p90, p99 = (*others, None, None)[:2]
    return {
        "p50": p50.value,
        "ci": [p50.low, p50.high],
        "p90": p90.value if p90 else None,
        "p90_ci": [p90.low, p90.high] if p90 else None,
        "p99": p99.value if p99 else None,
        "p99_ci": [p99.low, p99.high] if p99 else None,
        "mean": float(runs.mean()),
        "sd": float(runs.std(ddof=1)),
        "min": float(runs.min()),
        "n": int(runs.size),
        "launches": medians,
        "launch_spread": (max(medians) - min(medians)) / p50.value,
    }


def ratio(one: Sequence[Samples], other: Sequence[Samples], seed: int, level: float = 0.95) -> Estimate | None:
    """The paired ratio of two series of one session; None for less than four common rounds."""
    mine, theirs = [], []
    for left, right in zip(one, other, strict=False):
        rounds = min(len(left), len(right)) // 2 * 2
        if rounds:
            mine.append(_medians(left[:rounds]))
            theirs.append(_medians(right[:rounds]))
    if sum(map(len, mine)) < LEAST_ROUNDS:
        return None
    if len(mine) >= LAUNCHES:
        return ratio_of_launches(mine, theirs, level=level)
    pooled = np.concatenate(mine)[:, None], np.concatenate(theirs)[:, None]
    return ratio_estimate(*pooled, np.random.default_rng([seed, 1]), level=level)


def cells_of(
    taken: Taken,
    candidates: Sequence[Candidate],
    protocol: Protocol,
    setting: Setting,
    *,
    device: dict[str, Any],
    called: dict[str, NDArray[np.int64]],
    about: dict[str, Any],
    seed: int,
) -> list[Cell]:
    """The cells of one session, in the order of the candidates.

    Args:
        taken: what came back.
        candidates: the first is the reference.
        protocol: how long it was to last.
        setting: threads and affinity.
        device: facts of the machine, its python and packages, and what the user said of it.
        called: the answers of each candidate on its test images, from the device.
        about: when, tool_version, command, session: alike for all cells of the session.
        seed: of the intervals.
    """
    disturbed = [taken.missing] if taken.missing else []
    for (before, after), states in zip(taken.edges, taken.states, strict=True):  # of each whole launch
        edges = machine.reasons(before, after)
        kinds = {_NUMBER.sub("#", why) for why in edges}
        disturbed += edges + [why for why in machine.reasons_during(states) if _NUMBER.sub("#", why) not in kinds]
    reference = candidates[0]
    twins = taken.timed[reference.name]
    check = ratio(twins.again, twins.model, seed) if protocol.interleaved else None
    wide = ratio(twins.again, twins.model, seed, AA_LEVEL) if protocol.interleaved else None
    comparable = wide is not None and wide.low <= 1 <= wide.high
    if wide is not None and not comparable:
        disturbed.append(
            f"A/A check: the reference against itself is {wide.value:.3f} [{wide.low:.3f}, {wide.high:.3f}], "
            "which excludes 1"
        )
    found = []
    for one in candidates:
        timed = taken.timed[one.name]
        compared = ratio(timed.model, twins.model, seed) if protocol.interleaved and one is not reference else check
        figures = _latency(timed, taken, protocol, one.name, seed)
        reasons = merged(disturbed) + _drifts(timed, protocol)
        if figures["model"] is None:
            reasons.append("incomplete: less than four rounds")
        runtime = _runtime(taken, one, setting, device)
        found.append(
            {
                "schema": SCHEMA,
                **about,
                "name": f"{one.name}-{setting.label}",
                "device": {**_device(device), "fingerprint": fingerprint(device, runtime)},
                "runtime": runtime,
                "model": _model(one),
                "protocol": _protocol(taken, protocol, timed, one, seed),
                "latency_ms": figures,
                "compare": {
                    "reference": reference.name if protocol.interleaved else None,
                    "ratio": _estimate(compared),
                    "aa_spread": (check.high - check.low) / 2 if check else None,
                    "comparable": comparable,
                },
                "memory": _memory(taken.cold.get(one.name, [])),
                "energy": per_inference(taken.energy.get(one.name, {})),
                "accuracy": _accuracy(one, called.get(one.name)),
                "state": _state(taken),
                "valid": not reasons,
                "invalid_reasons": reasons,
                "complete": not taken.missing,
            }
        )
    if comparable:
        _rank(found, [taken.timed[one.name] for one in candidates], check, seed)
    return found


def fingerprint(device: dict[str, Any], runtime: dict[str, Any]) -> str:
    """12 hexadecimal digits over all that must agree before two figures may stand in one ranking."""
    keys = ("name", "version", "provider", "threads", "affinity")
    facts = [device["machine"]["fingerprint"], device.get("power_mode", ""), device["python"], device["bits"]]
    stable = json.dumps([facts, [runtime.get(key) for key in keys]], sort_keys=True)
    return hashlib.sha256(stable.encode()).hexdigest()[:12]


def merged(reasons: Sequence[str]) -> list[str]:
    """Reasons that differ in their numbers only are one, told with how often it was met."""
    kinds: dict[str, list[str]] = {}
    for why in reasons:
        kinds.setdefault(_NUMBER.sub("#", why), []).append(why)
    return [f"{met[0]} ({len(met)} times)" if len(met) > 1 else met[0] for met in kinds.values()]


def raw_csv(timed: Timed) -> bytes:
    """All samples of a cell as gzipped CSV: launch, clock, block, run, ns; block -1 is the warm-up, not counted."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("launch", "clock", "block", "run", "ns"))
    for launch, warm in enumerate(timed.warm):
        writer.writerows((launch, "model", -1, run, ns) for run, ns in enumerate(warm.tolist()))
    for clock, launches in (("model", timed.model), ("e2e", timed.e2e), ("model again", timed.again)):
        for launch, blocks in enumerate(launches):
            for number, block in enumerate(blocks):
                writer.writerows((launch, clock, number, run, ns) for run, ns in enumerate(block.tolist()))
    return gzip.compress(stream.getvalue().encode("ascii"), 6, mtime=0)


def _rank(cells: list[Cell], timed: Sequence[Timed], check: Estimate | None, seed: int) -> None:
    """Give the cells their ranks by the paired ratio; neighbours that cannot be told apart share one and are ties.

    Two are told apart when the interval of their own ratio excludes 1 and the effect is above twice the A/A spread.
    """
    spread = (check.high - check.low) / 2 if check else 0.0
    order = sorted(
        (index for index, cell in enumerate(cells) if cell["latency_ms"]["model"]),
        key=lambda index: cells[index]["compare"]["ratio"]["value"] if index else 1.0,
    )
    rank = 0
    for place, index in enumerate(order):
        told = None
        if place:
            told = ratio(timed[index].model, timed[order[place - 1]].model, seed)
        same = told is not None and (told.low <= 1 <= told.high or abs(told.value - 1) <= 2 * spread)
        rank = rank if same else place + 1
        cells[index]["compare"].update(rank=rank, tie=same)
        if same:
            cells[order[place - 1]]["compare"]["tie"] = True


def _latency(timed: Timed, taken: Taken, protocol: Protocol, name: str, seed: int) -> dict[str, Any]:
    random = np.random.default_rng([seed, 2])
    cold = taken.cold.get(name, [])
    loads = [facts["load_ms"] for facts in cold]
    found: dict[str, Any] = {
        "load": float(np.median(loads)) if loads else None,
        "load_range": [min(loads), max(loads)] if loads else None,
        "first": float(np.median([facts["first_ms"] for facts in cold])) if cold else None,
        "cold_launches": len(cold),
        "model": clock_figures(timed.model, random),
        "e2e": clock_figures(timed.e2e, random),
        "e2e_missing": taken.no_e2e,
    }
    if protocol.name == "sustained":
        windows = [block / 1e6 for launch in timed.model for block in launch]
        found["windows_p50"] = [float(np.median(one)) for one in windows]
        found["windows_p99"] = [float(np.percentile(one, 99)) if one.size >= P99_RUNS else None for one in windows]
    return found


def _drifts(timed: Timed, protocol: Protocol) -> list[str]:
    """Reasons from the change between the first and the last quarter of a clock."""
    found = []
    for clock, launches in (("model", timed.model), ("e2e", timed.e2e)):
        blocks = [block / 1e6 for launch in launches for block in launch]
        if len(blocks) >= LEAST_ROUNDS:
            found += drift(blocks, clock)
    return [why.replace("model drift", "sustained") if protocol.name == "sustained" else why for why in found]


def _runtime(taken: Taken, one: Candidate, setting: Setting, device: dict[str, Any]) -> dict[str, Any]:
    about = taken.about.get(one.name, {})
    packages = device.get("packages", {})
    return {
        "name": about.get("runtime", one.manifest.format),
        "version": about.get("version"),
        "provider": about.get("provider"),
        "threads": setting.threads,
        "affinity": taken.affinity,
        "spinning": about.get("spinning"),
        "python": device["python"],
        "runtime_package": packages.get("onnxruntime", {}).get("version"),
        "numpy": packages.get("numpy", {}).get("version"),
        "package_bytes": packages.get("onnxruntime", {}).get("bytes") if one.manifest.format in ON_BOARD else None,
    }


def _device(device: dict[str, Any]) -> dict[str, Any]:
    facts = device["machine"]
    return {
        "model": facts["model"],
        "soc": facts["cpu"],
        "cores": facts["cores_physical"],
        "ram": facts["ram_bytes"],
        "os": facts["os"],
        "bits": device["bits"],
        "kernel": facts["kernel"],
        "arch": facts["arch"],
        "cooling": device.get("cooling"),
        "psu": device.get("psu"),
        "power_mode": device.get("power_mode") or None,
        "governor": facts["governor"],
        "where": device["where"],
        "relative_only": facts["relative_only"],
        "cpu_flags": [name for name in ("avx2", "avx512", "vnni", "dotprod") if facts[name]],
    }


def _model(one: Candidate) -> dict[str, Any]:
    manifest = one.manifest
    cost = manifest.measured.get("cost") or {}
    return {
        "name": manifest.name,
        "bundle": str(one.folder),
        "sha256": manifest.files[manifest.model_file],
        "format": manifest.format,
        "bytes": model_bytes(one.folder, manifest),
        "params": cost.get("params_total"),
        "macs": cost.get("macs"),
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "input": list(manifest.input.shape),
    }


def _protocol(taken: Taken, protocol: Protocol, timed: Timed, one: Candidate, seed: int) -> dict[str, Any]:
    return {
        "mode": protocol.label,
        "warmup": [len(warm) for warm in timed.warm],
        "n": sum(len(block) for launch in timed.model for block in launch),
        "seconds": sum(float(block.sum()) for launch in timed.model for block in launch) / 1e9,
        "launches": taken.launches,
        "rounds": protocol.rounds,
        "order": "ABBA, seeded" if protocol.interleaved else "alone",
        "seed": seed,
        "batch": 1,
        "images_sha256": one.images.sha256,
        "pictures": len(one.images.pictures),
    }


def _memory(cold: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not cold:
        return None
    peak, base = (int(np.median([facts[key] for facts in cold])) for key in ("peak_rss_bytes", "baseline_rss_bytes"))
    return {"peak_rss": peak, "baseline": base, "net": peak - base}


def _accuracy(one: Candidate, called: NDArray[np.int64] | None) -> dict[str, Any] | None:
    if called is None:
        return None
    found = quality(called, one.images.labels, one.manifest.labels)
    return {
        "n": found.n,
        "of": one.images.total,
        "top1": found.accuracy.value,
        "ci": [found.accuracy.low, found.accuracy.high],
        "macro_f1": found.macro_f1.value,
        "macro_f1_ci": [found.macro_f1.low, found.macro_f1.high],
    }


def _state(taken: Taken) -> dict[str, Any]:
    """The machine during the cell, from the readings of every second and those before and after."""
    states = [state for pair in taken.edges for state in pair] + [state for run in taken.states for state in run]
    warmth = [one.temperature_c for one in states if one.temperature_c is not None]
    clocks = [max(one.frequency_khz) for one in states if one.frequency_khz]
    loads = [one.load_1min for one in states if one.load_1min is not None]
    free = [one.available_bytes for one in states if one.available_bytes is not None]
    bits = [one.pi_bits for one in states if one.pi_bits is not None]
    others = [share for pair in taken.edges if (share := machine.other_load(*pair)) is not None]
    return {
        "temp_start": warmth[0] if warmth else None,
        "temp_max": max(warmth, default=None),
        "freq_min": min(clocks, default=None),
        "freq_max": max(clocks, default=None),
        "throttle_bits": int(np.bitwise_or.reduce(bits)) if bits else None,
        "load": max(loads, default=None),
        "other_load": max(others, default=None),
        "free_min": min(free, default=None),
        "swap": max((one.own_swap_bytes or 0 for one in states), default=0),
        "governors": sorted({name for one in states for name in one.governors}),
        "readings": len(states),
    }


def _estimate(found: Estimate | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _medians(blocks: Iterable[NDArray[np.int64]]) -> Floats:
    return np.array([np.median(block) for block in blocks]) / 1e6


def _even(blocks: list[Floats]) -> list[Floats]:
    return blocks[: len(blocks) // 2 * 2]
