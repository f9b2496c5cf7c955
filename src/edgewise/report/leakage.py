"""What copies of training images among the test images do to the figures, in words; it stands above all figures."""

from __future__ import annotations

from edgewise.judge import base_of
from edgewise.report.rows import METRICS
from edgewise.report.words import show_share
from edgewise.results import Estimate, Measurement, Quality, RunResult


def leakage_lines(result: RunResult) -> list[str]:
    """A sentence for each split that holds copies of training images, with the figure on the other images."""
    lines = []
    for part, word in (("test", "test"), ("val", "validation")):
        leaked, images = (_count(result, key) for key in (f"{part}_leaked", part))
        if not leaked or not images:
            continue
        told = (
            f"Leakage: {leaked:,} of {images:,} {word} images ({show_share(leaked / images)} %) are copies of training"
        )
        lines.append(f"{told} images. {_clean_words(result, word, images - leaked)}")
    return lines


def _count(result: RunResult, key: str) -> int:
    value = result.data.get(key)
    return value if isinstance(value, int) else 0


def _clean_words(result: RunResult, word: str, left: int) -> str:
    if left <= 0:
        return f"None is left: the {word} figures prove nothing."
    shown = next((one for one in result.measurements if one.name == result.chosen), base_of(result.measurements))
    if shown is None:
        return f"{left:,} are left."
    metric = str(result.goal.get("metric", "macro_f1"))
    clean, every = _qualities(shown, word)
    if clean is None:
        return f"{left:,} are left."
    return (
        f"On the other {left:,}, {shown.name} has {_figure(clean, metric)} % {METRICS[metric]} "
        f"(with the copies {_figure(every, metric)} %)."
    )


def _qualities(one: Measurement, word: str) -> tuple[Quality | None, Quality]:
    return (one.test_clean, one.test) if word == "test" else (one.validation_clean, one.validation)


def _figure(quality: Quality, metric: str) -> str:
    estimate: Estimate = getattr(quality, metric)
    return show_share(estimate.value, estimate.low, estimate.high)
