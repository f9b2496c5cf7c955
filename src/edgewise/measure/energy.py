"""Energy per inference from readings of a power sensor: gross, and net of what the idle machine draws."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_SAMPLES = 100
"""Readings of a block below which the figure is marked as coarse."""


def per_inference(raw: dict[str, Any]) -> dict[str, Any]:
    """The figures of one cell.

    Args:
        raw: what `edgewise.measure.session` took: `source`, `boundary`, `idle` (two lists of (seconds, joules so far)),
            `full` and `paced` ({energy, blocks of (from, to, inferences)}), `per_second`; or `source` None and `why`.

    Returns:
        source, boundary, idle_w, active_w, mj_gross and mj_net (medians of the blocks), rate (inferences a second);
        `paced` holds the same at the fixed rate; `notes`. With no source: source None and why.
    """
    if raw.get("source") is None:
        return {"source": None, "why": raw.get("why", "not measured by this protocol")}
    idles = [watts for energy in raw["idle"] if (watts := mean_watts(energy)) is not None]
    idle = statistics.mean(idles) if idles else None
    full = _figures(raw["full"], idle)
    readings = [_within(raw["full"]["energy"], block) for block in raw["full"]["blocks"]]
    notes = []
    if readings and min(readings) < LEAST_SAMPLES:
        notes.append(f"coarse: {min(readings)} readings in a block; {LEAST_SAMPLES} are wanted")
    if len(idles) == 2 and abs(idles[1] - idles[0]) > 0.05 * idles[0]:
        notes.append(f"idle power changed {idles[0]:.2f} -> {idles[1]:.2f} W")
    notes.append("the readings are taken on the device itself and cost some of the power they measure")
    paced = _figures(raw["paced"], idle)
    return {
        "source": raw["source"],
        "boundary": raw["boundary"],
        "idle_w": idle,
        **full,
        "paced": {**paced, "per_second": raw["per_second"]} if paced["active_w"] is not None else None,
        "notes": notes,
    }


def mean_watts(energy: Sequence[Sequence[float]]) -> float | None:
    """The mean power over readings of (seconds, joules so far); None for fewer than two."""
    if len(energy) < 2 or energy[-1][0] <= energy[0][0]:
        return None
    return (energy[-1][1] - energy[0][1]) / (energy[-1][0] - energy[0][0])


def _figures(stretch: dict[str, Any], idle: float | None) -> dict[str, Any]:
    """Medians over the blocks of a stretch."""
    times, joules = np.array(stretch["energy"], dtype=float).reshape(-1, 2).T
    watts, gross, net, rates = [], [], [], []
    for start, end, count in stretch["blocks"]:
        if len(times) < 2 or count == 0:
            continue
        spent = float(np.interp(end, times, joules) - np.interp(start, times, joules))
        watts.append(spent / (end - start))
        gross.append(1e3 * spent / count)
        rates.append(count / (end - start))
        if idle is not None:
            net.append(1e3 * (spent - idle * (end - start)) / count)
    found = {"active_w": watts, "mj_gross": gross, "mj_net": net, "rate": rates}
    return {key: statistics.median(values) if values else None for key, values in found.items()}


def _within(energy: Sequence[Sequence[float]], block: Sequence[float]) -> int:
    return sum(block[0] <= reading[0] <= block[1] for reading in energy)
