"""From a trained model to bundles that have been checked on their own runtime, the right int8 scheme included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgewise.data import Dataset
from edgewise.errors import EdgewiseError, ExportError
from edgewise.export import FORMATS
from edgewise.export.collapse import what_was_lost
from edgewise.export.desk import Desk, Exported, Order, bundle_name
from edgewise.export.offers import offer
from edgewise.export.verify import parity
from edgewise.measure import latency
from edgewise.progress import Progress
from edgewise.recipe import ExportOptions
from edgewise.results import Candidate, Failure

SCHEME_SECONDS = 0.3
"""Time spent on each int8 scheme when they are compared with each other."""


@dataclass
class Outcome:
    """What came of the orders."""

    exported: list[Exported] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def deliver(
    order: Order, format_: str, dataset: Dataset, options: ExportOptions, *, seed: int, progress: Progress
) -> Outcome:
    """Write, check and bundle one model in one format, in every precision asked for.

    What cannot be written is recorded as a failure under the name its bundle would have, and the rest goes on. The fp32
    file is always written first, because int8 is timed against it.
    """
    outcome = Outcome()

    def failed(precision: str, reason: str) -> None:
        outcome.failures.append(Failure(bundle_name(order.name, format_, precision), "export", reason))

    offers = {precision: offer(format_, precision) for precision in order.precisions}
    for precision, one in offers.items():
        if one.state != "ready":
            failed(precision, one.reason)
    precisions = [precision for precision, one in offers.items() if one.state == "ready"]
    reasons = FORMATS[format_].can_export(order.model) if precisions else []
    if reasons:
        for precision in precisions:
            failed(precision, "; ".join(reasons))
    if reasons or not precisions:
        return outcome
    try:
        place = dataclasses.replace(order, workspace=order.workspace / format_)
        desk = Desk(place, format_, dataset, options, seed)
        floating = desk.write("fp32", "")
    except Exception as problem:  # noqa: BLE001 - converters raise what they like, and the other formats go on
        for precision in precisions:
            failed(precision, _reason(problem, progress))
        return outcome
    for precision in precisions:
        try:
            _deliver(desk, precision, floating, outcome, progress)
        except Exception as problem:  # noqa: BLE001 - as above, and the other precisions go on
            failed(precision, _reason(problem, progress))
    return outcome


def _reason(problem: Exception, progress: Progress) -> str:
    if isinstance(problem, EdgewiseError):
        progress.say(str(problem))
        return f"{problem.what}: {problem.why}".rstrip(": ") + (f" ({problem.fix})" if problem.exit_code == 4 else "")
    first = (str(problem) or "no message").strip().splitlines()[0]
    progress.say(f"unexpected {type(problem).__name__}: {first}")
    return f"unexpected {type(problem).__name__}: {first}"


def _deliver(desk: Desk, precision: str, floating: Path, outcome: Outcome, progress: Progress) -> None:
    if precision == "int8":
        _deliver_int8(desk, floating, outcome, progress)
    else:
        outcome.exported.append(desk.bundle(desk.write(precision, ""), precision, ""))


def _deliver_int8(desk: Desk, floating: Path, outcome: Outcome, progress: Progress) -> None:
    """Write int8 in the scheme asked for, or in every scheme, of which the fastest with an allowed drop is kept.

    The choice is made on validation images and on this CPU's times. A scheme that the format does not know is one of
    another format: then all of its own are tried.

    Raises:
        ExportError: no scheme could be written.
    """
    options = desk.options
    known = FORMATS[desk.format].schemes
    schemes = (options.int8,) if options.int8 in known else known
    _, float_f1 = desk.val_figures(desk.expected("val"))
    tried: list[Candidate] = []
    for scheme in schemes:
        try:
            tried.append(_try_scheme(desk, scheme, float_f1))
        except Exception as problem:  # noqa: BLE001 - converters raise what they like, and the other schemes go on
            name = f"{bundle_name(desk.order.name, desk.format, 'int8')} ({scheme})"
            outcome.failures.append(Failure(name, "export", _reason(problem, progress)))
    if not tried:
        why = "; ".join(failure.reason for failure in outcome.failures[-len(schemes) :])
        raise ExportError("no int8 scheme could be written", code="X05", where={"model": desk.order.name}, why=why)
    tried, noise = _timed(desk, floating, tried)
    passing = [one for one in tried if one.passed]
    if passing:
        best, refused = _best(passing, noise), ""
    else:
        best = max(tried, key=lambda one: one.macro_f1)
        refused = f"int8 loses {best.drop:.1%} macro F1 on validation, more than {options.int8_max_drop:.1%}"
        before, after = desk.scores(floating, "val"), desk.scores(desk.write("int8", best.scheme), "val")
        refused += f", calibrated on {len(desk.calibration)} images: "
        refused += what_was_lost(before, after, desk.val.labels, desk.classes)
    outcome.candidates += [dataclasses.replace(one, kept=one is best) for one in tried]
    path = desk.write("int8", best.scheme)
    outcome.exported.append(desk.bundle(path, "int8", best.scheme, refused=refused))


def _try_scheme(desk: Desk, scheme: str, float_f1: float) -> Candidate:
    path = desk.write("int8", scheme)
    scores = desk.scores(path, "val")
    checked = parity(desk.expected("val"), scores, "int8")
    accuracy, f1 = desk.val_figures(scores)
    return Candidate(
        variant=desk.order.name,
        scheme=scheme,
        accuracy=accuracy,
        macro_f1=f1,
        drop=float_f1 - f1,
        ratio_to_fp32=1.0,
        file_bytes=desk.bytes_of(path),
        max_abs_logit_delta=checked.max_abs_logit_delta,
        top1_agreement=checked.top1_agreement,
        passed=float_f1 - f1 <= desk.options.int8_max_drop,
        kept=False,
        format=desk.format,
    )


def _best(passing: Sequence[Candidate], noise: float) -> Candidate:
    """The fastest; of those as fast as it within the session's noise, the most accurate; of equals, the smallest."""
    fastest = min(one.ratio_to_fp32 for one in passing)
    tied = [one for one in passing if one.ratio_to_fp32 <= fastest + noise]
    return max(tied, key=lambda one: (one.macro_f1, -one.file_bytes))


def _timed(desk: Desk, floating: Path, tried: Sequence[Candidate]) -> tuple[list[Candidate], float]:
    """Fill in each scheme's time relative to the fp32 file, measured interleaved.

    Returns:
        The candidates, and the difference of ratios that this session shows where there is none.
    """
    if len(tried) == 1 and not tried[0].passed:
        return list(tried), 0.0
    subjects = [latency.Subject("fp32", floating, desk.format)]
    subjects += [latency.Subject(one.scheme, desk.write("int8", one.scheme), desk.format) for one in tried]
    timed = latency.measure(
        subjects,
        desk.val.images[:64],
        reference="fp32",
        spec=desk.order.model.input,
        seconds=SCHEME_SECONDS,
        seed=desk.seed,
    )
    ratios = {name: one.ratio.value for name, one in timed.items() if one.ratio is not None}
    noise = 2 * (timed["fp32"].aa_spread or 0.0)
    return [dataclasses.replace(one, ratio_to_fp32=ratios[one.scheme]) for one in tried], noise
