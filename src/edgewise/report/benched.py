"""The cells of a bench on a terminal: one group for each fingerprint, invalid ones struck, ties marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgewise.report.words import NONE, clean, plural, show_ms, show_ratio, show_scaled, show_share

_TITLES = (
    "rank",
    "bundle",
    "p50 ms",
    "p90",
    "p99",
    "e2e p50",
    "x first",
    "load",
    "first",
    "RSS net",
    "mJ net",
    "top-1 %",
)


def grouped(cells: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Cells that may stand in one ranking: of one session, so of one machine, runtime and number of threads."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        key = (cell["device"]["fingerprint"] if _alone(cell) else "", cell["session"], str(cell["runtime"]["threads"]))
        groups.setdefault(key, []).append(cell)
    return [sorted(group, key=lambda cell: cell["compare"].get("rank") or 1 << 30) for group in groups.values()]


def method_line(cell: dict[str, Any]) -> str:
    """How a cell was taken, in one line."""
    device, runtime, protocol = cell["device"], cell["runtime"], cell["protocol"]
    affinity = f", pinned to CPU {','.join(map(str, runtime['affinity']))}" if runtime["affinity"] is not None else ""
    facts = [
        device["model"] or device["soc"],
        plural(f"{device['cores']}", "core"),
        f"{show_scaled(device['ram'], 'B')} RAM" if device["ram"] else "",
        f"cooling {device['cooling']}" if device["cooling"] else "cooling not stated",
        f"power supply {device['psu']}" if device["psu"] else "",
        device["os"],
        f"kernel {device['kernel']}",
        f"{runtime['name']} {runtime['version'] or ''}".strip(),
        plural(f"{runtime['threads']}", "thread") + affinity,
        f"governor {device['governor'] or 'not told'}",
        f"power mode {device['power_mode']}" if device["power_mode"] else "",
        f"batch 1, n={protocol['n']:,} in {plural(str(protocol['launches']), 'launch').replace('launchs', 'launches')}",
        f"{protocol['seconds']:.1f} s",
        "p50 [95 % CI]",
        f"{protocol['mode']} protocol",
        "relative only: " + device["relative_only"] if device["relative_only"] else "",
    ]
    return clean(", ".join(fact for fact in facts if fact)).replace("\n", " ")


def lines(cells: Sequence[dict[str, Any]]) -> list[str]:
    """The table of all cells, with the method line of each group and the reasons of what does not stand."""
    shown: list[str] = []
    for group in grouped(cells):
        rows = [_TITLES, *(_row(cell) for cell in group)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
        shown += ["", method_line(group[0])]
        for row in rows:
            cells_ = [
                text.ljust(width) if column == 1 else text.rjust(width)
                for column, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            shown.append("  ".join(cells_).rstrip())
        shown += _notes(group)
    return shown[1:]


def _row(cell: dict[str, Any]) -> tuple[str, ...]:
    latency, compare, memory, accuracy = cell["latency_ms"], cell["compare"], cell["memory"], cell["accuracy"]
    model, e2e = latency["model"] or {}, latency["e2e"] or {}
    struck = "" if cell["valid"] else " ✗"
    ratio = compare["ratio"] or {}
    first = compare["reference"] and cell["name"].startswith(f"{compare['reference']}-t")
    rank = compare.get("rank")
    return (
        f"{rank}{'=' if compare.get('tie') else ''}" if rank and compare["comparable"] else NONE,
        clean(cell["name"]),
        (_spread(model) + struck) if model else NONE,
        show_ms(model.get("p90")),
        show_ms(model.get("p99")),
        (_spread(e2e) + struck) if e2e else NONE,
        "1" if first else show_ratio(ratio.get("value"), ratio.get("low"), ratio.get("high")),
        show_ms(latency["load"]),
        show_ms(latency["first"]),
        show_scaled(memory["net"], "B") if memory else NONE,
        f"{cell['energy']['mj_net']:.3g}" if cell["energy"].get("mj_net") is not None else NONE,
        show_share(accuracy["top1"], *accuracy["ci"]) if accuracy else NONE,
    )


def _notes(group: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    shared = [why for why in group[0]["invalid_reasons"] if all(why in cell["invalid_reasons"] for cell in group)]
    if len(group) > 1:
        found += [f"✗ all: {clean(why)}" for why in shared]
    for cell in group:
        own = [why for why in cell["invalid_reasons"] if len(group) == 1 or why not in shared]
        found += [f"✗ {clean(cell['name'])}: {clean(why)}" for why in own]
    first = group[0]
    spread = first["compare"]["aa_spread"]
    if spread is not None:
        found.append(f"A/A: the first bundle against itself differs by {spread:.1%} at most where nothing differs")
    if any(cell["compare"].get("tie") for cell in group):
        found.append("= a tie: this session cannot tell them apart")
    if not first["compare"]["comparable"] and first["compare"]["reference"]:
        found.append("the A/A check failed: nothing is ranked")
    if first["latency_ms"]["e2e"] is None and first["latency_ms"]["e2e_missing"]:
        found.append(first["latency_ms"]["e2e_missing"])
    elif not first["protocol"]["pictures"] and first["latency_ms"]["e2e"]:
        found.append("e2e without scaling: there are no pictures of another size than the model's")
    energy = first["energy"]
    found.append(
        f"energy: {energy['source']}, {energy['boundary']}" if energy["source"] else f"no energy: {energy['why']}"
    )
    if first["accuracy"]:
        found.append(f"top-1 on {first['accuracy']['n']} of {first['accuracy']['of']} test images, on the device")
    if "quick" in first["protocol"]["mode"] or "shortened" in first["protocol"]["mode"]:
        found.append(f"{first['protocol']['mode']}: compares bundles of this session only, not sessions")
    return found


def _spread(clock: dict[str, Any]) -> str:
    return show_ms(clock["p50"], *clock["ci"])


def _alone(cell: dict[str, Any]) -> bool:
    return not cell["compare"]["reference"]
