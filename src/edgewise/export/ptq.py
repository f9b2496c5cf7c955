"""How a model is made int8 without training: what is tried, in which order, and what that costs.

`first_choice` compares the methods that turn one calibration into ranges: a file for each, in one scheme, judged by how
far its answers on validation images move from those of fp32. `further_choices` is for models of which no int8 file
keeps to the largest drop: channels evened out and biases corrected (one calibration more, three files), then the layers
that cost most left in float (a file for each of at most `TRIALS` groups of layers, then one for each step).

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
    """The method, and the number of calibration images, whose answers stay nearest to those of fp32.

    One calibration for all methods, one more for each entry of `calibration_sizes`.
    """
    options = desk.options
    methods = METHODS if options.int8_method == "auto" else (options.int8_method,)
    plain = Ptq(methods[0], 0, options.int8_equalize is True, options.int8_correct is True)
    tried = [dataclasses.replace(plain, method=method) for method in methods]
    best = nearest(desk, scheme, tried)
    sizes = [size for size in options.calibration_sizes if size < len(desk.calibration)]
    return nearest(desk, scheme, [best, *(dataclasses.replace(best, images=size) for size in sizes)])


def further_choices(desk: Desk, scheme: str, start: Ptq) -> Iterator[Ptq]:
    """What to try when `start` loses too much, until the caller is satisfied."""
    options = desk.options
    even = {start.equalize, options.int8_equalize is not False}
    correct = {start.correct, options.int8_correct is not False}
    tried = [dataclasses.replace(start, equalize=e, correct=c) for e in sorted(even) for c in sorted(correct)]
    best = nearest(desk, scheme, tried)
    if best != start:
        yield best
    allowed = int(options.int8_float_layers * len(layers_of(desk, best)))
    if options.int8_float_layers and layers_of(desk, best):
        yield from _in_float(desk, scheme, best, max(1, allowed))


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


def _in_float(desk: Desk, scheme: str, ptq: Ptq, allowed: int) -> Iterator[Ptq]:
    """Ever more of the layers that cost most in float, within what is allowed."""
    layers = layers_of(desk, ptq)
    groups = [list(group) for group in np.array_split(np.array(layers, dtype=object), min(TRIALS, len(layers)))]
    left = sensitivity(desk, scheme, ptq, groups)
    order = sorted(range(len(groups)), key=lambda place: left[place])
    floats: list[str] = []
    for place in order:
        if len(floats) + len(groups[place]) > allowed:
            return
        floats += groups[place]
        yield dataclasses.replace(ptq, floats=tuple(name for name in layers if name in floats))
