"""Low-bit weights on Fashion-MNIST: ``python -m benchmarks.lowbit [--base MODEL] [PLAN ...]``.

The base is that of recipes/fashion-mnist.yaml (12,000 training images with seed 0, 16 epochs), trained here or opened
from a model folder. Each plan is applied to it, fine-tuning runs at a quarter of the recipe's learning rate, and what
is measured is the packed file in its own runtime: bytes of the whole file, and test accuracy against the base's fp32
file on the same images, with a paired 95 % interval. Nothing is chosen by these figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise import load_recipe
from edgewise.compress import Context, apply_plan
from edgewise.data import Dataset, load_data
from edgewise.device import RUNTIMES
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.packed import layout
from edgewise.jobs import resolve_input
from edgewise.measure.accuracy import difference, quality
from edgewise.models import Model, create_model, open_model
from edgewise.models.cost import cost
from edgewise.recipe import Recipe
from edgewise.train import Setup, fit

ROOT = Path(__file__).parents[1]
SLOWER = 4
PLANS = (
    "palettize(bits=16)",
    *(
        f"palettize(bits={bits}{method}, epochs={epochs})"
        for bits in (8, 6, 4, 3, 2)
        for method in ("", ", method=kmeans")
        for epochs in (0, 1)
    ),
    "palettize(average=4, epochs=0)",
    "palettize(average=3, epochs=0)",
    "palettize(average=3, epochs=1)",
    "sparsify(ratio=0.8, epochs=1)",
    "sparsify(ratio=0.8, epochs=1) > palettize(bits=4, epochs=1)",
)


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description="Bits of weights against bytes and accuracy.")
    parser.add_argument("--base", type=Path, help="model folder of the base; default: train it")
    parser.add_argument("plans", nargs="*", metavar="PLAN")
    options = parser.parse_args()
    recipe = load_recipe(ROOT / "recipes" / "fashion-mnist.yaml")
    spec = resolve_input(recipe)
    dataset = load_data(recipe.data, spec, seed=recipe.seed)
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        if options.base:
            base = open_model(options.base)
        else:
            fresh = create_model(recipe.model, labels=dataset.classes, input=spec, seed=recipe.seed)
            base = _trained(recipe, dataset, room / "base", fresh, recipe.train.epochs, recipe.train.lr)
        reference = _answers(base, "onnx", room / "reference", dataset)[0]
        accuracy = quality(reference, dataset.test.labels, dataset.classes).accuracy
        print(f"base, fp32 onnx: {_interval(accuracy, 2)} % of n = {accuracy.n} test images\n")
        print("| plan | test accuracy % | against base, points | zeros % | file bytes | of these indices | graph | s |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for number, plan in enumerate(options.plans or PLANS):
            print(_row(plan, base, recipe, dataset, reference, room / str(number)), flush=True)


def _row(plan: str, base: Model, recipe: Recipe, dataset: Dataset, reference: NDArray[np.int64], room: Path) -> str:
    def train_on(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        count = epochs or max(1, round(recipe.train.epochs * 2 / 3))
        return _trained(recipe, dataset, room / "train", model, count, lr or recipe.train.lr / SLOWER, loss)

    started = time.monotonic()
    model = apply_plan(base, plan, Context(dataset, train_on, train_on, base, recipe.seed))
    answers, file = _answers(model, "packed", room, dataset)
    seconds = time.monotonic() - started
    labels, classes = dataset.test.labels, dataset.classes
    delta = difference(answers, reference, labels, classes, reference="base").accuracy
    counted, parts = cost(model.module, model.input), layout(file.read_bytes())
    indices = sum(tensor["streams"]["values"] for tensor in parts["tensors"])
    cells = [
        f"`{plan}`",
        _interval(quality(answers, labels, classes).accuracy, 2),
        _interval(delta, 2),
        f"{100 * counted.params_zero / counted.params_total:.1f}",
        f"{parts['file']:,}",
        f"{indices:,}",
        f"{parts['skeleton']:,}",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _trained(
    recipe: Recipe, dataset: Dataset, room: Path, model: Model, epochs: int, lr: float, loss: Any = None
) -> Model:
    room.mkdir(parents=True, exist_ok=True)
    setup = Setup(recipe.train, recipe.seed, room, epochs=epochs, lr=lr)
    return fit(model, dataset, setup if loss is None else dataclasses.replace(setup, loss=loss)).model


def _answers(model: Model, format_: str, room: Path, dataset: Dataset) -> tuple[NDArray[np.int64], Path]:
    """The test decisions of a model's fp32 file in its own runtime, and the file."""
    path = room / f"model{FORMATS[format_].suffix}"
    FORMATS[format_].write(model, ExportSpec("fp32", room / "work"), path)
    session = RUNTIMES[format_].load(path, threads=1)
    images = dataset.test.images
    scores = [session.scores(images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate(scores).argmax(1), path


def _interval(estimate: Any, digits: int) -> str:
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main()
