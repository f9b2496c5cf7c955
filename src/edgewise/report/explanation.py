"""What a trained net looks at and where it errs, as plain frozen data that goes to JSON and back.

`edgewise.train.explain` fills the record and keeps its pictures beside it; `edgewise.report.explained` shows both.
Splits are named as in splits.csv: val and test. Shares and confidences lie in 0..1.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgewise.errors import UntrustedError
from edgewise.report.words import clean
from edgewise.results import Calibration, parse

SCHEMA = 1
"""Version of the JSON layout; a reader refuses a version it does not know."""

RECORD = "explain.json"

SPLITS = {"val": "validation", "test": "test"}
"""The splits that are looked at, and how they are written."""

SHOWN_PAIRS = 5
"""Confused pairs on a terminal."""


@dataclass(frozen=True)
class Answer:
    """What a model calls an image, and the softmax probability it gives to that."""

    predicted: str
    confidence: float


@dataclass(frozen=True)
class Look:
    """The Grad-CAM picture of one class: the image, then what speaks for its class before and after training.

    `file` is a PNG beside the record. `blank_before` and `blank_after` say that nothing in the map speaks for the
    class, so that its overlay is the bare image.
    """

    label: str
    name: str
    split: str
    file: str
    before: Answer
    after: Answer
    blank_before: bool
    blank_after: bool


@dataclass(frozen=True)
class Pair:
    """Test images of class `label` that were called `predicted`: how many, and their share of that class's images."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Worst:
    """An image with one of the largest losses of its split; `file` is a PNG beside the record. `loss` is in nats."""

    file: str
    name: str
    split: str
    label: str
    answer: Answer
    loss: float


@dataclass(frozen=True)
class Explanation:
    """All of it, for one model.

    `images` and `errors` count by split. `layer` is where Grad-CAM was taken, None where there is no such layer, and
    `layer_note` says its size or why there is none. `classes_left_out` counts the classes without a picture. `pairs`
    are ordered, the most frequent first. `calibration` is that of the torch model.
    """

    model: str
    architecture: str
    seed: int
    images: dict[str, int]
    errors: dict[str, int]
    layer: str | None
    layer_note: str
    looks: list[Look]
    classes_left_out: int
    pairs: list[Pair]
    worst: list[Worst]
    calibration: Calibration
    schema: int = SCHEMA


def to_json(explanation: Explanation) -> str:
    """The record as JSON text."""
    return json.dumps(dataclasses.asdict(explanation), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_explanation(folder: Path) -> Explanation:
    """Read the record of a folder that `edgewise.train.explain` wrote.

    Raises:
        UntrustedError: missing, damaged, of another layout version, or it names pictures outside its folder.
    """
    path = folder / RECORD
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UntrustedError(
            "cannot read an explanation", code="U40", where={"file": path}, why=str(problem), fix="explain it again"
        ) from problem
    version = raw.get("schema") if isinstance(raw, dict) else None
    if version != SCHEMA:
        raise UntrustedError(
            f"an explanation of layout version {version!r}; this edgewise reads {SCHEMA}",
            code="U40",
            where={"file": path},
            fix="explain it again",
        )
    explanation = parse(Explanation, raw, path)
    for name in [*(one.file for one in explanation.looks), *(one.file for one in explanation.worst)]:
        if PurePosixPath(name).name != name or name in {"", ".", ".."} or "\\" in name:
            raise UntrustedError(
                "an explanation names a picture outside its folder",
                code="U40",
                where={"file": path, "name": name},
                fix="explain it again",
            )
    return explanation


def summary(explanation: Explanation) -> list[str]:
    """The explanation in a few lines for a terminal."""
    calibration = explanation.calibration
    before, after = calibration.before, calibration.after
    layer = f"layer {explanation.layer}, " if explanation.layer else "none: "
    lines = [
        *(
            f"{word:10}  {explanation.errors[split]} of {explanation.images[split]} images called wrongly"
            for split, word in SPLITS.items()
        ),
        *(
            f"confused    {one.label} called {one.predicted}: {one.count} images, {one.share:.1%}"
            for one in explanation.pairs[:SHOWN_PAIRS]
        ),
        f"Grad-CAM    {layer}{explanation.layer_note}",
        f"confidence  ECE {before.ece:.1%} (by chance {before.ece_chance:.1%}), {before.gap.value:+.1%} "
        f"[{before.gap.low:+.1%}, {before.gap.high:+.1%}] from the accuracy",
        f"            ECE {after.ece:.1%} at temperature {calibration.temperature:.3g}",
    ]
    return [clean(line).replace("\n", " ") for line in lines]
