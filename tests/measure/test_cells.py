"""Cells from scripted samples: every figure is known, and so is what must be struck, ranked or tied."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import make_bundle

from edgewise.bundle import read_manifest
from edgewise.measure.cells import cells_of, clock_figures, fingerprint, merged, raw_csv
from edgewise.measure.machine import State
from edgewise.measure.protocol import PROTOCOLS, shorten
from edgewise.measure.session import Candidate, Setting, Taken, TestImages, Timed
from edgewise.report.benched import grouped, lines, method_line

MS = 1_000_000
DEVICE: dict[str, Any] = {
    "machine": {
        "model": "Raspberry Pi 5 Model B Rev 1.0",
        "cpu": "Cortex-A76",
        "cores_physical": 4,
        "ram_bytes": 8 << 30,
        "os": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.6.31",
        "arch": "aarch64",
        "governor": "ondemand",
        "fingerprint": "0123456789ab",
        "relative_only": False,
        "avx2": False,
        "avx512": False,
        "vnni": False,
        "dotprod": True,
    },
    "python": "3.11.2",
    "bits": 64,
    "packages": {"onnxruntime": {"version": "1.20", "bytes": 5}, "numpy": {"version": "1.26"}},
    "where": "ssh://pi@board",
    "cooling": "fan",
}
ABOUT = {"when": "2026-01-01", "tool_version": "0", "command": "edgewise bench b", "session": "s"}
KEYS = {
    *("schema", "when", "tool_version", "device", "runtime", "model", "protocol", "latency_ms", "memory", "energy"),
    *("accuracy", "state", "valid", "invalid_reasons", "command"),
}


def blocks(random: np.random.Generator, ms: float, launches: int, rounds: int, noise: float = 0.02) -> list[Any]:
    return [
        [np.round(ms * MS * np.exp(random.normal(0, noise, 60))).astype(np.int64) for _ in range(rounds)]
        for _ in range(launches)
    ]


def session(
    folder: Path, times: dict[str, float], *, mode: str = "standard", twin: float = 1.0, **changes: Any
) -> list[dict[str, Any]]:
    """The cells of a session in which each bundle takes so many ms."""
    protocol = PROTOCOLS[mode]
    random = np.random.default_rng(0)
    bundle = make_bundle(folder / "made") if not (folder / "made").exists() else folder / "made/bundle"
    pixels = np.zeros((40, 8, 8, 3), np.uint8)
    images = TestImages(pixels, np.arange(40) % 3, (), 400)
    candidates = [Candidate(name, bundle, read_manifest(bundle), images) for name in times]
    shape = (protocol.launches, protocol.rounds)
    taken = Taken(
        {
            name: Timed(
                model=blocks(random, ms, *shape),
                e2e=blocks(random, 1.5 * ms, *shape) if protocol.e2e else [],
                again=blocks(random, twin * ms, *shape) if not index and protocol.interleaved else [],
                warm=[np.full(30, 2 * MS)] * protocol.launches,
            )
            for index, (name, ms) in enumerate(times.items())
        },
        cold={
            name: [
                {"load_ms": load, "first_ms": 3.0, "peak_rss_bytes": 70_000_000, "baseline_rss_bytes": 60_000_000}
                for load in (400.0, 420.0, 500.0)
            ]
            for name in times
        },
        launches=protocol.launches,
        states=[[State(temperature_c=50.0 + second, frequency_khz=(2_400_000,)) for second in range(3)]],
        edges=[(State(temperature_c=50.0), State(temperature_c=52.0))],
        about={
            name: {"runtime": "onnxruntime", "version": "1.20", "provider": "CPU", "spinning": False} for name in times
        },
    )
    for key, value in changes.items():
        setattr(taken, key, value)
    called = {name: np.where(np.arange(40) < 36, images.labels, (images.labels + 1) % 3) for name in times}
    return cells_of(taken, candidates, protocol, Setting(1), device=DEVICE, called=called, about=dict(ABOUT), seed=0)


def test_a_cell_holds_what_the_rules_ask_for(tmp_path: Path) -> None:
    (cell,) = session(tmp_path, {"a": 2.0})
    assert set(cell) >= KEYS
    assert json.loads(json.dumps(cell)) == cell
    assert cell["valid"]
    assert cell["complete"]
    assert cell["name"] == "a-t1"
    assert cell["protocol"]["mode"] == "standard"
    assert cell["protocol"]["launches"] == 6
    assert cell["protocol"]["n"] == 6 * 4 * 60
    assert cell["protocol"]["warmup"] == [30] * 6
    assert cell["latency_ms"]["load"] == 420.0
    assert cell["latency_ms"]["load_range"] == [400.0, 500.0]
    model, e2e = cell["latency_ms"]["model"], cell["latency_ms"]["e2e"]
    assert model["ci"][0] <= 2.0 <= model["ci"][1]
    assert e2e["p50"] == pytest.approx(3.0, rel=0.01)
    assert len(model["launches"]) == 6
    assert model["launch_spread"] < 0.02
    assert model["p99_ci"][0] <= model["p99"] <= model["p99_ci"][1]
    assert cell["memory"] == {"peak_rss": 70_000_000, "baseline": 60_000_000, "net": 10_000_000}
    assert (cell["accuracy"]["n"], cell["accuracy"]["of"], cell["accuracy"]["top1"]) == (40, 400, 0.9)
    assert cell["accuracy"]["ci"][0] < 0.9 < cell["accuracy"]["ci"][1]
    assert (cell["state"]["temp_start"], cell["state"]["temp_max"]) == (50.0, 52.0)
    assert cell["energy"]["source"] is None
    assert cell["device"]["cooling"] == "fan"


def test_percentiles_are_withheld_from_few_runs() -> None:
    random = np.random.default_rng(0)
    for runs, p90, p99 in [(10, False, False), (12, True, False), (115, True, True)]:
        found = clock_figures([[random.integers(1, 9, runs) * MS for _ in range(4)]], random)
        assert found is not None
        assert (found["p90"] is not None, found["p99"] is not None) == (p90, p99)
        assert found["n"] == 4 * runs
    assert clock_figures([[np.ones(50)] * 3], random) is None


def test_bundles_are_ranked_by_their_paired_ratio_and_ties_are_ties(tmp_path: Path) -> None:
    cells = session(tmp_path, {"base": 2.0, "half": 1.0, "same": 2.0, "slow": 3.0})
    ranks = {cell["name"]: (cell["compare"]["rank"], cell["compare"]["tie"]) for cell in cells}
    assert ranks == {"half-t1": (1, False), "base-t1": (2, True), "same-t1": (2, True), "slow-t1": (4, False)}
    assert cells[1]["compare"]["ratio"]["low"] <= 0.5 <= cells[1]["compare"]["ratio"]["high"]
    shown = "\n".join(lines(cells))
    assert "2=" in shown
    assert "= a tie" in shown
    assert shown.index("half-t1") < shown.index("base-t1") < shown.index("slow-t1")


def test_a_failed_aa_check_ranks_nothing(tmp_path: Path) -> None:
    cells = session(tmp_path, {"base": 2.0, "half": 1.0}, twin=1.1)
    for cell in cells:
        assert not cell["valid"]
        assert not cell["compare"]["comparable"]
        assert "rank" not in cell["compare"]
        assert any(why.startswith("A/A check: the reference against itself is 1.1") for why in cell["invalid_reasons"])
    shown = "\n".join(lines(cells))
    assert "✗" in shown
    assert "nothing is ranked" in shown


def test_a_disturbance_strikes_every_cell_of_the_session(tmp_path: Path) -> None:
    hot = [[State(pi_bits=0), State(pi_bits=4), State(pi_bits=0)]]
    for cell in session(tmp_path, {"a": 2.0, "b": 2.0}, states=hot):
        assert cell["invalid_reasons"] == ["throttled (vcgencmd throttle bits 0x4)"]
        assert cell["state"]["throttle_bits"] == 4


def test_sustained_is_windows_and_a_change_is_told_as_such(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    protocol = PROTOCOLS["sustained"]
    grown = [[block * (1 + index / 200) for index, block in enumerate(blocks(random, 2.0, 1, protocol.rounds)[0])]]
    timed = Timed(model=[[np.round(block).astype(np.int64) for block in grown[0]]], warm=[np.full(30, MS)])
    (cell,) = session(tmp_path, {"a": 2.0}, mode="sustained", timed={"a": timed})
    assert len(cell["latency_ms"]["windows_p50"]) == 60
    assert cell["latency_ms"]["windows_p50"][-1] > 1.2 * cell["latency_ms"]["windows_p50"][0]
    assert cell["compare"]["reference"] is None
    assert not cell["valid"]
    (why,) = cell["invalid_reasons"]
    assert why.startswith("sustained 2.0")
    assert " -> 2.5" in why


def test_cells_of_another_machine_stand_in_another_group(tmp_path: Path) -> None:
    one, two = session(tmp_path, {"a": 2.0, "b": 1.0})
    other = {**two, "session": "later", "device": {**two["device"], "fingerprint": "ffff"}}
    assert [[cell["name"] for cell in group] for group in grouped([one, two, other])] == [["b-t1", "a-t1"], ["b-t1"]]


def test_the_fingerprint_follows_all_that_must_agree() -> None:
    runtime = {"name": "onnxruntime", "version": "1.20", "provider": "CPU", "threads": 1, "affinity": None}
    first = fingerprint(DEVICE, runtime)
    assert len(first) == 12
    for changed in ({"version": "1.21"}, {"threads": 2}, {"affinity": [0]}):
        assert fingerprint(DEVICE, {**runtime, **changed}) != first
    assert fingerprint({**DEVICE, "power_mode": "15W"}, runtime) != first
    assert fingerprint({**DEVICE, "where": "elsewhere"}, runtime) == first


def test_the_method_is_one_line(tmp_path: Path) -> None:
    (cell,) = session(tmp_path, {"a": 2.0})
    assert method_line(cell) == (
        "Raspberry Pi 5 Model B Rev 1.0, 4 cores, 8.59 GB RAM, cooling fan, Debian GNU/Linux 12 (bookworm), kernel "
        "6.6.31, onnxruntime 1.20, 1 thread, governor ondemand, batch 1, n=1,440 in 6 launches, "
        f"{cell['protocol']['seconds']:.1f} s, p50 [95 % CI], standard protocol"
    )


def test_raw_samples_are_all_there(tmp_path: Path) -> None:
    timed = Timed(
        model=[[np.array([5, 6]), np.array([7])]], e2e=[[np.array([9])]], again=[[np.array([8])]], warm=[np.array([1])]
    )
    rows = list(csv.reader(io.StringIO(gzip.decompress(raw_csv(timed)).decode())))
    assert rows == [
        ["launch", "clock", "block", "run", "ns"],
        ["0", "model", "-1", "0", "1"],
        ["0", "model", "0", "0", "5"],
        ["0", "model", "0", "1", "6"],
        ["0", "model", "1", "0", "7"],
        ["0", "e2e", "0", "0", "9"],
        ["0", "model again", "0", "0", "8"],
    ]


def test_reasons_that_differ_in_numbers_are_one() -> None:
    reasons = ["other processes used 82% of the CPUs", "swap was used: 3 pages", "other processes used 9% of the CPUs"]
    assert merged(reasons) == ["other processes used 82% of the CPUs (2 times)", "swap was used: 3 pages"]


@pytest.mark.parametrize("name", ["quick", "standard", "sustained"])
def test_protocols_are_those_of_the_rules(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.rounds % 2 == 0
    assert protocol.label == name
    if name == "standard":
        assert protocol.launches >= 5
        assert protocol.seconds >= 60
        assert protocol.least_block * protocol.rounds * protocol.launches >= 1024
        assert 2 <= protocol.block_s <= 10
        assert protocol.energy is not None
        assert protocol.energy.idle_s >= 60
    if name == "sustained":
        assert (protocol.seconds, protocol.block_s) == (600, 10)
    short = shorten(protocol, 0.1, 1)
    assert short.label == f"{name}, shortened"
    assert short.warm_cap_s <= protocol.warm_cap_s
    assert shorten(protocol, None, None) == protocol
    longer = shorten(protocol, 2 * protocol.seconds, None)
    assert longer.label == name
    assert dataclasses.replace(longer, seconds=protocol.seconds) == protocol
