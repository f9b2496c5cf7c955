"""int8 by post-training quantization and by training for it: ``python -m benchmarks.quantize DIR [--part PART]``.

Fashion-MNIST as in recipes/fashion-mnist.yaml (12,000 training images with seed 0, 2,000 for validation, all 10,000
for test). Four nets are trained or opened from DIR: convnet(32,64,128), convnet(8,16,32), and the first pruned by 70 %
and decomposed (Tucker, 70 % of the energy), both fine-tuned; `--net mobilenet` is mobilenetv3_small_050. Of each, on
the same test images and in onnxruntime:

fp32        the float file
u8s8        int8 as onnxruntime's quantizer writes it when left alone: smallest to largest value, 8-bit logits
u8s8-rr     the same with weights of seven bits, what edgewise mostly kept before it compared methods
int8        what `edgewise export` keeps now: method, scheme and all else chosen on validation images and by timing
qat         the int8 file after `qat(epochs=4)` at a quarter of the recipe's learning rate
more        its control: four more epochs in float at that rate, then int8 as `edgewise export` makes it
more float  the fp32 file of that

Differences are to the net's own fp32 file, with paired 95 % intervals. `--part train`, `accuracy` and `time` do a part
each; times are paired ratios to the net's fp32 file, one thread, taken in one session for each net.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise import load_recipe
from edgewise.compress import Context, apply_plan
from edgewise.compress.simulate import simulation
from edgewise.data import Dataset, load_data
from edgewise.device import RUNTIMES
from edgewise.export.base import Ptq
from edgewise.export.deliver import deliver
from edgewise.export.desk import Desk, Order
from edgewise.export.ptq import METHODS, divergence
from edgewise.jobs import resolve_input
from edgewise.measure import latency
from edgewise.measure.accuracy import difference, quality
from edgewise.models import Model, create_model, open_model, save_model
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions, Recipe
from edgewise.train import Setup, fit, logits

ROOT = Path(__file__).parents[1]
SLOWER = 4
QAT = "qat(epochs=4)"
NETS = {
    "base": ("convnet(32, 64, 128, dropout=0.2)", ""),
    "small": ("convnet(8, 16, 32)", ""),
    "prune70": ("", "prune(0.7)"),
    "tucker": ("", "decompose(0.7)"),
    "mobilenet": ("mobilenetv3_small_050", ""),
}
"""Name -> the net that is trained, or the plan that makes it from `base`."""
DEFAULT = ("base", "small", "prune70", "tucker")
FILES = ("fp32", "u8s8", "u8s8-rr", "int8", "qat", "more", "more float")


def main() -> None:
    """Do what was asked for, printing each row as soon as it is known."""
    parser = argparse.ArgumentParser(description="int8 without and with training.")
    parser.add_argument("folder", type=Path, help="keeps models and files between parts")
    parser.add_argument("--part", choices=("all", "train", "accuracy", "sweep", "time"), default="all")
    parser.add_argument("--net", choices=tuple(NETS), nargs="+", default=DEFAULT, help="which nets")
    options = parser.parse_args()
    recipe = load_recipe(ROOT / "recipes" / "fashion-mnist.yaml")
    dataset = load_data(recipe.data, resolve_input(recipe), seed=recipe.seed)
    parts = {"train": _train, "accuracy": _accuracy, "sweep": _sweep, "time": _time}
    for name, part in parts.items():
        if options.part in {"all", name}:
            for line in part(recipe, dataset, options.folder, options.net):
                print(line, flush=True)


def _train(recipe: Recipe, dataset: Dataset, folder: Path, nets: Sequence[str]) -> Iterator[str]:
    """Train what is not there yet."""

    def trained(model: Model, epochs: int, lr: float, loss: Any = None) -> Model:
        setup = Setup(recipe.train, recipe.seed, folder / "checkpoints", epochs=epochs, lr=lr, loss=loss)
        return fit(model, dataset, setup).model

    def tune(model: Model, *, epochs: int | None = None, loss: Any = None, lr: float | None = None) -> Model:
        return trained(model, epochs or max(1, round(recipe.train.epochs / 2)), lr or recipe.train.lr / SLOWER, loss)

    for name in nets:
        architecture, plan = NETS[name]
        for target, step in ((name, plan), (f"{name}-qat", QAT), (f"{name}-more", "")):
            if (folder / target / "config.json").exists():
                continue
            started = time.monotonic()
            if target.endswith("-more"):
                made = tune(open_model(folder / name), epochs=4)
            elif target == name and architecture:
                fresh = create_model(
                    architecture, labels=dataset.classes, input=resolve_input(recipe), seed=recipe.seed
                )
                made = trained(fresh, recipe.train.epochs, recipe.train.lr)
            else:
                source = open_model(folder / (name if step == QAT else "base"))
                made = apply_plan(source, step, Context(dataset, tune, tune, source, recipe.seed))
            save_model(made, folder / target)
            yield f"trained {target} in {time.monotonic() - started:.0f} s"


def _files(name: str, dataset: Dataset, folder: Path, seed: int) -> tuple[dict[str, Path], str]:
    """The files of a net, and how its int8 file was made; written once."""
    place = folder / f"{name}-files"
    files = {one: place / f"{one.replace(' ', '-')}.onnx" for one in FILES}
    record = place / "how.json"
    if not record.exists():
        model, trained, more = (open_model(folder / f"{name}{end}") for end in ("", "-qat", "-more"))
        options = ExportOptions()
        made = {}
        for key, source in (("int8", model), ("qat", trained), ("more", more)):
            order = Order(key, source, ("int8",), place / "bundles", place / key, {})
            outcome = deliver(order, "onnx", dataset, options, seed=seed, progress=Silent())
            (made[key],) = outcome.exported
            kept = next(one for one in outcome.candidates if one.kept)
            tried = len(list((place / key / "onnx").glob("*seen*")))
            way = "trained" if key == "qat" else kept.note or "minmax"
            made[f"{key} how"] = f"{kept.scheme}, {way}, {tried} calibrations, passed {kept.passed}"
        plain = Desk(Order(name, model, (), place, place / "int8" / "onnx", {}), "onnx", dataset, options, seed)
        tuned = Desk(Order(name, more, (), place, place / "more" / "onnx", {}), "onnx", dataset, options, seed)
        sources = {
            "fp32": plain.write("fp32", ""),
            "u8s8": plain.write("int8", "u8s8", Ptq(logits=True)),
            "u8s8-rr": plain.write("int8", "u8s8-rr", Ptq(logits=True)),
            "int8": made["int8"].model_file,
            "qat": made["qat"].model_file,
            "more": made["more"].model_file,
            "more float": tuned.write("fp32", ""),
        }
        for one, source in sources.items():
            files[one].write_bytes(source.read_bytes())
        record.write_text(json.dumps({key: made[key] for key in made if key.endswith(" how")}))
    how = json.loads(record.read_text())
    return files, "; ".join(f"{key.removesuffix(' how')}: {told}" for key, told in how.items())


def _accuracy(recipe: Recipe, dataset: Dataset, folder: Path, nets: Sequence[str]) -> Iterator[str]:
    yield "\n| net | file | test accuracy % | against its fp32, points | same decisions % | bytes |"
    yield "|---|---|---|---|---|---|"
    notes = []
    for name in nets:
        files, how = _files(name, dataset, folder, recipe.seed)
        answers = {one: _answers(path, dataset) for one, path in files.items()}
        for one, path in files.items():
            share = _interval(quality(answers[one], dataset.test.labels, dataset.classes).accuracy)
            delta = difference(answers[one], answers["fp32"], dataset.test.labels, dataset.classes, reference="fp32")
            same = f"{100 * (answers[one] == answers['fp32']).mean():.2f}"
            against = "" if one == "fp32" else _interval(delta.accuracy)
            yield f"| {name} | {one} | {share} | {against} | {same} | {path.stat().st_size:,} |"
        simulated = logits(simulation(open_model(folder / f"{name}-qat")), dataset.test.images).argmax(1)
        same = (simulated == answers["qat"]).mean()
        notes.append(f"{name}: {how}; simulation and qat file agree on {100 * same:.2f} % of {len(simulated)} images")
    yield from ("", *notes)


def _sweep(recipe: Recipe, dataset: Dataset, folder: Path, nets: Sequence[str]) -> Iterator[str]:
    """Every method, size and preparation, in u8s8-rr: divergence on validation images, and test accuracy."""
    yield "\n| net | how | divergence on validation, 1e-3 nats | test accuracy against fp32, points |"
    yield "|---|---|---|---|"
    for name in nets:
        files, _ = _files(name, dataset, folder, recipe.seed)
        base = _answers(files["fp32"], dataset)
        order = Order(name, open_model(folder / name), (), folder, folder / f"{name}-files" / "sweep", {})
        desk = Desk(order, "onnx", dataset, ExportOptions(), recipe.seed)
        tried = [Ptq(method) for method in METHODS]
        tried += [Ptq("minmax", size) for size in (16, 64)] + [Ptq("mse", size) for size in (16, 64)]
        tried += [Ptq(equalize=True), Ptq(correct=True), Ptq(equalize=True, correct=True), Ptq(logits=True)]
        for ptq in tried:
            path = desk.write("int8", "u8s8-rr", ptq)
            far = divergence(desk.expected("val"), desk.scores(path, "val"))
            answers = _answers(path, dataset)
            delta = difference(answers, base, dataset.test.labels, dataset.classes, reference="fp32").accuracy
            yield f"| {name} | {ptq.words()} | {1000 * far:.2f} | {_interval(delta)} |"


def _time(recipe: Recipe, dataset: Dataset, folder: Path, nets: Sequence[str]) -> Iterator[str]:
    yield "\n| net | file | time / fp32 | A/A |"
    yield "|---|---|---|---|"
    for name in nets:
        files, _ = _files(name, dataset, folder, recipe.seed)
        timed = latency.measure(
            [latency.Subject(one, path, "onnx") for one, path in files.items()],
            dataset.val.images[:256],
            reference="fp32",
            spec=resolve_input(recipe),
            seconds=5.0,
            seed=recipe.seed,
        )
        check = timed["fp32"].aa_spread
        for one in FILES[1:]:
            ratio = timed[one].ratio
            assert ratio is not None
            told = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
            yield f"| {name} | {one} | {told} | {check if check is None else f'{check:.3f}'} |"


def _answers(path: Path, dataset: Dataset) -> NDArray[np.int64]:
    session = RUNTIMES["onnx"].load(path, threads=1)
    images = dataset.test.images
    scores = [session.scores(images[start : start + 64]) for start in range(0, len(images), 64)]
    return np.concatenate(scores).argmax(1)


def _interval(estimate: Any) -> str:
    value, low, high = (100 * part for part in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
