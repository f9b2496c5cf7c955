"""The measured examples of docs/techniques: ``python -m benchmarks.reduce RUN [--epochs 4] [--json FILE]``.

RUN holds a base model trained as in recipes/fashion-mnist.yaml (docs/techniques/README.md has the command). First, what
a decomposition or a pruning leaves of its accuracy before any training; then short trainings of each technique beside
the same structure from fresh weights, all with the same number of epochs. Test images, one thread, one seed, 95 %
intervals. Rows are printed as they come, losses included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from edgewise import load_recipe
from edgewise.compress import Context, apply_plan
from edgewise.data import Dataset, load_data
from edgewise.jobs import resolve_input
from edgewise.measure.intervals import wilson
from edgewise.models import Model, create_model, open_model, rebuild
from edgewise.models.cost import cost
from edgewise.train import Setup, fit, logits

STUDENT = "convnet(8,16,32)"
UNTRAINED = (
    *(f"decompose({keep}, epochs=0)" for keep in (0.9, 0.8, 0.7)),
    *(
        f"prune(0.3, criterion={name}, epochs=0)"
        for name in ("l2", "l1", "bn", "group", "fpgm", "taylor", "activation", "apoz", "random")
    ),
)
TRAINED = (
    "prune(0.5)",
    f"distill(student={STUDENT})",
    f"distill(student={STUDENT}, loss=dkd)",
    "decompose(0.8)",
    "width(0.5)",
    f"distill(student={STUDENT}, loss=dist)",
    f"distill(student={STUDENT}, standardize=True)",
    f"distill(student={STUDENT}, similarity=3000)",
    "prune(0.5, criterion=taylor)",
    "truncate(block2)",
    "decompose(0.8, epochs=0) > distill",
)


def row(name: str, model: Model, dataset: Dataset, seconds: float) -> dict[str, Any]:
    """One line of the table."""
    right = logits(model, dataset.test.images).argmax(1) == dataset.test.labels
    share = wilson(int(right.sum()), len(right))
    counted = cost(model.module, model.input)
    return {
        "plan": name,
        "accuracy": 100 * share.value,
        "low": 100 * share.low,
        "high": 100 * share.high,
        "params": counted.params_total,
        "macs": counted.macs,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Print and keep the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.run / "recipe.yaml")
    dataset = load_data(recipe.data, resolve_input(recipe), seed=recipe.seed)
    base = open_model(arguments.run / "model" / "base")
    options = recipe.train.model_copy(update={"epochs": arguments.epochs, "amp": "bf16", "threads": 1, "patience": 0})
    rows: list[dict[str, Any]] = []

    def keep(name: str, model: Model, started: float) -> None:
        rows.append(row(name, model, dataset, time.perf_counter() - started))
        print(json.dumps(rows[-1]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:

        def train(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
            return fit(model, dataset, Setup(options, recipe.seed, Path(folder), epochs, lr, loss)).model

        context = Context(dataset, train, train, base, recipe.seed)
        keep("base", base, time.perf_counter())
        for plan in UNTRAINED:
            started = time.perf_counter()
            keep(plan, apply_plan(base, plan, context), started)
        controls: set[str] = set()
        for plan in TRAINED:
            started = time.perf_counter()
            made = apply_plan(base, plan, context)
            keep(plan, made, started)
            shape = str([tuple(tensor.shape) for tensor in made.module.state_dict().values()])
            if shape in controls:
                continue
            controls.add(shape)
            started = time.perf_counter()
            fresh = rebuild(made, seed=recipe.seed) if made.structure else _fresh(made, recipe.seed)
            keep(f"(control) {plan}", train(fresh), started)


def _fresh(model: Model, seed: int) -> Model:
    return create_model(model.architecture, labels=model.labels, input=model.input, seed=seed)


if __name__ == "__main__":
    main()
