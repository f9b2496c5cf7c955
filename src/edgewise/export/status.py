"""Every (format, precision) of a model: tried, checked, timed side by side; and the one that `--to auto` keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from edgewise.data import Dataset
from edgewise.export.deliver import deliver
from edgewise.export.desk import Exported, Order, bundle_name
from edgewise.export.offers import offer
from edgewise.measure import latency
from edgewise.progress import Progress
from edgewise.recipe import ExportOptions, MeasureOptions
from edgewise.results import Attempt, Candidate, Latency, State

TIE = 0.05
"""Files whose times differ by less than the session's noise are equally fast; it is never taken as more than this."""


@dataclass
class Tried:
    """What became of one model: a row for each (format, precision), and the bundles of the rows that were written."""

    attempts: list[Attempt]
    exported: dict[str, Exported]
    candidates: list[Candidate]
    timed: dict[str, Latency]
    noise: float = 0.0
    warning: str = ""


def try_all(order: Order, dataset: Dataset, options: ExportOptions, *, seed: int, progress: Progress) -> Tried:
    """Write and check one model in all formats and precisions of `options`; none stops the others.

    The bundles of `Tried.exported` stand in the folder of the order under the names of their rows, also those that
    were refused.
    """
    tried = Tried([], {}, [], {})
    for format_ in options.formats:
        offers = {precision: offer(format_, precision) for precision in order.precisions}
        outcome = deliver(order, format_, dataset, options, seed=seed, progress=progress)
        tried.candidates += outcome.candidates
        made = {one.name: one for one in outcome.exported}
        failed = {one.name: one.reason for one in outcome.failures}
        tried.exported |= made
        for precision, one in offers.items():
            name = bundle_name(order.name, format_, precision)
            state: State = "failed" if one.state == "ready" else one.state
            row = Attempt(order.name, format_, precision, state, reason=failed.get(name, ""))
            tried.attempts.append(_checked(row, made[name]) if name in made else row)
    return tried


def _checked(row: Attempt, file: Exported) -> Attempt:
    return dataclasses.replace(
        row,
        state="written" if file.parity.passed else "refused",
        scheme=file.manifest.scheme,
        bundle=file.name,
        parity=file.parity,
        validation=file.validation,
        test=file.test,
        file_bytes=file.file_bytes,
        runtime=file.runtime,
        decision=file.decision,
        reason="; ".join(file.notes) or (file.decision.note if file.decision else ""),
    )


def time_all(tried: Tried, dataset: Dataset, options: MeasureOptions, *, seed: int, progress: Progress) -> None:
    """Time all files that passed, in one interleaved session, against the first fp32 file; fills in `tried`."""
    passed = [row for row in tried.attempts if row.state == "written"]
    if not passed:
        return
    reference = next((row.bundle for row in passed if row.precision == "fp32"), passed[0].bundle)
    files = [tried.exported[row.bundle] for row in passed]

    def session(number: int) -> dict[str, Latency]:
        return latency.measure(
            [latency.Subject(file.name, file.model_file, file.manifest.format) for file in files],
            dataset.val.images[:256],
            reference=reference,
            spec=files[0].manifest.input,
            threads=options.threads,
            seconds=options.seconds,
            seed=seed + number,
            progress=progress,
        )

    tried.timed, passed_check = latency.until_comparable(session, reference)
    check = tried.timed[reference]
    if not passed_check:
        tried.warning = "the timing of these files was disturbed in every session: the ratios are rough"
    if check.ratio is not None and check.aa_spread is not None:
        tried.noise = max(2 * check.aa_spread, abs(check.ratio.value - 1))
    tried.attempts = [_timed(row, tried, reference) for row in tried.attempts]
    tried.attempts = [_says_whether_int8_pays(row, tried.attempts) for row in tried.attempts]


def _timed(row: Attempt, tried: Tried, reference: str) -> Attempt:
    found = tried.timed.get(row.bundle)
    if found is None:
        return row
    return dataclasses.replace(
        row, reference=reference, ratio=found.ratio, p50_ms=found.model.p50_ms.value if found.valid else None
    )


def _says_whether_int8_pays(row: Attempt, rows: Sequence[Attempt]) -> Attempt:
    """int8 beside fp32 of the same format."""
    floating = next((one for one in rows if (one.format, one.precision) == (row.format, "fp32")), None)
    if row.precision != "int8" or row.ratio is None or floating is None or floating.ratio is None:
        return row
    times = row.ratio.value / (1.0 if floating.bundle == row.reference else floating.ratio.value)
    if times < 1:
        return row
    said = f"int8 does not pay here: {times:.2f} times as long as fp32"
    return dataclasses.replace(row, reason="; ".join(filter(None, [row.reason, said])))


def pick(attempts: Sequence[Attempt], noise: float) -> Attempt | None:
    """The fastest file that passed; of those as fast as it, the most accurate on validation images, then the smallest.

    int8 that is no faster than the fastest float file is never taken.

    Args:
        attempts: the rows of one model, timed.
        noise: the difference of ratios that the session shows where there is none.
    """
    speed = {id(row): _ratio(row) for row in attempts if row.state == "written" and row.ratio is not None}
    rows = [row for row in attempts if id(row) in speed]
    floating = min((speed[id(row)] for row in rows if row.precision != "int8"), default=float("inf"))
    rows = [row for row in rows if row.precision != "int8" or speed[id(row)] < floating]
    if not rows:
        return None
    fastest = min(speed[id(row)] for row in rows)
    tied = [row for row in rows if speed[id(row)] <= fastest * (1 + min(noise, TIE))]
    return max(tied, key=lambda row: (row.validation.macro_f1.value if row.validation else 0.0, -(row.file_bytes or 0)))


def _ratio(row: Attempt) -> float:
    """The reference's own record holds the A/A ratio."""
    return 1.0 if row.bundle == row.reference or row.ratio is None else row.ratio.value
