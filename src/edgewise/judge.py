"""What may be said of measurements: which is the base, what is faster, which meets the goal, which is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from edgewise.results import Estimate, Latency, Measurement

if TYPE_CHECKING:
    from edgewise.recipe import Goal


def base_of(measurements: Sequence[Measurement]) -> Measurement | None:
    """What the others are compared with: the uncompressed model in fp32; None when it was not measured."""
    return next((one for one in measurements if one.role == "base"), None)


def paired_ratio(one: Measurement) -> Estimate | None:
    """Latency over that of the run's base, from paired blocks; None when it was not taken or does not compare.

    This is what time is ranked and plotted by: it holds where drift or other load made the milliseconds invalid, as
    long as the session's A/A check held. It is 1 for the base itself, whose record holds the A/A ratio.
    """
    latency = one.latency
    if latency is None or latency.ratio is None or not latency.comparable:
        return None
    return Estimate(1.0, 1.0, 1.0, latency.ratio.n) if latency.reference == one.name else latency.ratio


def pace(latency: Latency | None) -> Literal["faster", "slower", "same"] | None:
    """What may be claimed of a latency against its reference; None when it was not compared or does not compare.

    "faster" and "slower" need an interval of the paired ratio that excludes 1 and an effect larger than twice the A/A
    spread of the session; anything less is "same".
    """
    if latency is None or latency.ratio is None or latency.aa_spread is None or not latency.comparable:
        return None
    ratio = latency.ratio
    if abs(ratio.value - 1) <= 2 * latency.aa_spread or ratio.low <= 1 <= ratio.high:
        return "same"
    return "faster" if ratio.value < 1 else "slower"


def times_as_long(measurements: Sequence[Measurement], one: Measurement) -> float | None:
    """Time of an int8 file over that of the fp32 file of the same model in the same format, both as ratios to the base.

    None for other files, and where either was not compared. 1 where the difference is within twice the A/A spread.
    """
    floating = next(
        (row for row in measurements if (row.variant, row.format, row.precision) == (one.variant, one.format, "fp32")),
        None,
    )
    if one.precision != "int8" or floating is None:
        return None
    ratios = paired_ratio(one), paired_ratio(floating)
    if ratios[0] is None or ratios[1] is None or ratios[1].value <= 0:
        return None
    times = ratios[0].value / ratios[1].value
    spread = one.latency.aa_spread if one.latency is not None else None
    return 1.0 if abs(times - 1) <= 2 * (spread or 0.0) else times


def shortfall(measurements: Sequence[Measurement], one: Measurement, goal: Goal) -> float | None:
    """By how much a measurement misses the goal on validation images, as a share; 0 or less when it meets it.

    None when the goal sets no limit, or sets one relative to a base that was not measured.
    """
    limits = [] if goal.min is None else [goal.min]
    if goal.max_drop is not None:
        base = base_of(measurements)
        if base is None:
            return None
        limits.append(figure(base, goal) - goal.max_drop)
    missing = max(limits) - figure(one, goal) if limits else None
    return 0.0 if missing is not None and 0 < missing < 1e-9 else missing


def figure(one: Measurement, goal: Goal) -> float:
    """The validation figure that the goal is about."""
    return (one.validation.macro_f1 if goal.metric == "macro_f1" else one.validation.accuracy).value


def choose(measurements: Sequence[Measurement], goal: Goal) -> tuple[str | None, str]:
    """The name of the cheapest file that meets the goal on validation images, None when none does.

    Controls are never chosen, nor files that failed parity, nor int8 files whose drop was too large. Latencies are
    ranked by their paired ratio to the base, which holds even where drift made the milliseconds invalid; where the
    reference against itself failed the A/A check, nothing was learnt about time: multiply-adds and file size decide.

    Returns:
        The name, and a warning ("" for none).
    """
    fits = [
        one
        for one in measurements
        if one.role != "control" and one.parity.passed and (shortfall(measurements, one, goal) or 0) <= 0
    ]
    if not fits:
        return None, ""
    if goal.prefer == "size":
        return min(fits, key=lambda one: one.cost.file_bytes).name, ""
    lean = min(fits, key=lambda one: (one.cost.macs, one.cost.file_bytes)).name
    if goal.prefer == "macs":
        return lean, ""
    ratios = {one.name: ratio.value for one in fits if (ratio := paired_ratio(one)) is not None}
    if len(ratios) < len(fits):
        return lean, "timing was disturbed: the choice was made by multiply-adds and file size, not by latency"
    return min(ratios, key=lambda name: ratios[name]), ""
