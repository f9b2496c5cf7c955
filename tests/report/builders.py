"""A realistic run, built by hand: base, distilled, its control, two pruned nets, in fp32 and int8.

The figures are consistent with each other (quality is counted from confusion matrices), invented, and never change.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np

from edgewise.results import (
    Answered,
    Bin,
    Calibration,
    Candidate,
    Clock,
    Cost,
    Decision,
    Difference,
    Estimate,
    Failure,
    Latency,
    Measurement,
    Memory,
    Parity,
    Quality,
    Reliability,
    RunResult,
)

CLASSES = ("battery", "cardboard", "glass", "metal", "paper", "plastic")
HOSTILE = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example/","x")',
    "</script><img src=http://evil.example/x.png onerror=alert(2)>",
    '<a href="javascript:alert(3)"><b>bold</b></a> & &lt; %{x} {{7*7}}',
    "\u202egnp.exe\x1b[31m",
    "$x^2$ -1",
)

BASE_SEED = 1
Role = Literal["base", "variant", "control"]


def wilson(hits: int, n: int) -> Estimate:
    """Wilson's score interval of a share."""
    z, share = 1.959964, hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, min(share, middle - half), max(share, middle + half), n)


def quality(accuracy: float, classes: tuple[str, ...], per_class: int, seed: int) -> Quality:
    """Quality of a classifier that is right about `accuracy` of the time, less so for later classes."""
    random = np.random.default_rng(seed)
    count = len(classes)
    confusion = []
    for truth in range(count):
        share = min(0.999, max(0.0, accuracy + 0.012 * (count / 2 - truth)))
        chances = np.full(count, (1 - share) / (count - 1))
        chances[truth] = share
        confusion.append([int(drawn) for drawn in random.multinomial(per_class, chances)])
    table = np.array(confusion)
    hits = table.diagonal()
    f1 = float(np.mean(2 * hits / (table.sum(0) + table.sum(1))))
    overall = wilson(int(hits.sum()), int(table.sum()))
    half = (overall.high - overall.low) / 2
    return Quality(
        n=int(table.sum()),
        accuracy=overall,
        macro_f1=Estimate(f1, f1 - half, min(1.0, f1 + half), int(table.sum())),
        recall={name: wilson(int(hits[index]), per_class) for index, name in enumerate(classes)},
        confusion=confusion,
    )


def difference(test: Quality, base: Quality) -> Difference:
    """Paired difference of two qualities on the same images, with intervals of an invented width."""
    found = {}
    for metric in ("accuracy", "macro_f1"):
        change = getattr(test, metric).value - getattr(base, metric).value
        found[metric] = Estimate(change, change - 0.009, change + 0.008, test.n)
    return Difference("base-fp32", **found)


def reliability(test: Quality, gap: float) -> Reliability:
    """All answers in one bin, their mean confidence `gap` above the accuracy."""
    right = test.accuracy
    confidence = right.value + gap
    return Reliability(
        n=test.n,
        ece=abs(gap),
        ece_chance=0.014,
        ece_adaptive=abs(gap) + 0.001,
        nll=0.12 + abs(gap),
        gap=Estimate(gap, confidence - right.high, confidence - right.low, test.n),
        bins=[Bin(14 / 15, 1.0, test.n, confidence, right.value)],
    )


def calibration(test: Quality, precision: str) -> Calibration:
    """An fp32 file that fits, or an int8 file that is over-confident; both fit after scaling."""
    gap, temperature = (0.031, 1.62) if precision == "int8" else (0.004, 1.08)
    return Calibration(temperature, 360, 14, "", reliability(test, gap), reliability(test, 0.001))


def decision(test: Quality, precision: str) -> Decision:
    """An fp32 file that answers nine in ten; an int8 file with a threshold of its own."""
    threshold, share = (0.8127, 0.9) if precision == "fp32" else (0.8605, 0.85)
    count = round(share * test.n)
    answers = Answered(wilson(count, test.n), wilson(round(0.985 * count), count))
    return Decision(0.95, threshold, "", answers, answers)


def clock(p50: float, n: int) -> Clock:
    """A latency distribution around `p50` ms."""
    return Clock(
        n=n,
        p50_ms=Estimate(p50, p50 * 0.99, p50 * 1.015, n),
        p90_ms=p50 * 1.12,
        p99_ms=p50 * 1.6 if n >= 459 else None,
        mean_ms=p50 * 1.03,
        sd_ms=p50 * 0.08,
        min_ms=p50 * 0.94,
    )


def latency(p50: float, ratio: float | None, n: int = 600) -> Latency:
    """The clocks of a bundle whose model clock has the median `p50` ms and `ratio` to the base."""
    return Latency(
        protocol="quick",
        threads=1,
        model=clock(p50, n),
        e2e=clock(p50 + 0.62, n),
        load_ms=410.0 + p50,
        first_ms=p50 * 2.4,
        reference=None if ratio is None else "base-fp32",
        ratio=None if ratio is None else Estimate(ratio, ratio * 0.98, ratio * 1.03, 40),
        aa_spread=0.012,
    )


def measurement(
    variant: str,
    precision: str,
    *,
    role: Role = "variant",
    plan: str = "",
    accuracy: float = 0.95,
    params: int = 93_954,
    macs: int = 165_150_976,
    p50: float = 12.0,
    ratio: float | None = None,
    classes: tuple[str, ...] = CLASSES,
    seed: int = 0,
) -> Measurement:
    """One row; the file takes 4 bytes a parameter in fp32 and 1 in int8, plus 3,000."""
    test = quality(accuracy, classes, 80, seed)
    base = quality(0.967, classes, 80, BASE_SEED)
    return Measurement(
        name=f"{variant}-{precision}",
        variant=variant,
        role=role,
        plan=plan,
        format="onnx",
        precision=precision,
        scheme="u8s8-rr" if precision == "int8" else "",
        bundle=f"bundles/{variant}-{precision}",
        sha256=f"{seed:064x}",
        cost=Cost(params, params - 12, 12, macs, params * (1 if precision == "int8" else 4) + 3_000),
        validation=quality(accuracy + 0.002, classes, 60, seed + 500),
        test=test,
        difference=None if (role, precision) == ("base", "fp32") else difference(test, base),
        parity=Parity(480, 3.1e-6 if precision == "fp32" else 0.41, 1.0, 1e-3 if precision == "fp32" else None, True),
        latency=latency(p50, ratio),
        memory=Memory(71_000_000 + params * 4, 59_000_000),
        calibration=calibration(test, precision),
        decision=decision(test, precision),
    )


def run_result(classes: tuple[str, ...] = CLASSES, **changes: Any) -> RunResult:
    """The whole run; prune50-int8 has invalid milliseconds, distilled-int8 is slower than base, one variant failed."""
    small: dict[str, Any] = {"params": 6_210, "macs": 12_976_192, "classes": classes}
    half: dict[str, Any] = {"params": 23_938, "macs": 42_200_000, "plan": "prune(ratio=0.5)", "classes": classes}
    scratch: dict[str, Any] = {"role": "control", "accuracy": 0.951, "params": 8_556, "macs": 15_300_000}
    most: dict[str, Any] = {"params": 8_556, "macs": 15_300_000, "plan": "prune(ratio=0.7)", "classes": classes}
    measurements = [
        measurement("distilled", "fp32", plan="distill(tau=4)", accuracy=0.941, p50=1.31, ratio=0.107, seed=3, **small),
        measurement(
            "base", "fp32", role="base", accuracy=0.967, p50=12.24, ratio=1.004, classes=classes, seed=BASE_SEED
        ),
        measurement("base", "int8", accuracy=0.965, p50=7.9, ratio=0.645, classes=classes, seed=2),
        measurement("distilled", "int8", plan="distill(tau=4)", accuracy=0.938, p50=13.4, ratio=1.1, seed=4, **small),
        measurement("prune50", "fp32", accuracy=0.962, p50=4.82, ratio=0.394, seed=5, **half),
        measurement("prune50", "int8", accuracy=0.96, p50=3.77, ratio=0.31, seed=6, **half),
        measurement("prune70", "fp32", accuracy=0.957, p50=2.22, ratio=0.181, seed=7, **most),
        measurement("prune70", "int8", accuracy=0.956, p50=1.72, ratio=0.141, seed=8, **most),
        measurement("distilled-scratch", "fp32", role="control", accuracy=0.935, p50=1.3, ratio=0.106, seed=9, **small),
        measurement("prune70-scratch", "fp32", p50=2.21, ratio=0.18, classes=classes, seed=10, **scratch),
    ]
    hot = measurements[5].latency
    assert hot is not None
    measurements[5] = dataclasses.replace(
        measurements[5],
        latency=dataclasses.replace(
            hot,
            valid=False,
            invalid_reasons=["CPU clock fell 2400 -> 2136 MHz", "other processes used 23% of the CPUs"],
        ),
        notes=["12 parameters are zero"],
    )
    facts: dict[str, Any] = {
        "name": "recycling",
        "created": "2025-03-14T09:26:53+00:00",
        "command": "edgewise run recipe.yaml --out runs/recycling",
        "seed": 7,
        "classes": list(classes),
        "data": {"sha256": "ab" * 32, "train": 2_240, "validation": 360, "test": 480, "bad_files": 3},
        "goal": {"metric": "macro_f1", "max_drop": 0.02, "min": None, "prefer": "latency"},
        "chosen": "prune70-int8",
        "machine": {
            "fingerprint": "b3f1c2d4",
            "model": "Raspberry Pi 5",
            "cpu": "Cortex-A76",
            "cores_logical": 4,
            "cores_physical": 4,
            "ram_bytes": 8_234_000_000,
            "os": "Debian 12",
            "kernel": "6.6.31",
            "governor": "ondemand",
            "relative_only": False,
        },
        "versions": {"python": "3.11.9", "edgewise": "0.1.0", "torch": "2.10.0", "onnxruntime": "1.31.0"},
        "measurements": measurements,
        "candidates": candidates(),
        "failures": [Failure("prune90", "train", "loss is not finite in epoch 3; lr 0.003 is too high for 4 channels")],
        "warnings": ["3 of 3,083 images could not be decoded and were left out; see bad_files.csv"],
        "seconds": {"train": 512.4, "compress": 803.1, "export": 44.0, "measure": 61.7},
    }
    return RunResult(**{**facts, **changes})


def changed(result: RunResult, name: str, **latency: Any) -> RunResult:
    """The run with the latency of one measurement changed."""
    measurements = [
        dataclasses.replace(one, latency=dataclasses.replace(one.latency, **latency)) if one.name == name else one
        for one in result.measurements
        if one.latency is not None
    ]
    return dataclasses.replace(result, measurements=measurements)


def candidates() -> list[Candidate]:
    """Three int8 schemes of one variant: a fast one that loses too much, the one kept, a slow one."""
    return [
        Candidate("prune70", "u8s8", 0.91, 0.907, 0.049, 0.71, 11_556, 2.2, 0.93, False, False, "drop above 1 point"),
        Candidate("prune70", "u8s8-rr", 0.956, 0.956, 0.001, 0.77, 11_556, 0.41, 0.996, True, True),
        Candidate("prune70", "s8s8", 0.957, 0.957, 0.0, 4.3, 11_556, 0.38, 0.998, True, False, "slower than u8s8-rr"),
    ]


def history(epochs: int = 24) -> list[dict[str, Any]]:
    """Training records of the base, two variants and a control; one loss is not a number."""
    records: list[dict[str, Any]] = [{"event": "start"}]
    for place, variant in enumerate(("base", "distilled", "prune70", "prune70-scratch")):
        for epoch in range(1, epochs + 1):
            left = math.exp(-epoch / (5 + place))
            wobble = 0.01 * math.sin(epoch * (place + 2))
            records.append(
                {
                    "variant": variant,
                    "epoch": epoch,
                    "lr": 0.003,
                    "train_loss": 0.08 + 1.6 * left + wobble,
                    "val_loss": math.nan if epoch == 3 else 0.16 + 1.5 * left - wobble,
                    "val_accuracy": 0.96 - 0.6 * left,
                    "val_macro_f1": 0.96 - 0.01 * place - 0.62 * left + wobble,
                }
            )
    return records
