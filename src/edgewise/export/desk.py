"""Where one model in one format is written, run in its runtime, and held against its torch answers."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import Manifest, model_bytes, readme, thresholds_of, write_bundle
from edgewise.data import Dataset, Split
from edgewise.device import RUNTIMES, Pixels, Scores
from edgewise.device.standalone import runner_source
from edgewise.export import FORMATS
from edgewise.export.base import PLAIN, ExportSpec, Ptq, sidecars_of
from edgewise.export.blame import first_difference
from edgewise.export.collapse import apart
from edgewise.export.tensorrt import for_tensorrt
from edgewise.export.verify import parity
from edgewise.measure.accuracy import confusion_matrix, macro_f1, quality, quality_of_part
from edgewise.measure.calibration import calibrate
from edgewise.measure.decision import Answers, decide
from edgewise.models import Model
from edgewise.recipe import ExportOptions
from edgewise.results import Calibration, Decision, Parity, Quality
from edgewise.train import logits

SCORE_BATCH = 64
BLAME_IMAGES = 8
"""On so many of the images that differ most the first differing layer is looked for."""


@dataclass(frozen=True)
class Order:
    """A model that is to be delivered, and what its bundles shall be called and say.

    folder: where its bundles go. workspace: scratch space of its own, one for each format. answers: torch's logits,
    which the formats of an order share; filled in when they are first needed.
    """

    name: str
    model: Model
    precisions: tuple[str, ...]
    folder: Path
    workspace: Path
    lineage: dict[str, Any]
    answers: dict[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A bundle with what its own runtime made of it.

    `predictions` are the top-1 decisions on the test split, int64 (N,). `parity.passed` is False for a float file that
    is not its model, and for an int8 file whose validation drop is larger than allowed. `calibration` and
    `decision` are of the file's own logits. `runtime` names what ran it.
    """

    name: str
    bundle: Path
    manifest: Manifest
    validation: Quality
    test: Quality
    predictions: NDArray[np.int64]
    parity: Parity
    calibration: Calibration
    runtime: str
    notes: list[str] = field(default_factory=list)
    validation_clean: Quality | None = None
    test_clean: Quality | None = None
    decision: Decision | None = None

    @property
    def model_file(self) -> Path:
        """The file that the runtime opens."""
        return self.bundle / self.manifest.model_file

    @property
    def file_bytes(self) -> int:
        """The bytes of all files of the model."""
        return model_bytes(self.bundle, self.manifest)


def bundle_name(model: str, format_: str, precision: str) -> str:
    """The name of a bundle: ``base-int8`` for ONNX, ``base-openvino-int8`` for another format."""
    return f"{model}-{precision}" if format_ == "onnx" else f"{model}-{format_}-{precision}"


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


class Desk:
    """See the top of this file."""

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

    def expected(self, part: str) -> Scores:
        """Torch's logits for "val", or for "parity" (the test images come first), computed once."""
        answers = self.order.answers
        if part not in answers:
            answers[part] = logits(self.order.model, self._images[part])
        return answers[part]

    def scores(self, path: Path, part: str) -> Scores:
        """The file's logits in its own runtime."""
        return self._run(path, part)[0]

    def spec(self, precision: str, scheme: str, ptq: Ptq = PLAIN) -> ExportSpec:
        """What the exporter is told."""
        return ExportSpec(precision, self.order.workspace, scheme, self.calibration, self.options.opset, ptq)

    def write(self, precision: str, scheme: str, ptq: Ptq = PLAIN) -> Path:
        """The model file; written once."""
        name = f"{precision}{scheme}" + ("" if ptq == PLAIN else f"-{ptq.slug()}")
        path = self.order.workspace / f"{name}{FORMATS[self.format].suffix}"
        if not path.exists():
            FORMATS[self.format].write(self.order.model, self.spec(precision, scheme, ptq), path)
        return path

    def bytes_of(self, path: Path) -> int:
        """The bytes of a written model, its sidecars included."""
        return sum(file.stat().st_size for file in (path, *sidecars_of(FORMATS[self.format], path)))

    def bundle(
        self, path: Path, precision: str, scheme: str, *, refused: str = "", how: str = "", note: str = ""
    ) -> Exported:
        """Check a written file on validation and test images and wrap it.

        Args:
            refused: why it may not be chosen. how: what was done to make it int8, for its lineage. note: what else is
            to be told.
        """
        val = self.scores(path, "val")
        scores, facts = self._run(path, "parity")
        test = scores[: len(self.test)].argmax(1)
        calibration = calibrate(val, self.val.labels, scores[: len(self.test)], self.test.labels, seed=self.seed)
        decision = self._decide(val, scores[: len(self.test)], calibration.temperature)
        checked = parity(self.expected("parity"), scores, precision)
        notes = [refused] if refused else []
        notes += [note] if note else []
        if not checked.passed:
            notes.append(self._differs(scores, checked, precision))
        thresholds = thresholds_of(calibration.temperature, decision)
        manifest = self._manifest(precision, scheme, thresholds, how)
        runtime = RUNTIMES[self.format]
        folder = self.order.folder / manifest.name
        text = readme(manifest, runtime.install, runtime.example, decision)
        texts = {"README.md": text, "runner.py": runner_source()}
        extra = for_tensorrt(texts, manifest, self.write("fp32", ""), self.calibration)
        sidecars = sidecars_of(FORMATS[self.format], path)
        return Exported(
            name=manifest.name,
            bundle=folder,
            manifest=write_bundle(folder, manifest, path, extra, sidecars),
            validation=quality(val.argmax(1), self.val.labels, self.classes, seed=self.seed),
            test=quality(test, self.test.labels, self.classes, seed=self.seed),
            predictions=test,
            parity=dataclasses.replace(checked, passed=checked.passed and not refused),
            calibration=calibration,
            runtime=f"{facts['runtime']} {facts['version']}",
            notes=notes,
            validation_clean=self._clean(val.argmax(1), self.val),
            test_clean=self._clean(test, self.test),
            decision=decision,
        )

    def val_figures(self, scores: Scores) -> tuple[float, float]:
        """Accuracy and macro F1 on the validation split."""
        confusion = confusion_matrix(scores.argmax(1), self.val.labels, len(self.classes))
        return float(np.trace(confusion) / confusion.sum()), float(macro_f1(confusion))

    def _run(self, path: Path, part: str) -> tuple[Scores, dict[str, str]]:
        session = RUNTIMES[self.format].load(path, threads=os.cpu_count() or 1)
        images = self._images[part]
        starts = range(0, len(images), SCORE_BATCH)
        scores = np.concatenate([session.scores(images[start : start + SCORE_BATCH]) for start in starts])
        return scores, session.describe()

    def _decide(self, val: Scores, test: Scores, temperature: float) -> Decision:
        """When this file says `unknown`: chosen on its own answers to the validation images."""
        chosen_by = Answers.of(val, self.val.labels, temperature)
        return decide(chosen_by, Answers.of(test, self.test.labels, temperature), self.options.decide.precision)

    def _manifest(self, precision: str, scheme: str, thresholds: dict[str, float], how: str) -> Manifest:
        exporter = FORMATS[self.format]
        return Manifest(
            name=bundle_name(self.order.name, self.format, precision),
            format=self.format,
            precision=precision,
            scheme=scheme,
            model_file=f"model{exporter.suffix}",
            input=self.order.model.input,
            labels=list(self.classes),
            lineage={**self.order.lineage, **({"int8": how} if how else {})},
            thresholds=thresholds,
            sidecars=[f"model{ending}" for ending in exporter.sidecars],
        )

    def _differs(self, scores: Scores, checked: Parity, precision: str) -> str:
        """What is wrong with a float file, with the first differing layer."""
        said = (
            f"differs from its torch model: max |delta logits| {checked.max_abs_logit_delta:.2g}, "
            f"same decision on {checked.top1_agreement:.1%} of {checked.n} images"
        )
        if precision == "int8":
            return said
        worst = np.argsort(-np.abs(scores - self.expected("parity")).max(1))[:BLAME_IMAGES]
        images = np.ascontiguousarray(self._images["parity"][worst])
        exporter, runtime = FORMATS[self.format], RUNTIMES[self.format]
        layer = first_difference(self.order.model, exporter, runtime, images, self.spec(precision, ""))
        return f"{said}; first differing layer: {layer or 'not found'}"

    def _clean(self, predicted: NDArray[np.int64], split: Split) -> Quality | None:
        return quality_of_part(predicted, split.labels, self.classes, split.clean, seed=self.seed)
