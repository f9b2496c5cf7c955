"""Training against the usual loop: ``python -m benchmarks.training [throughput] [accuracy] [memory]``.

The usual loop is a torch DataLoader with two workers, PIL and torchvision's transforms (`benchmarks.loops.PlainLoop`),
with the same net, optimiser, schedule and batches.

throughput: a folder of 2,000 JPEG files of 128 x 128, `convnet(32,64,128)`, flips, rotation, colour: images per second
from the second epoch on, epoch by epoch in turn, and where our time goes. On a CPU with AMX, ours runs both in float32,
like the usual loop, and in bfloat16, which is what `train.amp: auto` takes there.

accuracy: both loops to the end on 2,000 Fashion-MNIST images as JPEG files, several seeds each, 3,000 test images. Both
rotate with bilinear interpolation here: torchvision takes the nearest pixel unless told otherwise, which is another
augmentation.

memory: peak memory of a training on 20,000 JPEG files of 224 x 224, in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from torchvision.transforms import InterpolationMode

from benchmarks.loops import OurLoop, PlainLoop, clothes, plain_process, stripes
from edgewise import load_recipe
from edgewise.data import load_data
from edgewise.jobs import resolve_input
from edgewise.measure.intervals import percentile_bounds
from edgewise.recipe import Recipe
from edgewise.train.threads import has_fast_bf16

EPOCHS = 4
IMAGES = 2000
SEEDS = 3


def recipe_for(root: Path, size: int, model: str, **train: Any) -> Recipe:
    """The recipe of both loops."""
    changes = {"batch_size": 64, "lr": 3e-3, "patience": 0, "amp": "off"} | train
    base = {"data.source": str(root), "data.size": size, "model": model, "augment.version": 2, "data.duplicates": "off"}
    return load_recipe(None, base | {f"train.{key}": value for key, value in changes.items()})


def throughput(scratch: Path) -> dict[str, Any]:
    """Images per second of both loops, and where the time of ours goes."""
    root = scratch / "images"
    stripes(root, IMAGES, 128)
    recipes = {
        name: recipe_for(root, 128, "convnet(32,64,128, dropout=0.2)", epochs=EPOCHS, amp=amp)
        for name, amp in (("float32", "off"), *([("bfloat16", "bf16")] if has_fast_bf16() else []))
    }
    recipe = recipes["float32"]
    spec = resolve_input(recipe)
    decoding = []
    for _ in range(2):
        started = time.perf_counter()
        dataset = load_data(recipe.data, spec)
        decoding.append(time.perf_counter() - started)
    ours = {name: OurLoop(one, dataset, scratch / name) for name, one in recipes.items()}
    with plain_process(recipe, root, set(dataset.train.names)) as plain:
        epochs: dict[str, Callable[[], None]] = {name: loop.epoch for name, loop in ours.items()} | {"usual": plain}
        for epoch in epochs.values():
            epoch()  # the first of each is not counted
        for loop in ours.values():
            loop.forget()
        rows = [_turn(epochs, turn, len(dataset.train)) for turn in range(EPOCHS - 1)]
    rates = {name: [row[name] for row in rows] for name in epochs}
    return {
        "images_per_second": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        "ratio_to_usual": {name: _ratio(rates[name], rates["usual"]) for name in ours},
        "where_the_time_goes": {name: shares(loop, decoding) for name, loop in ours.items()},
    }


def _turn(epochs: dict[str, Callable[[], None]], turn: int, images: int) -> dict[str, float]:
    """Images per second of an epoch of each, in an order that changes with the turn."""
    found = {}
    for name in list(epochs)[:: 1 if turn % 2 == 0 else -1]:
        started = time.perf_counter()
        epochs[name]()
        found[name] = images / (time.perf_counter() - started)
    print(json.dumps({name: round(rate, 1) for name, rate in found.items()}), file=sys.stderr, flush=True)
    return found


def _ratio(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratios = np.array(ours) / np.array(theirs)
    low, high = percentile_bounds(np.random.default_rng(0).choice(ratios, (2000, len(ratios))).mean(1))
    return {"ratio": float(ratios.mean()), "low": low, "high": high, "n_epochs": len(ratios)}


def shares(loop: OurLoop, decoding: list[float]) -> dict[str, Any]:
    """Where the time of our loop went.

    Two definitions of overhead: `pipeline_overhead` is what images and bookkeeping cost, as a share of the training
    steps; validation and checkpoints are no part of these, as the usual loop has none. `all_but_forward_backward` is
    all but forward and backward, as a share of whole epochs. Decoding is paid once, before the first epoch;
    `pipeline_overhead_with_decoding` spreads it over `EPOCHS` epochs.
    """
    seconds, total = loop.seconds, loop.total
    steps = total - seconds["validation"] - seconds["checkpoints"]
    pipeline = seconds["augment"] + seconds["gather and normalise"] + seconds["bookkeeping"]
    epoch = steps / (EPOCHS - 1)
    return {
        "share_of_epochs": {name: round(value / total, 4) for name, value in seconds.items()},
        "share_of_steps": {
            name: round(value / steps, 4)
            for name, value in seconds.items()
            if name not in ("validation", "checkpoints")
        },
        "pipeline_overhead": round(pipeline / steps, 4),
        "pipeline_overhead_with_decoding": round(
            (pipeline / (EPOCHS - 1) * EPOCHS + decoding[0]) / (epoch * EPOCHS + decoding[0]), 4
        ),
        "all_but_forward_backward": round(1 - (seconds["forward"] + seconds["backward"]) / total, 4),
        "decoding_in_steps_of_an_epoch": {"first_time": decoding[0] / epoch, "from_the_cache": decoding[1] / epoch},
        "threads": loop.trainer.state.threads,
    }


def accuracy(scratch: Path) -> dict[str, Any]:
    """Test accuracy of both loops at the end of whole trainings that differ in nothing but the way of the images."""
    root = scratch / "task"
    clothes(root)
    arms = {"float32": "off"} | ({"bfloat16": "bf16"} if has_fast_bf16() else {})
    found: dict[str, list[dict[str, bool]]] = {name: [] for name in (*arms, "usual")}
    dataset = None
    for seed in range(SEEDS):
        for name, amp in arms.items():
            recipe = recipe_for(root, 28, "convnet(32,64,128, dropout=0.2)", epochs=20, amp=amp)
            recipe = recipe.model_copy(update={"seed": seed})
            dataset = dataset or load_data(recipe.data, resolve_input(recipe))
            ours = OurLoop(recipe, dataset, scratch / f"{name}-{seed}")
            for _ in range(recipe.train.epochs):
                ours.epoch()
            found[name].append(ours.right(dataset))
        usual = PlainLoop(recipe, root / "train", rotation=InterpolationMode.BILINEAR)
        for _ in range(recipe.train.epochs):
            usual.epoch()
        found["usual"].append(usual.right(root / "test"))
        told = {name: round(float(np.mean(list(right[-1].values()))), 4) for name, right in found.items()}
        print(json.dumps({"seed": seed} | told), file=sys.stderr, flush=True)
    return {
        "test_images": len(found["usual"][0]),
        "seeds": SEEDS,
        "accuracy": {name: [float(np.mean(list(one.values()))) for one in right] for name, right in found.items()},
        "difference_to_usual": {name: _difference(found[name], found["usual"]) for name in arms},
    }


def _difference(ours: list[dict[str, bool]], theirs: list[dict[str, bool]]) -> dict[str, Any]:
    """Mean difference of accuracy over the seeds: the t interval over seeds, which holds the chance of training, and
    the bootstrap interval over images for these very nets."""
    names = sorted(theirs[0])
    table = np.array(
        [[float(a[name]) - float(b[name]) for name in names] for a, b in zip(ours, theirs, strict=True)], dtype=float
    )
    by_seed, by_image = table.mean(1), table.mean(0)
    half = float(stats.t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / np.sqrt(len(by_seed)))
    mean = float(by_seed.mean())
    random = np.random.default_rng(0)
    images = percentile_bounds(np.array([random.choice(by_image, len(by_image)).mean() for _ in range(2000)]))
    return {"mean": mean, "over_seeds": [mean - half, mean + half], "over_images": images, "n_seeds": len(by_seed)}


def memory(scratch: Path) -> dict[str, Any]:
    """Peak memory of a training on 20,000 images: 2,000 pictures in ten files each."""
    root = scratch / "large"
    stripes(root, 2000, 224)
    for copy, path in itertools.product(range(9), sorted(root.rglob("*.jpg"))):
        data = path.read_bytes()
        path.with_name(f"{path.stem}-{copy}.jpg").write_bytes(data + bytes([copy]))  # other bytes, the same picture
    words = ["--model", "convnet(4)", "--size", "224", "--epochs", "1", "--batch-size", "64"]
    words += ["--out", str(scratch / "run"), "--set", "data.duplicates=off", "--set", "explain=false"]
    done = subprocess.run([sys.executable, "-m", "edgewise", "train", str(root), *words], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"images": sum(1 for _ in root.rglob("*.jpg")), "peak_rss_gb": round(peak, 2), "exit": done.returncode}


def main(names: list[str]) -> None:
    """Run the named parts, or all."""
    parts = {"throughput": throughput, "accuracy": accuracy, "memory": memory}
    for name in names or parts:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["EDGEWISE_CACHE"] = str(Path(scratch) / "cache")  # so that decoding is seen
            print(json.dumps({name: parts[name](Path(scratch))}, indent=1), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
