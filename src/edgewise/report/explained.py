"""The explained model as the page shows it: confused classes, Grad-CAM, the worst images, reliability.

Pictures are put into the page itself, so their number and bytes are limited; what is left out is said.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.errors import UntrustedError
from edgewise.report.explanation import SPLITS, Explanation, Look, Worst, read_explanation
from edgewise.report.rows import Row, confidence_verdict, interval
from edgewise.report.words import show_scaled, show_share
from edgewise.results import Calibration, Reliability

if TYPE_CHECKING:
    from PIL.Image import Image

LOOKS = 24
"""Most Grad-CAM pictures in a page, in the order of the class map."""

PAIRS = 10
"""Most confused pairs in a page."""

LOOK_BYTES, WORST_BYTES = 900_000, 300_000
"""Most bytes that the Grad-CAM pictures and the worst images take, as they stand in the page."""

HEIGHT = 160
"""Taller pictures are made smaller for the page, in pixels."""

VERDICTS = {"over": "over-confident", "under": "under-confident", "fits": "fits"}


def section_of(folder: Path) -> dict[str, Any]:
    """What the page shows of the explanation in a folder, as plain data.

    Raises:
        UntrustedError: the record or one of its pictures is missing or damaged.
    """
    record = read_explanation(folder)
    albums = _Album(folder, LOOK_BYTES), _Album(folder, WORST_BYTES)
    looks = [shown for look in record.looks[:LOOKS] if (shown := _look(look, albums[0]))]
    worst = [shown for one in record.worst if (shown := _worst(one, albums[1]))]
    return {
        "model": record.model,
        "architecture": record.architecture,
        "errors": ", ".join(
            f"{record.errors[split]:,} of {record.images[split]:,} {word} images" for split, word in SPLITS.items()
        ),
        "layer": record.layer,
        "layer_note": record.layer_note,
        "looks": looks,
        "looks_left_out": len(record.looks) - len(looks) + record.classes_left_out,
        "worst": [{"split": word, "images": [one for one in worst if one["split"] == word]} for word in _words(record)],
        "worst_left_out": len(record.worst) - len(worst),
        "pairs": [
            {"label": one.label, "predicted": one.predicted, "count": f"{one.count:,}", "share": show_share(one.share)}
            for one in record.pairs[:PAIRS]
        ],
        "pairs_left_out": max(0, len(record.pairs) - PAIRS),
        "temperature": f"{record.calibration.temperature:.3g}",
        "fitted": _fitted(record.calibration),
        "diagrams": [
            _diagram("As trained", record.calibration.before),
            _diagram("After temperature scaling", record.calibration.after),
        ],
        "look_limit": f"{LOOKS} of these pictures and {show_scaled(LOOK_BYTES, 'B')} of them",
        "worst_limit": show_scaled(WORST_BYTES, "B"),
    }


def calibrations_of(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The table of how far the confidence of each file can be believed; rows without the figures are left out."""
    return [
        {
            "name": row["name"],
            "ece": show_share(row["ece"]),
            "chance": show_share(row["ece_chance"]),
            "gap": show_share(*interval(row, "confidence_gap"), sign=True),
            "verdict": VERDICTS[row["confidence_verdict"]],
            "nll": f"{row['nll']:.3f}",
            "temperature": f"{row['temperature']:.3g}",
            "ece_scaled": show_share(row["ece_scaled"]),
            "nll_scaled": f"{row['nll_scaled']:.3f}",
        }
        for row in rows
        if row["ece"] is not None
    ]


class _Album:
    """Pictures as data addresses, until their bytes are used up."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._left = limit

    def address(self, name: str) -> str | None:
        """The picture as it can stand in the page; None when it has no room left."""
        from PIL.Image import Resampling

        from edgewise.device.preprocess import BadImage, open_image

        try:
            image = open_image(self._folder / name).convert("RGB")
        except BadImage as problem:
            raise UntrustedError(
                "a picture of an explanation is missing or damaged",
                code="U40",
                where={"file": self._folder / name},
                why=str(problem),
                fix="explain it again",
            ) from problem
        if image.height > HEIGHT:
            image = image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Resampling.BOX)
        kind, data = min((_encoded(image, kind) for kind in ("png", "jpeg")), key=lambda one: len(one[1]))
        text = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        if len(text) > self._left:
            return None
        self._left -= len(text)
        return text


def _encoded(image: Image, kind: str) -> tuple[str, bytes]:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 85} if kind == "jpeg" else {}))
    return kind, stream.getvalue()


def _look(look: Look, album: _Album) -> dict[str, Any] | None:
    address = album.address(look.file)
    if address is None:
        return None
    return {
        "address": address,
        "label": look.label,
        "name": look.name,
        "split": SPLITS.get(look.split, look.split),
        "steps": [
            {
                "when": when,
                "predicted": answer.predicted,
                "confidence": show_share(answer.confidence),
                "right": answer.predicted == look.label,
                "blank": blank,
            }
            for when, answer, blank in (
                ("before", look.before, look.blank_before),
                ("after", look.after, look.blank_after),
            )
        ],
    }


def _worst(one: Worst, album: _Album) -> dict[str, Any] | None:
    address = album.address(one.file)
    if address is None:
        return None
    return {
        "address": address,
        "name": one.name,
        "split": SPLITS.get(one.split, one.split),
        "label": one.label,
        "predicted": one.answer.predicted,
        "right": one.answer.predicted == one.label,
        "confidence": show_share(one.answer.confidence),
        "loss": f"{one.loss:.2f}",
    }


def _words(record: Explanation) -> list[str]:
    """The splits that worst images come from, in the order they stand in the record."""
    return list(dict.fromkeys(SPLITS.get(one.split, one.split) for one in record.worst))


def _fitted(calibration: Calibration) -> str:
    if calibration.note:
        return calibration.note
    images, errors = calibration.fitted_on, calibration.fitted_errors
    return f"fitted on {images:,} validation images, {errors:,} of them called wrongly"


def _diagram(title: str, one: Reliability) -> dict[str, Any]:
    """A reliability diagram in a square of 100 x 100, y pointing down."""
    return {
        "title": title,
        "ece": show_share(one.ece),
        "chance": show_share(one.ece_chance),
        "adaptive": show_share(one.ece_adaptive),
        "nll": f"{one.nll:.3f}",
        "gap": show_share(one.gap.value, one.gap.low, one.gap.high, sign=True),
        "verdict": VERDICTS[confidence_verdict(one)],
        "n": f"{one.n:,}",
        "bars": [
            {
                "x": round(100 * bin_.low, 2),
                "width": round(100 * (bin_.high - bin_.low), 2),
                "y": round(100 - 100 * bin_.accuracy, 2),
                "height": round(100 * bin_.accuracy, 2),
                "gap_y": round(100 - 100 * max(bin_.accuracy, bin_.confidence), 2),
                "gap_height": round(100 * abs(bin_.accuracy - bin_.confidence), 2),
                "over": bin_.confidence > bin_.accuracy,
                "count": round(12 * bin_.n / one.n, 2),
                "words": f"{bin_.n:,} images at {show_share(bin_.low)} to {show_share(bin_.high)} %: "
                f"mean confidence {show_share(bin_.confidence)} %, right {show_share(bin_.accuracy)} %",
            }
            for bin_ in one.bins
        ],
    }
