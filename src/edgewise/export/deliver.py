"""From a trained model to bundles that have been checked on their own runtime, the right int8 scheme included."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import Manifest, readme, write_bundle
from edgewise.data import Dataset, Split
from edgewise.device import RUNTIMES, Pixels, Scores
from edgewise.device.standalone import runner_source
from edgewise.errors import EdgewiseError, ExportError
from edgewise.export import FORMATS
from edgewise.export.base import ExportSpec
from edgewise.export.collapse import apart, what_was_lost
from edgewise.export.tensorrt import for_tensorrt
from edgewise.export.verify import parity
from edgewise.measure import latency
from edgewise.measure.accuracy import confusion_matrix, macro_f1, quality, quality_of_part
from edgewise.measure.calibration import calibrate
from edgewise.models import Model
from edgewise.progress import Progress
from edgewise.recipe import ExportOptions
from edgewise.results import Calibration, Candidate, Failure, Parity, Quality
from edgewise.train import logits

SCHEME_SECONDS = 0.3
"""Time spent on each int8 scheme when they are compared with each other."""

SCORE_BATCH = 64


@dataclass(frozen=True)
class Order:
    """A model that is to be delivered, and what its bundles shall be called and say.

    folder: where its bundles go. workspace: scratch space of its own.
    """

    name: str
    model: Model
    precisions: tuple[str, ...]
    folder: Path
    workspace: Path
    lineage: dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """A bundle with what its own runtime made of it.

    `predictions` are the top-1 decisions on the test split, int64 (N,). `parity.passed` is False for an fp32 file that
    is not its model, and for an int8 file whose validation drop is larger than allowed. `calibration` is of the file's
    own logits.
    """

    name: str
    bundle: Path
    manifest: Manifest
    validation: Quality
    test: Quality
    predictions: NDArray[np.int64]
    parity: Parity
    calibration: Calibration
    notes: list[str] = field(default_factory=list)
    validation_clean: Quality | None = None
    test_clean: Quality | None = None

    @property
    def model_file(self) -> Path:
        """The file that the runtime opens."""
        return self.bundle / self.manifest.model_file


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

    What cannot be written is recorded as a failure and the rest goes on. fp32 is always written first, because int8 is
    judged against it.
    """
    outcome = Outcome()
    reasons = FORMATS[format_].can_export(order.model)
    if reasons:
        outcome.failures.append(Failure(f"{order.name}-{format_}", "export", "; ".join(reasons)))
        return outcome
    try:
        desk = _Desk(order, format_, dataset, options, seed)
        floating = desk.write("fp32", "")
        if "fp32" in order.precisions:
            outcome.exported.append(desk.bundle(floating, "fp32", ""))
        if "int8" in order.precisions:
            _deliver_int8(desk, floating, outcome, progress)
    except EdgewiseError as problem:
        progress.say(str(problem))
        outcome.failures.append(Failure(f"{order.name}-{format_}", "export", f"{problem.what}: {problem.why}"))
    return outcome


def calibration_images(split: Split, count: int, seed: int) -> Pixels:
    """Images that set the int8 ranges: drawn from the training split, evenly over the classes, in a seeded order.

    Classes with too few images give what they have and the others fill up.

    Returns:
        uint8 (min(count, images), height, width, channels).
    """
    order = np.random.default_rng([seed, 1]).permutation(len(split))
    labels = split.labels[order]
    place = np.zeros(len(order), dtype=np.int64)  # the how-many-th image of its class each one is
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = np.arange(len(members))
    rows = order[np.argsort(place, kind="stable")[:count]]
    images: Pixels = np.ascontiguousarray(split.images[np.sort(rows)])
    return images


class _Desk:
    """Where one model in one format is written and held against its torch answers."""

    def __init__(self, order: Order, format_: str, dataset: Dataset, options: ExportOptions, seed: int) -> None:
        self.order = order
        self.format = format_
        self.options = options
        self.seed = seed
        self.classes = dataset.classes
        self.val, self.test = dataset.val, dataset.test
        # Parity takes all test images, and training images where these are fewer than asked for.
        missing = options.parity_images - len(self.test)
        more = [calibration_images(dataset.train, missing, seed)] if missing > 0 else []
        self._images = {
            "val": self.val.images,
            "parity": np.concatenate([self.test.images, *more]) if more else self.test.images,
        }
        self.calibration = apart(calibration_images(dataset.train, options.calibration_images, seed), self.test.images)
        self._expected: dict[str, Scores] = {}

    def expected(self, part: str) -> Scores:
        """Torch's logits for "val", or for "parity" (the test images come first), computed once."""
        if part not in self._expected:
            self._expected[part] = logits(self.order.model, self._images[part])
        return self._expected[part]

    def scores(self, path: Path, part: str) -> Scores:
        """The file's logits in its own runtime."""
        session = RUNTIMES[self.format].load(path, threads=os.cpu_count() or 1)
        images = self._images[part]
        starts = range(0, len(images), SCORE_BATCH)
        return np.concatenate([session.scores(images[start : start + SCORE_BATCH]) for start in starts])

    def write(self, precision: str, scheme: str) -> Path:
        """The model file; written once."""
        path = self.order.workspace / f"{precision}{scheme}{FORMATS[self.format].suffix}"
        if not path.exists():
            spec = ExportSpec(precision, self.order.workspace, scheme, self.calibration)
            FORMATS[self.format].write(self.order.model, spec, path)
        return path

    def bundle(self, path: Path, precision: str, scheme: str, *, refused: str = "") -> Exported:
        """Check a written file on validation and test images and wrap it; `refused` says why it may not be chosen."""
        val, scores = self.scores(path, "val"), self.scores(path, "parity")
        test = scores[: len(self.test)].argmax(1)
        calibration = calibrate(val, self.val.labels, scores[: len(self.test)], self.test.labels, seed=self.seed)
        checked = parity(self.expected("parity"), scores, precision)
        notes = [refused] if refused else []
        if not checked.passed:
            notes.append(f"differs from its torch model: max |delta logits| {checked.max_abs_logit_delta:.2g}")
        name = f"{self.order.name}-{precision}"
        manifest = Manifest(
            name=name,
            format=self.format,
            precision=precision,
            scheme=scheme,
            model_file=f"model{FORMATS[self.format].suffix}",
            input=self.order.model.input,
            labels=list(self.classes),
            lineage=self.order.lineage,
            thresholds={"temperature": calibration.temperature},
        )
        folder = self.order.folder / name
        texts = {"README.md": readme(manifest), "runner.py": runner_source()}
        extra = for_tensorrt(texts, manifest, self.write("fp32", ""), self.calibration)
        return Exported(
            name=name,
            bundle=folder,
            manifest=write_bundle(folder, manifest, path, extra),
            validation=quality(val.argmax(1), self.val.labels, self.classes, seed=self.seed),
            test=quality(test, self.test.labels, self.classes, seed=self.seed),
            predictions=test,
            parity=dataclasses.replace(checked, passed=checked.passed and not refused),
            calibration=calibration,
            notes=notes,
            validation_clean=self._clean(val.argmax(1), self.val),
            test_clean=self._clean(test, self.test),
        )

    def _clean(self, predicted: NDArray[np.int64], split: Split) -> Quality | None:
        return quality_of_part(predicted, split.labels, self.classes, split.clean, seed=self.seed)

    def val_figures(self, scores: Scores) -> tuple[float, float]:
        """Accuracy and macro F1 on the validation split."""
        confusion = confusion_matrix(scores.argmax(1), self.val.labels, len(self.classes))
        return float(np.trace(confusion) / confusion.sum()), float(macro_f1(confusion))


def _deliver_int8(desk: _Desk, floating: Path, outcome: Outcome, progress: Progress) -> None:
    """Write int8 in the scheme asked for, or in every scheme, of which the fastest with an allowed drop is kept.

    The choice is made on validation images and on this CPU's times.

    Raises:
        ExportError: no scheme could be written.
    """
    options = desk.options
    schemes = FORMATS[desk.format].schemes if options.int8 == "auto" else (options.int8,)
    _, float_f1 = desk.val_figures(desk.scores(floating, "val"))
    tried: list[Candidate] = []
    for scheme in schemes:
        try:
            tried.append(_try_scheme(desk, scheme, float_f1))
        except EdgewiseError as problem:
            progress.say(str(problem))
            name = f"{desk.order.name}-int8 ({scheme})"
            outcome.failures.append(Failure(name, "export", f"{problem.what}: {problem.why}"))
    if not tried:
        raise ExportError("no int8 scheme could be written", code="X05", where={"model": desk.order.name})
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


def _try_scheme(desk: _Desk, scheme: str, float_f1: float) -> Candidate:
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
        file_bytes=path.stat().st_size,
        max_abs_logit_delta=checked.max_abs_logit_delta,
        top1_agreement=checked.top1_agreement,
        passed=float_f1 - f1 <= desk.options.int8_max_drop,
        kept=False,
    )


def _best(passing: Sequence[Candidate], noise: float) -> Candidate:
    """The fastest; of those as fast as it within the session's noise, the most accurate; of equals, the smallest."""
    fastest = min(one.ratio_to_fp32 for one in passing)
    tied = [one for one in passing if one.ratio_to_fp32 <= fastest + noise]
    return max(tied, key=lambda one: (one.macro_f1, -one.file_bytes))


def _timed(desk: _Desk, floating: Path, tried: Sequence[Candidate]) -> tuple[list[Candidate], float]:
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
