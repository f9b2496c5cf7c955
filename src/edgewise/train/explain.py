"""What a trained net looks at, where it errs, and whether its confidence can be believed.

`explain` fills one folder::

    explain.json         the record, see `edgewise.report.explanation`
    explain.html         the same as a page that fetches nothing
    misclassified.csv    every validation and test image that is called wrongly
    class-003.png        for each class: an image, its Grad-CAM before and after training
    worst-test-01.png    the images with the largest losses

The image of a class is drawn with the seed from the class's test images, from its validation images where it has none.
The draw does not depend on the model, so that all models of a run are shown with the same images. Test images are
shown and counted here; nothing is chosen by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.data import Dataset, Split, write_csv
from edgewise.measure.accuracy import confusion_matrix
from edgewise.measure.calibration import calibrate, log_probabilities
from edgewise.models import Model
from edgewise.progress import Progress, Silent
from edgewise.report import write_explanation_page
from edgewise.report.explanation import RECORD, Answer, Explanation, Look, Pair, Worst, to_json
from edgewise.runs import write_atomic, write_text
from edgewise.train.evaluate import logits
from edgewise.train.gradcam import Target, find_target, heat_maps, overlay

LOOKS = 100
"""Most classes that get a picture, in the order of the class map."""

WORST = 12
"""Images of the largest loss that are kept of each split."""

PANEL = 160
"""Smaller images are enlarged by a whole number up to about this side, in pixels."""

_GAP = 4
_BATCH = 16
_DRAW = 2  # a stream of its own beside those of the other draws

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Judged:
    """A split with the model's logits, its answers, their confidences and losses, one each image."""

    name: str
    split: Split
    classes: tuple[str, ...]
    logits: NDArray[np.float32]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]

    def answer(self, row: int) -> Answer:
        return Answer(self.classes[int(self.predicted[row])], float(self.confidence[row]))

    def label(self, row: int) -> str:
        return self.classes[int(self.split.labels[row])]

    @property
    def wrong(self) -> NDArray[np.int64]:
        """The rows that are called wrongly, the largest loss first."""
        rows = np.flatnonzero(self.predicted != self.split.labels)
        return rows[np.argsort(-self.loss[rows], kind="stable")]


def explain(
    after: Model,
    before: Model,
    dataset: Dataset,
    folder: Path,
    *,
    name: str,
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Fill a folder with Grad-CAM pictures, errors and calibration of a trained model; see the top of this file.

    Args:
        after: the trained model.
        before: the same structure before it was trained.
        dataset: `val` and `test` are looked at.
        folder: where all of it goes; files of an earlier call are replaced.
        name: of the model, for the record.
        seed: of the images drawn.
        progress: where to show how far it is.

    Returns:
        The record, as written to `explain.json`.
    """
    with (progress or Silent()).task(f"explain {name}", 3) as advance:
        val, test = (_judge(after, part, split) for part, split in (("val", dataset.val), ("test", dataset.test)))
        target = find_target(after)
        advance(1)
        target, looks = _look(after, before, target, (test, val), folder, seed)
        advance(1)
        confusion = confusion_matrix(test.predicted, test.split.labels, len(dataset.classes))
        record = Explanation(
            model=name,
            architecture=after.architecture,
            seed=seed,
            images={one.name: len(one.split) for one in (val, test)},
            errors={one.name: len(one.wrong) for one in (val, test)},
            layer=target.name,
            layer_note=target.note,
            looks=looks,
            classes_left_out=len(dataset.classes) - len(looks) if looks else 0,
            pairs=confused_pairs(confusion, dataset.classes),
            worst=[one for judged in (test, val) for one in _worst(judged, folder)],
            calibration=calibrate(val.logits, val.split.labels, test.logits, test.split.labels, seed=seed),
        )
        _write_misclassified((val, test), folder / "misclassified.csv")
        write_text(folder / RECORD, to_json(record))
        write_explanation_page(folder)
        advance(1, f"{record.errors['test']} of {record.images['test']} test images called wrongly")
    return record


def confused_pairs(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[Pair]:
    """Which classes are taken for which, the most images first, then the largest share, then the order of the classes.

    Args:
        confusion: int64 (classes, classes), counts of (true class, called class).
        classes: names in the order of the rows.
    """
    sums = confusion.sum(axis=1)
    found = [
        Pair(classes[true], classes[called], int(confusion[true, called]), float(confusion[true, called] / sums[true]))
        for true, called in np.argwhere(confusion)
        if true != called
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share))


def pick_images(splits: Sequence[Split], classes: int, seed: int) -> list[tuple[int, int, int]]:
    """One image of each class, drawn with the seed from the first of the splits that has any of that class.

    Returns:
        (class, index of the split, row in it) of each class that has an image, in the order of the classes.
    """
    picked = []
    for label in range(classes):
        for index, split in enumerate(splits):
            rows = np.flatnonzero(split.labels == label)
            if len(rows):
                picked.append((label, index, int(np.random.default_rng([seed, _DRAW, label]).choice(rows))))
                break
    return picked


def _judge(model: Model, name: str, split: Split) -> _Judged:
    scores = logits(model, split.images)
    logs = log_probabilities(scores, split.labels)
    predicted = scores.argmax(axis=1)
    rows = np.arange(len(split))
    loss = np.maximum(-logs[rows, split.labels], 0.0) + 0.0
    return _Judged(name, split, model.labels, scores, predicted, np.exp(logs[rows, predicted]), loss)


def _look(
    after: Model, before: Model, target: Target, parts: Sequence[_Judged], folder: Path, seed: int
) -> tuple[Target, list[Look]]:
    """The Grad-CAM pictures, written; none, with the reason in the target, where the net has no such map."""
    if target.name is None:
        return target, []
    picked = pick_images([part.split for part in parts], len(after.labels), seed)[:LOOKS]
    images = np.stack([parts[index].split.images[row] for _, index, row in picked])
    targets = np.array([label for label, _, _ in picked], dtype=np.int64)
    try:
        maps = {name: _maps(model, target.name, images, targets) for name, model in (("b", before), ("a", after))}
    except (RuntimeError, AssertionError) as problem:  # nets that change or reuse outputs in ways autograd refuses
        return Target(None, f'autograd cannot follow "{target.name}": {str(problem).partition(chr(10))[0]}'), []
    fresh = Split(images, targets, tuple(parts[index].split.names[row] for _, index, row in picked))
    first = _judge(before, "before", fresh)
    looks = []
    for place, (label, index, row) in enumerate(picked):
        part, file = parts[index], f"class-{label:03}.png"
        panels = [images[place], *(overlay(images[place], maps[name][place]) for name in ("b", "a"))]
        _save(panels, folder / file)
        looks.append(
            Look(
                label=after.labels[label],
                name=part.split.names[row],
                split=part.name,
                file=file,
                before=first.answer(place),
                after=part.answer(row),
                blank_before=not maps["b"][place].any(),
                blank_after=not maps["a"][place].any(),
            )
        )
    return target, looks


def _maps(model: Model, layer: str, images: Pixels, targets: NDArray[np.int64]) -> NDArray[np.float64]:
    starts = range(0, len(images), _BATCH)
    return np.concatenate(
        [heat_maps(model, layer, images[at : at + _BATCH], targets[at : at + _BATCH]) for at in starts]
    )


def _worst(judged: _Judged, folder: Path) -> list[Worst]:
    """The images of the largest losses, written, the largest first."""
    found = []
    for place, row in enumerate(np.argsort(-judged.loss, kind="stable")[:WORST], 1):
        file = f"worst-{judged.name}-{place:02}.png"
        _save([judged.split.images[row]], folder / file)
        found.append(
            Worst(
                file=file,
                name=judged.split.names[row],
                split=judged.name,
                label=judged.label(row),
                answer=judged.answer(row),
                loss=float(judged.loss[row]),
            )
        )
    return found


def _write_misclassified(parts: Sequence[_Judged], path: Path) -> None:
    rows = []
    for part in parts:
        digests = part.split.sha256 or ("",) * len(part.split)
        for row in part.wrong:
            answer = part.answer(row)
            figures = (f"{answer.confidence:.6f}", f"{part.loss[row]:.6f}", part.name)
            rows.append((part.split.names[row], digests[row], part.label(row), answer.predicted, *figures))
    write_csv(path, ("path", "sha256", "label", "predicted", "confidence", "loss", "split"), rows)


def _save(panels: Sequence[Pixels], path: Path) -> None:
    """Write images of one height side by side as a PNG, enlarged by a whole number where they are small."""
    height, width = panels[0].shape[:2]
    scale = max(1, PANEL // max(height, width))
    strip = np.full((height * scale, len(panels) * (width * scale + _GAP) - _GAP, 3), 255, dtype=np.uint8)
    for place, panel in enumerate(panels):
        left = place * (width * scale + _GAP)
        strip[:, left : left + width * scale] = panel.repeat(scale, axis=0).repeat(scale, axis=1)
    image = Image.fromarray(strip)
    write_atomic(path, lambda temporary: image.save(temporary, format="PNG"))
