"""From a trained model to bundles that have been checked on their own runtime, the right int8 scheme included."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgewise.data import Dataset
from edgewise.errors import EdgewiseError, ExportError
from edgewise.export import FORMATS
from edgewise.export.base import Ptq
from edgewise.export.collapse import what_was_lost
from edgewise.export.desk import Desk, Exported, Order, bundle_name
from edgewise.export.learned import LEARNT_SCHEME, learnt_scheme
from edgewise.export.offers import offer
from edgewise.export.ptq import JUDGED_BY, first_choice, further_choices
from edgewise.export.verify import parity
from edgewise.measure import latency
from edgewise.progress import Progress
from edgewise.recipe import ExportOptions
from edgewise.results import Candidate, Failure

SCHEME_SECONDS = 0.3
"""Time spent on each int8 scheme when they are compared with each other."""
LEARNT = "ranges and weights that qat trained"


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
    another format: then all of its own are tried. A model that was trained for int8 keeps what it has learnt.

    Raises:
        ExportError: no scheme could be written.
    """
    schemes, learnt, note = _schemes(desk)
    _, float_f1 = desk.val_figures(desk.expected("val"))
    tries = desk.format == "onnx" and not learnt
    judged = schemes[0] if len(schemes) == 1 else JUDGED_BY
    ptq = _first(desk, judged, outcome, progress) if tries else Ptq()
    tried = _try_schemes(desk, schemes, ptq, float_f1, outcome, progress)
    if tries and tried and not any(one.passed for one, _ in tried):
        for further in further_choices(desk, judged, ptq):
            if _try_scheme(desk, judged, further, float_f1).passed:
                tried += _try_schemes(desk, schemes, further, float_f1, outcome, progress)
                break
    if not tried:
        why = "; ".join(failure.reason for failure in outcome.failures[-len(schemes) :])
        raise ExportError("no int8 scheme could be written", code="X05", where={"model": desk.order.name}, why=why)
    tried, noise = _timed(desk, floating, tried)
    passing = [one for one, _ in tried if one.passed]
    best = _best(passing, noise) if passing else max((one for one, _ in tried), key=lambda one: one.macro_f1)
    used = next(ptq for one, ptq in tried if one is best)
    path = desk.write("int8", best.scheme, used)
    refused = "" if passing else _refusal(desk, floating, path, best)
    outcome.candidates += [dataclasses.replace(one, kept=one is best) for one, _ in tried]
    how = LEARNT if learnt else note or (used.words() if tries else "")
    outcome.exported.append(desk.bundle(path, "int8", best.scheme, refused=refused, how=how, note=note))


def _schemes(desk: Desk) -> tuple[tuple[str, ...], bool, str]:
    """The int8 schemes to try, whether the model brings its ranges for them, and what is to be noted if it cannot."""
    asked, known = desk.options.int8, FORMATS[desk.format].schemes
    learnt = learnt_scheme(desk.order.model)
    if learnt and desk.format == "onnx" and asked in {"auto", learnt}:
        return (learnt,), True, ""
    if learnt and desk.format == "openvino":
        return (LEARNT_SCHEME,), True, ""
    anew = f"calibrated anew: what qat learnt is for {learnt} in onnx and openvino files" if learnt else ""
    return ((asked,) if asked in known else known), False, anew


def _first(desk: Desk, judged: str, outcome: Outcome, progress: Progress) -> Ptq:
    """How to make int8, by `first_choice`; the plain way where one of the files it compares cannot be written."""
    try:
        return first_choice(desk, judged)
    except Exception as problem:  # noqa: BLE001 - as for the schemes: quantizers raise what they like
        name = f"{bundle_name(desk.order.name, desk.format, 'int8')} (choice of ranges)"
        outcome.failures.append(Failure(name, "export", _reason(problem, progress)))
        return Ptq()


def _refusal(desk: Desk, floating: Path, path: Path, best: Candidate) -> str:
    """Why no int8 file passed, and what the best of them lost."""
    told = f"int8 loses {best.drop:.1%} macro F1 on validation, more than {desk.options.int8_max_drop:.1%}"
    told += f", calibrated on {len(desk.calibration)} images: "
    lost = what_was_lost(desk.scores(floating, "val"), desk.scores(path, "val"), desk.val.labels, desk.classes)
    return f"{told}{lost}; int8 does not pay here, take fp32"


def _try_schemes(
    desk: Desk, schemes: Sequence[str], ptq: Ptq, float_f1: float, outcome: Outcome, progress: Progress
) -> list[tuple[Candidate, Ptq]]:
    """Each scheme on validation images; what cannot be written is recorded as a failure."""
    tried = []
    for scheme in schemes:
        try:
            tried.append((_try_scheme(desk, scheme, ptq, float_f1), ptq))
        except Exception as problem:  # noqa: BLE001 - converters raise what they like, and the other schemes go on
            name = f"{bundle_name(desk.order.name, desk.format, 'int8')} ({scheme})"
            outcome.failures.append(Failure(name, "export", _reason(problem, progress)))
    return tried


def _try_scheme(desk: Desk, scheme: str, ptq: Ptq, float_f1: float) -> Candidate:
    path = desk.write("int8", scheme, ptq)
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
        note="" if ptq == Ptq() else ptq.words(),
        format=desk.format,
    )


def _best(passing: Sequence[Candidate], noise: float) -> Candidate:
    """The fastest; of those as fast as it within the session's noise, the most accurate; of equals, the smallest."""
    fastest = min(one.ratio_to_fp32 for one in passing)
    tied = [one for one in passing if one.ratio_to_fp32 <= fastest + noise]
    return max(tied, key=lambda one: (one.macro_f1, -one.file_bytes))


def _timed(
    desk: Desk, floating: Path, tried: Sequence[tuple[Candidate, Ptq]]
) -> tuple[list[tuple[Candidate, Ptq]], float]:
    """Fill in each file's time relative to the fp32 file, measured interleaved.

    Returns:
        The candidates, and the difference of ratios that this session shows where there is none.
    """
    if len(tried) == 1 and not tried[0][0].passed:
        return list(tried), 0.0
    files = [desk.write("int8", one.scheme, ptq) for one, ptq in tried]
    subjects = [latency.Subject("fp32", floating, desk.format)]
    subjects += [latency.Subject(str(place), file, desk.format) for place, file in enumerate(files)]
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
    return [
        (dataclasses.replace(one, ratio_to_fp32=ratios[str(place)]), ptq) for place, (one, ptq) in enumerate(tried)
    ], noise
