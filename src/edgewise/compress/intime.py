"""Targets in time: of several versions of a net, the first that is fast enough, as measured.

Multiply-adds do not tell the time: widths off multiples of 8 are slow, three small layers move more memory than one.
So the versions are written as fp32 ONNX files and timed beside the net that they were made from, in one session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgewise.errors import ConfigError

if TYPE_CHECKING:
    from edgewise.models import Model

Speeds = Callable[[Sequence["Model"]], list[float]]
"""Models -> time of each as a ratio to the first one's, on this machine; see `edgewise.export.speed.speeds`."""

MOST = 16
"""So many versions of a net are timed at most."""

How = TypeVar("How")


def first_in_time(
    model: Model, versions: Sequence[tuple[How, Model]], share: float, speeds: Speeds | None, say: Callable[[str], None]
) -> How:
    """How the largest version that is fast enough was made.

    Args:
        model: what all versions are compared with.
        versions: how each was made, and what came of it, the largest first; those with the shapes of an earlier one
            are not timed.
        share: of the model's time.
        speeds: what times them.
        say: takes what was measured.

    Raises:
        ConfigError: nothing here can time models (C65), or no version is fast enough (C66).
    """
    if speeds is None:
        raise ConfigError(
            "there is nothing here to time models with",
            code="C65",
            where={"latency": share},
            why="a target in time needs a context with `speeds`",
            fix="run the plan by `edgewise run`, or ask for macs",
        )
    timed = _thinned(_distinct(versions))
    ratios = speeds([model, *(made for _, made in timed)])[1:]
    for (how, _), ratio in zip(timed, ratios, strict=True):
        if ratio <= share:
            say(f"{ratio:.2f} of the time of the net before, measured here in onnxruntime")
            return how
    raise ConfigError(
        f"no version of this net takes {share:g} of its time or less",
        code="C66",
        where={"model": model.architecture, "latency": share},
        why=f"the fastest of {len(timed)} takes {min(ratios):.2f} of it" if ratios else "there is no smaller version",
        fix="ask for less, lower round_to, ignore fewer layers, or take a smaller net",
    )


def _distinct(versions: Sequence[tuple[How, Model]]) -> list[tuple[How, Model]]:
    found: dict[tuple[tuple[int, ...], ...], tuple[How, Model]] = {}
    for how, made in versions:
        found.setdefault(tuple(tuple(tensor.shape) for tensor in made.module.state_dict().values()), (how, made))
    return list(found.values())


def _thinned(versions: list[tuple[How, Model]]) -> list[tuple[How, Model]]:
    """At most `MOST`, evenly drawn, the first and the last among them."""
    if len(versions) <= MOST:
        return versions
    step = (len(versions) - 1) / (MOST - 1)
    return [versions[round(step * number)] for number in range(MOST)]
