"""Which layer is the first whose output in a written file differs from torch.

It works with any format: the net is cut after a layer, that layer's output is made the answer, and the cut net is
written by the same exporter, run by the same runtime and held against the same cut in torch. Cuts are bisected.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgewise.errors import EdgewiseError
from edgewise.export.base import Exporter, ExportSpec
from edgewise.train import logits

if TYPE_CHECKING:
    from edgewise.device import Pixels, Runtime
    from edgewise.models import Model

GRID = 4
"""Maps are averaged to about so many values a side, which keeps cut nets small and still tells a map that is turned."""

REACH = 8
"""How many cuts before the last equal one are looked at when branches run side by side."""

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest |difference| of a layer's output, as a share of its largest |value|."""


@dataclass(frozen=True)
class _Step:
    """The `turn`-th call of a module; `follows` when its input is the output of the step before."""

    layer: str
    kind: str
    turn: int
    follows: bool

    def __str__(self) -> str:
        return f"{self.layer} ({self.kind})"


def first_difference(model: Model, exporter: Exporter, runtime: Runtime, images: Pixels, spec: ExportSpec) -> str:
    """The first layer that differs, e.g. "features.3 (Conv2d)"; "" where none is found.

    Args:
        model: the model whose file differs.
        exporter: what wrote it.
        runtime: what ran it.
        images: a few uint8 (N, height, width, channels) images on which it differs.
        spec: what was written; "fp32" or "fp16".
    """
    with tempfile.TemporaryDirectory(prefix="edgewise-layers-") as folder:

        def differs(step: _Step) -> bool:
            cut = _cut(model, step, images)
            place = Path(folder) / f"{step.layer}.{step.turn}"
            path = place / f"cut{exporter.suffix}"
            exporter.write(cut, dataclasses.replace(spec, workspace=place / "work"), path)
            expected, got = logits(cut, images), runtime.load(path).scores(images)
            scale = max(float(np.abs(expected).max()), 1e-6)
            return not float(np.abs(expected - got).max()) <= TOLERANCE[spec.precision] * scale

        try:
            steps = _steps(model, images)
            found = _search(steps, differs)
        except EdgewiseError:  # a cut that cannot be written tells nothing
            return ""
    if found is None:
        return ""
    before = f", after {steps[found - 1]}" if found and not steps[found].follows else ""
    return f"{steps[found]}{before}"


def _search(steps: list[_Step], differs: Callable[[_Step], bool]) -> int | None:
    """The index of the first step that differs; None when the last one does not."""
    known: dict[int, bool] = {}

    def wrong(index: int) -> bool:
        if index not in known:
            known[index] = differs(steps[index])
        return known[index]

    if not steps or not wrong(len(steps) - 1):
        return None
    high = len(steps) - 1
    while True:
        low = -1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if wrong(middle) else (middle, high)
        if low < 0 or steps[high].follows:
            return high
        # Its input does not come from the equal step before it alone: the fault may lie in another branch.
        earlier = [index for index in range(low - 1, max(-1, low - 1 - REACH), -1) if wrong(index)]
        if not earlier:
            return high
        high = earlier[-1]


def _steps(model: Model, images: Pixels) -> list[_Step]:
    """The calls of all modules in the order they end, without those that hand on what the one before gave."""
    steps: list[_Step] = []
    outputs: list[Any] = []
    turns: dict[str, int] = {}
    net = _pure(model)
    for name, module in net.named_modules():

        def hook(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            turn = turns[name] = turns.get(name, -1) + 1
            if not isinstance(output, torch.Tensor) or output.ndim < 2 or (outputs and output is outputs[-1]):
                return
            leaf = not any(True for _ in module.children())
            follows = leaf and (not outputs or (len(inputs) == 1 and inputs[0] is outputs[-1]))
            steps.append(_Step(name, type(module).__name__, turn, follows))
            outputs.append(output)

        if name:
            module.register_forward_hook(hook)
    logits(dataclasses.replace(model, module=net), images[:1])
    return steps


def _pure(model: Model) -> nn.Module:
    """A copy of the net whose activations leave their inputs as they are."""
    net = model.copy().module
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return net


def _cut(model: Model, step: _Step, images: Pixels) -> Model:
    cut = dataclasses.replace(model, module=_Cut(_pure(model), step).eval())
    width = logits(cut, images[:1]).shape[1]
    return dataclasses.replace(cut, labels=tuple(str(index) for index in range(width)))


class _Cut(nn.Module):
    """A net whose answer is the output of one layer, averaged over a coarse grid: float32 (N, values)."""

    def __init__(self, net: nn.Module, step: _Step) -> None:
        super().__init__()
        self.net = net
        self._turn = step.turn
        self._seen: list[torch.Tensor] = []
        net.get_submodule(step.layer).register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002
        self._seen.append(output.clone() if isinstance(output, torch.Tensor) else output)  # `x += y` may come next

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """The layer's output for normalised images (N, channels, height, width)."""
        self._seen.clear()
        self.net(image)
        output = self._seen[self._turn]
        self._seen.clear()
        if output.ndim == 4 and max(output.shape[2:]) > GRID:
            size = [math.ceil(int(side) / GRID) for side in output.shape[2:]]
            output = nn.functional.avg_pool2d(output, size, size)
        return output.flatten(1)
