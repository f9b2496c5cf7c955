"""How much accuracy is left in how little: ``python -m benchmarks.compress [PART ...] [--seeds 0 1 2] [--out DIR]``.

Base and plans are those of recipes/fashion-mnist-accurate.yaml, the small nets those of fashion-mnist-small.yaml and
fashion-mnist-tiny.yaml (12,000 training and 2,000 validation images, all test images). They were settled on validation
images alone; the test images are only counted here. Beside each model that a technique made stands its control: the
same structure from fresh weights, trained with the labels alone for as many epochs as the model has behind it.

Whatever is done is kept in DIR, with a results.json, and a run that was broken off goes on where it was; a model is
made again when its recipe was changed. Several runs may work on different rows of one DIR. ``--show`` prints what is
there. Parts: base, small, tiny, prune, latency, bundle, lowbit, or a single row of one; default: all. The row of
latency times nets while it prunes them: on a machine that does nothing else.

One thread. Dense nets are trained in bf16 where the CPU multiplies it in hardware (AMX), all else in fp32: settled here
instead of timed (``train.amp: auto``), so that a busy machine does not train otherwise than an idle one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgewise import load_recipe, runs
from edgewise.compress import Context, apply_plan
from edgewise.data import Dataset, load_data
from edgewise.data.augment import Augment
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.deliver import deliver
from edgewise.export.desk import Order
from edgewise.export.speed import speeds
from edgewise.jobs import Built, resolve_input
from edgewise.measure.accuracy import difference
from edgewise.measure.intervals import wilson
from edgewise.models import Model, create_model, open_model, rebuild, save_model
from edgewise.models.cost import cost
from edgewise.plan import format_plan, parse_plan
from edgewise.progress import Silent
from edgewise.proving import lineage
from edgewise.recipe import Recipe
from edgewise.train import Setup, fit, logits
from edgewise.train.threads import has_fast_bf16

ROOT = Path(__file__).parents[1]
BASE = "base"
RECIPES = {BASE: "fashion-mnist-accurate", "small": "fashion-mnist-small", "tiny": "fashion-mnist-tiny"}
"""Rows that are the base model of a recipe; the other rows are variants of one of them."""
CONTROL = "-scratch"
RESULTS = "results.json"
KILOBYTE = 1000


@dataclass(frozen=True)
class Row:
    """What is asked of a model: its part; what hand-written code reached; the least test accuracy in %, or the most
    points below its base; bounds on what it may weigh; whether it needs a control; whose variant it is; how many times
    as fast as its base it must be, as fp32 ONNX files in onnxruntime on one thread."""

    part: str
    reference: str
    least: float | None = None
    drop: float | None = None
    params: int | None = None
    bundle_bytes: int | None = None
    control: bool = True
    base: str = BASE
    faster: float | None = None


ROWS = {
    "base": Row("base", "88.41; 89.44 with all 58,000 images", least=91.0, control=False),
    "small": Row("small", "85.52 (9,640); 89.8 (8,234)", least=90.3, params=10_000, control=False),
    "tiny": Row("tiny", "85.18 (6,274)", least=89.0, params=6_274, control=False),
    "prune50": Row("prune", "86.29, -2.1", drop=0.5),
    "prune70": Row("prune", "84.51, -3.9", drop=1.5),
    "fast": Row("latency", "87.78, -0.6, at 1.1 times the speed", drop=0.5, faster=1.6),
    "bundle": Row("bundle", "84.89 (25 kB)", least=90.0, bundle_bytes=25 * KILOBYTE, control=False),
    "small8": Row("bundle", "84.89 (25 kB)", least=90.0, bundle_bytes=25 * KILOBYTE, control=False, base="small"),
    "bits4": Row("lowbit", "87.87, -0.5", drop=0.3, control=False),
    "bits3": Row("lowbit", "87.96, -0.5", drop=0.7, control=False),
}
"""Models by name. What was trained from fresh weights with the labels alone is its own control, and where weights alone
change, the base is."""
PARTS = tuple(dict.fromkeys(row.part for row in ROWS.values()))


class Bench:
    """The models of one seed: trained where they are not there yet."""

    def __init__(self, seed: int, out: Path, results: dict[str, Any]) -> None:
        self.recipes: dict[str, Recipe] = {
            name: load_recipe(ROOT / "recipes" / f"{file}.yaml", {"seed": seed}) for name, file in RECIPES.items()
        }
        self.recipe = self.recipes[BASE]
        self.room, self.seed, self.results = out, seed, results
        self.spec = resolve_input(self.recipe)
        # The images are the same for every seed: 0 draws them. The seed is that of weights, batches and augmentation.
        self.dataset: Dataset = load_data(self.recipe.data, self.spec, seed=0)
        self.plans = {
            str(variant.name): variant.plan for recipe in self.recipes.values() for variant in recipe.variants or ()
        }
        self.epochs, self.amp = 0, ""

    def have(self, name: str) -> Model:
        """A model of this seed by name, from its folder or made now."""
        folder = self.room / f"{name}-{self.seed}"
        key = folder.name
        settings = self.settings(name)
        if self.results.get(key, {}).get("settings") == settings:
            return open_model(folder)
        for needed in self._needed(name):
            self.have(needed)
        started = time.monotonic()
        self.epochs, self.amp = 0, ""
        self.recipe = self.recipes[_base_of(name)]
        model = self._make(name)
        save_model(model, folder)
        self.results[key] = self._record(model, name, time.monotonic() - started) | {"settings": settings}
        self.results.update(known(self.room) | {key: self.results[key]})  # others may be at work on other rows
        runs.write_json(self.room / RESULTS, self.results)
        record = self.results[key]  # test figures are for the table, when nothing is left to be settled
        print(f"{key}: validation {record['val_right'] / record['val_n']:.4f}, {record['seconds']} s", flush=True)
        return model

    def settings(self, name: str) -> list[Any]:
        """All of the recipe that a model depends on."""
        recipe = self.recipes[_base_of(name)]
        train = recipe.train.model_dump(mode="json", exclude={"amp", "threads", "finetune_lr", "finetune_epochs"})
        own = [recipe.model, train, recipe.augment.model_dump(mode="json")]
        if name in RECIPES:
            return own
        plan = self.plans[name.removesuffix(CONTROL)]
        return [*own, plan, recipe.train.finetune_lr, recipe.train.finetune_epochs, name.endswith(CONTROL)]

    def _needed(self, name: str) -> list[str]:
        """The models that one is made from."""
        if name in RECIPES:
            return []
        if name.endswith(CONTROL):
            return [name.removesuffix(CONTROL)]
        return [_base_of(name), *filter(None, [self._rest(name)[1]])]

    def _make(self, name: str) -> Model:
        if name in RECIPES:
            fresh = create_model(self.recipe.model, labels=self.dataset.classes, input=self.spec, seed=self.seed)
            return self._train(fresh)
        if name.endswith(CONTROL):
            made = name.removesuffix(CONTROL)
            behind = self.results[f"{made}-{self.seed}"]["epochs"]
            return self._train(rebuild(self.have(made), seed=self.seed), epochs=behind)
        base = self.have(_base_of(name))
        context = Context(
            self.dataset, self._train, self._tune, base, self.seed, augmented=True, mixed=True, speeds=self._speeds
        )
        plan, before = self._rest(name)
        model = apply_plan(self.have(before) if before else base, plan, context)
        inherited = self.results[f"{before or _base_of(name)}-{self.seed}"]
        self.epochs += inherited["epochs"]
        return model

    def _rest(self, name: str) -> tuple[str, str]:
        """What is left of a plan behind the row whose plan it begins with, and that row, "" for the base."""
        steps = parse_plan(self.plans[name])
        for other, plan in self.plans.items():
            done = parse_plan(plan)
            alike = other in ROWS and _base_of(other) == _base_of(name)
            if alike and len(done) < len(steps) and steps[: len(done)] == done:
                return format_plan(steps[len(done) :]), str(other)
        return self.plans[name], ""

    def _train(self, model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        return self._fit(model, epochs or self.recipe.train.epochs, lr or self.recipe.train.lr, loss)

    def _tune(self, model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        options = self.recipe.train
        short = options.finetune_epochs or max(1, round(options.epochs * 2 / 3))
        return self._fit(model, epochs or short, lr or options.finetune_lr or options.lr, loss)

    def _fit(self, model: Model, epochs: int, lr: float, loss: Any) -> Model:
        self.epochs += epochs
        dense = all(part.groups == 1 for part in model.module.modules() if isinstance(part, nn.Conv2d))
        self.amp = "bf16" if dense and has_fast_bf16() else "off"
        options = self.recipe.train.model_copy(update={"amp": self.amp, "threads": 1})
        augment = Augment(self.recipe.augment, self.spec, self.dataset.train.labels, len(self.dataset.classes))
        with tempfile.TemporaryDirectory() as folder:
            setup = Setup(options, self.seed, Path(folder), epochs, lr, loss, augment)
            return fit(model, self.dataset, setup, on_epoch=_tell).model

    def _record(self, model: Model, name: str, seconds: float) -> dict[str, Any]:
        """Decisions are those of torch in fp32; those of a packed row are its bundle's, in its own runtime."""
        counted = cost(model.module, self.spec)
        row = ROWS.get(name)
        packed = row is not None and row.part in ("bundle", "lowbit")
        with tempfile.TemporaryDirectory() as folder:
            found = self._bundled(model, name, Path(folder)) if packed else self._plain(model, Path(folder))
        np.save(self.room / f"{name}-{self.seed}.npy", found.pop("answers").astype(np.uint8))
        if row is not None and row.faster is not None:
            found["faster"] = 1 / self._speeds([self.have(row.base), model])[1]
        return found | {
            "params": counted.params_total,
            "macs": counted.macs,
            "epochs": self.epochs,
            "plan": self.plans.get(name, ""),
            "architecture": model.architecture,
            "amp": self.amp,
            "seconds": round(seconds),
        }

    def _speeds(self, models: Sequence[Model]) -> list[float]:
        return speeds(models, self.dataset.val.images, seed=self.seed, say=print)

    def _plain(self, model: Model, room: Path) -> dict[str, Any]:
        path = room / "model.onnx"
        FORMATS["onnx"].write(model, ExportSpec("fp32", room / "work"), path)
        answers = {split: logits(model, getattr(self.dataset, split).images).argmax(1) for split in ("val", "test")}
        right = {split: int((found == getattr(self.dataset, split).labels).sum()) for split, found in answers.items()}
        return {
            "val_right": right["val"],
            "val_n": len(self.dataset.val),
            "test_right": right["test"],
            "test_n": len(self.dataset.test),
            "file_bytes": path.stat().st_size,
            "file": "onnx",
            "answers": answers["test"],
        }

    def _bundled(self, model: Model, name: str, room: Path) -> dict[str, Any]:
        """Of the packed bundle; its bytes are those of all its files but the runner, which is the same for all."""
        order = Order(
            name=name,
            model=model,
            precisions=("fp32",),
            folder=room / "bundles",
            workspace=room / "work",
            lineage=lineage(Built(name, "variant", self.plans[name], model), self.recipe, self.dataset),
        )
        outcome = deliver(order, "packed", self.dataset, self.recipe.export, seed=self.seed, progress=Silent())
        (file,) = outcome.exported
        right = {"val": file.validation.accuracy, "test": file.test.accuracy}
        return {
            **{f"{split}_right": round(share.value * share.n) for split, share in right.items()},
            **{f"{split}_n": share.n for split, share in right.items()},
            "file_bytes": file.file_bytes,
            "bundle_bytes": sum(path.stat().st_size for path in file.bundle.iterdir() if path.name != "runner.py"),
            "file": "packed",
            "answers": file.predictions,
        }


def known(room: Path) -> dict[str, Any]:
    """What was recorded in this folder."""
    file = room / RESULTS
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _tell(record: dict[str, Any]) -> None:
    """An epoch's validation figures, on stderr."""
    figures = f"loss {record['train_loss']:.3f}, validation {record['val_loss']:.3f} {record['val_accuracy']:.4f}"
    print(f"  epoch {record['epoch']}: {figures}, {record['seconds']:.1f} s", file=sys.stderr, flush=True)


def _base_of(name: str) -> str:
    row = name.removesuffix(CONTROL)
    return row if row in RECIPES else ROWS[row].base


def table(results: dict[str, Any], out: Path, seeds: list[int], labels: NDArray[np.int64]) -> str:
    """What is known, as Markdown; a row is judged by the median of its seeds."""
    lines = [
        "| row | parameters | file bytes | epochs | val % | test %, each seed | median [95 %] | against its base, "
        "points | target | | hand-written |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        for shown in (name, name + CONTROL):
            there = [seed for seed in seeds if f"{shown}-{seed}" in results]
            if there:
                lines.append(_line(shown, row if shown == name else None, results, out, there, labels))
    return "\n".join(lines)


def _line(
    name: str, row: Row | None, results: dict[str, Any], out: Path, seeds: list[int], labels: NDArray[np.int64]
) -> str:
    records = [results[f"{name}-{seed}"] for seed in seeds]
    shares = [100 * record["test_right"] / record["test_n"] for record in records]
    middle = statistics.median_low(shares)
    record = records[shares.index(middle)]
    share = wilson(record["test_right"], record["test_n"])
    deltas = [_against_base(name, seed, out, labels) for seed in seeds] if name not in RECIPES else []
    delta = sorted(deltas)[(len(deltas) - 1) // 2] if deltas else None
    target, met = _judged(row, record, middle, delta) if row else ("", "")
    cells = [
        f"`{record['plan']}`" if row and record["plan"] else record["architecture"] if row else f"(control) {name}",
        f"{record['params']:,}",
        f"{record['file_bytes']:,} {record['file']}"
        + (f", bundle {record['bundle_bytes']:,}" if "bundle_bytes" in record else ""),
        str(record["epochs"]),
        f"{statistics.median(100 * one['val_right'] / one['val_n'] for one in records):.2f}",
        ", ".join(f"{one:.2f}" for one in shares),
        f"{middle:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}] n={share.n}",
        f"{delta[0]:+.2f} [{delta[1]:+.2f}, {delta[2]:+.2f}]" if delta else "",
        target,
        met if len(seeds) > 2 or not met else f"{met}, of {len(seeds)} seed(s)",
        row.reference if row else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _against_base(name: str, seed: int, out: Path, labels: NDArray[np.int64]) -> tuple[float, float, float]:
    """Points of test accuracy above the base of the same seed, with the paired interval."""
    mine, base = (np.load(out / f"{one}-{seed}.npy").astype(np.int64) for one in (name, _base_of(name)))
    classes = [str(index) for index in range(int(labels.max()) + 1)]
    found = difference(mine, base, labels, classes, reference=BASE).accuracy
    return 100 * found.value, 100 * found.low, 100 * found.high


def _judged(
    row: Row, record: dict[str, Any], middle: float, delta: tuple[float, float, float] | None
) -> tuple[str, str]:
    asked, met = [], True
    if row.least is not None:
        asked.append(f">= {row.least}")
        met &= round(middle, 2) >= row.least
    if row.drop is not None and delta:
        asked.append(f"within {row.drop} of its base")
        met &= round(delta[0], 2) >= -row.drop
    for key, bound in (("params", row.params), ("bundle_bytes", row.bundle_bytes)):
        if bound is not None:
            asked.append(f"{key} <= {bound:,}")
            met &= record[key] <= bound
    if row.faster is not None:
        asked.append(f"{row.faster} times as fast (here {record['faster']:.2f})")
        met &= record["faster"] >= row.faster
    return ", ".join(asked), "reached" if met else "NOT REACHED"


def main() -> None:
    """Make what is asked for and missing, and print the table."""
    parser = argparse.ArgumentParser(description="Accuracy of small models on Fashion-MNIST.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS) + ", or a row of one")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-compress")
    parser.add_argument("--show", action="store_true", help="print what is there and train nothing")
    parser.add_argument("--without-controls", action="store_true", help="leave the controls for later")
    options = parser.parse_args()
    if not {*options.parts} <= {*PARTS, *ROWS}:
        parser.error(f"parts are {', '.join(PARTS)}, and their rows {', '.join(ROWS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = known(options.out)
    bench = Bench(options.seeds[0], options.out, results)
    labels = bench.dataset.test.labels
    if not options.show:
        for seed in options.seeds:
            bench = Bench(seed, options.out, results)
            for part in options.parts or PARTS:
                for name in [name for name, row in ROWS.items() if part in (name, row.part)]:
                    bench.have(name)
                    if ROWS[name].control and not options.without_controls:
                        bench.have(name + CONTROL)
    print(table(results, options.out, options.seeds, labels))


if __name__ == "__main__":
    main()
