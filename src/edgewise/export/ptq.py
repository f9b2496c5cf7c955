"""How a model is made int8 without training: what is tried, in which order, and what that costs.

`first_choice` compares the methods that turn one calibration into ranges, then corrected biases, and channels evened
out (a calibration more): seven files in one scheme, judged by how far their answers on validation images move from
those of fp32. `further_choices` is for models of which no int8 file keeps to the largest drop: the layers that cost
most are left in float (a file for each of at most `TRIALS` groups of layers, then one for each step).

Answers are compared by their Kullback-Leibler divergence from those of fp32, which needs no labels and sees what top-1
decisions hide. Test images are never looked at. See docs/decisions/0024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.export.base import Ptq

if TYPE_CHECKING:
    from edgewise.device import Scores
    from edgewise.export.desk import Desk

METHODS = ("minmax", "percentile", "mse", "entropy")
JUDGED_BY = "u8s8-rr"
"""The scheme in which methods are compared: no CPU's arithmetic overflows in it."""
TRIALS = 16
"""So many groups of layers are left in float, one at a time, to see which cost most."""
CLEARLY = 0.9
"""A further step is taken where it leaves at most so much of the divergence."""


def first_choice(desk: Desk, scheme: str) -> Ptq:
    """The method, number of calibration images and preparation whose answers stay nearest to those of fp32.

    One calibration for all methods, one for equalized channels, one for each entry of `calibration_sizes`.
    """
    options = desk.options
    methods = METHODS if options.int8_method == "auto" else (options.int8_method,)
    even, correct = ([False, True] if one == "auto" else [one] for one in (options.int8_equalize, options.int8_correct))
    tried = [Ptq(method, 0, even[0], correct[0]) for method in methods]
    best = nearest(desk, scheme, tried)
    sizes = [size for size in options.calibration_sizes if size < len(desk.calibration)]
    best = nearest(desk, scheme, [best, *(dataclasses.replace(best, images=size) for size in sizes)])
    ways = [dataclasses.replace(best, equalize=e, correct=c) for e in even for c in correct]
    return nearest(desk, scheme, ways)


def further_choices(desk: Desk, scheme: str, start: Ptq) -> Iterator[Ptq]:
    """What to try when `start` loses too much, until the caller is satisfied: ever more of the layers that cost most
    in float, within `int8_float_layers` of all, one at least."""
    share, layers = desk.options.int8_float_layers, layers_of(desk, start)
    if not share or not layers:
        return
    groups = [list(group) for group in np.array_split(np.array(layers, dtype=object), min(TRIALS, len(layers)))]
    left = sensitivity(desk, scheme, start, groups)
    floats: list[str] = []
    for place in sorted(range(len(groups)), key=lambda place: left[place]):
        if len(floats) + len(groups[place]) > max(1, int(share * len(layers))):
            return
        floats += groups[place]
        yield dataclasses.replace(start, floats=tuple(name for name in layers if name in floats))


def nearest(desk: Desk, scheme: str, tried: list[Ptq]) -> Ptq:
    """The one whose answers stay nearest to those of fp32; an earlier one unless a later is clearly nearer."""
    if len(tried) == 1:
        return tried[0]
    best, least = tried[0], distance(desk, scheme, tried[0])
    for one in tried[1:]:
        now = distance(desk, scheme, one)
        if now < CLEARLY * least:
            best, least = one, now
    return best


def distance(desk: Desk, scheme: str, ptq: Ptq) -> float:
    """How far the answers of the int8 file move from those of fp32 on validation images, in nats."""
    scores = desk.scores(desk.write("int8", scheme, ptq), "val")
    return divergence(desk.expected("val"), scores)


def divergence(expected: Scores, got: Scores) -> float:
    """Mean Kullback-Leibler divergence of two sets of logits (N, classes), in nats."""
    p, q = (_log_softmax(scores.astype(np.float64)) for scores in (expected, got))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


def layers_of(desk: Desk, ptq: Ptq) -> list[str]:
    """The nodes with weights of the graph that is quantized, in the order they run."""
    import onnx

    from edgewise.export.onnx import prepared_file

    graph = onnx.load(prepared_file(desk.order.model, desk.spec("int8", JUDGED_BY, ptq))).graph
    constants = {one.name for one in graph.initializer}
    weighted = {"Conv", "Gemm", "MatMul"}
    return [node.name for node in graph.node if node.op_type in weighted and constants & set(node.input[1:2])]


def sensitivity(desk: Desk, scheme: str, ptq: Ptq, groups: list[list[str]]) -> list[float]:
    """For each group of layers, the distance that is left when it alone stays float."""
    return [distance(desk, scheme, dataclasses.replace(ptq, floats=tuple(group))) for group in groups]
