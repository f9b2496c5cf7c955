"""Training throughput and memory: ``python -m benchmarks.training [throughput] [memory]``.

throughput: a folder of 2,000 JPEG files of 128 x 128, `convnet(32,64,128)`, flips, rotation, colour. edgewise against a
straightforward loop (torch DataLoader with two workers, PIL, torchvision transforms), one epoch of each in turn, from
the second epoch on; the same net, optimiser, batches and number of epochs, so that the accuracies can be compared.

memory: peak memory of a training on 20,000 JPEG files of 224 x 224, in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from edgewise import load_recipe
from edgewise.data import load_data
from edgewise.data.augment import Augment
from edgewise.measure.intervals import percentile_bounds
from edgewise.models import create_model
from edgewise.pipeline import resolve_input
from edgewise.progress import Silent
from edgewise.train import Setup
from edgewise.train.evaluate import logits
from edgewise.train.fused import keep_large_blocks
from edgewise.train.loop import pick_device
from edgewise.train.threads import threads_set
from edgewise.train.trainer import Trainer
from edgewise.train.world import World

MODEL = "convnet(32,64,128, dropout=0.2)"
BATCH = 64
RATE = 3e-3
EPOCHS = 4
IMAGES = 2000


def write_images(root: Path, count: int, side: int) -> None:
    """Textured JPEG files of four classes: stripes of one of four directions over coloured noise, lit unevenly."""
    ramp = np.arange(side)
    for number in range(count):
        random = np.random.default_rng(number)
        label = number % 4
        x, y = np.meshgrid(ramp, ramp)
        angle = np.pi * label / 4 + random.normal(0, 0.12)
        phase = (x * np.cos(angle) + y * np.sin(angle)) * random.uniform(0.25, 0.7) + random.uniform(0, 6)
        light = 110 + 60 * (x / side - 0.5) * random.normal() + 60 * (y / side - 0.5) * random.normal()
        pixels = light[..., None] + 28 * np.sin(phase)[..., None] * random.uniform(0.3, 1, 3)
        pixels = pixels + random.normal(0, 45, (side, side, 1)) + random.normal(0, 25, (1, 1, 3))
        folder = root / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)


def plain_loop(root: Path, files: set[str]) -> tuple[torch.nn.Module, Callable[[], None]]:
    """The loop that most people write: the net, and a function that trains one epoch."""
    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(15),
            transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.3, hue=0.05),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    data = ImageFolder(str(root), transform, is_valid_file=lambda path: str(Path(path).relative_to(root)) in files)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    spec = resolve_input(recipe_for(root))
    net = create_model(MODEL, labels=data.classes, input=spec, seed=0).module.train()
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))

    def epoch() -> None:
        net.train()
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    return net, epoch


def plain_process(root: Path, train: tuple[str, ...], test: tuple[str, ...], pipe: Any) -> None:
    """The plain loop in a process of its own, so that nothing we set for ours (the allocator) helps it."""
    net, epoch = plain_loop(root, set(train))
    while pipe.recv() == "epoch":
        epoch()
        pipe.send("done")
    net.eval()
    right = 0
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    for name in test:
        with torch.inference_mode(), Image.open(root / name) as image:
            scores = net(to_tensor(image)[None])
        right += int(scores.argmax()) == int(Path(name).parent.name.removeprefix("class-"))
    pipe.send(right / len(test))


class Plain:
    """The plain loop, told what to do over a pipe."""

    def __init__(self, root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=plain_process, args=(root, train, test, theirs))
        self._process.start()

    def epoch(self) -> None:
        """Train one epoch."""
        self._pipe.send("epoch")
        self._pipe.recv()

    def close(self) -> float:
        """End it; its accuracy on the test images."""
        self._pipe.send("end")
        accuracy: float = self._pipe.recv()
        self._process.join()
        return accuracy


def recipe_for(root: Path) -> Any:
    """The recipe of both loops."""
    train = {"train.epochs": EPOCHS, "train.batch_size": BATCH, "train.lr": RATE, "train.patience": 0}
    return load_recipe(None, {"data.source": str(root), "data.size": 128, "model": MODEL, "augment.version": 2} | train)


def throughput(scratch: Path) -> dict[str, Any]:
    """Images per second of both loops, epoch by epoch in turn, and where the time of ours goes."""
    root = scratch / "images"
    write_images(root, IMAGES, 128)
    recipe = recipe_for(root)
    spec = resolve_input(recipe)
    dataset = load_data(recipe.data, spec)
    model = create_model(MODEL, labels=dataset.classes, input=spec, seed=0)
    augment = Clocked(Augment(recipe.augment, spec, dataset.train.labels, 4))
    setup = Setup(recipe.train, 0, scratch / "checkpoints", augment=augment)
    trainer = Trainer(model, dataset, setup, pick_device("cpu"), World(), Silent())
    keep_large_blocks()
    trainer.begin()
    plain = Plain(root, dataset.train.names, dataset.test.names)
    step = Clocked(trainer._step)
    trainer._step = step  # type: ignore[method-assign]

    def ours() -> None:
        with threads_set(trainer.state.threads):
            trainer.train_epoch(nothing, nothing, nothing)

    ours(), plain.epoch()  # the first epoch of each is not counted
    augment.seconds = step.seconds = 0.0
    rows = []
    for turn in range(EPOCHS - 1):
        pair = [(ours, "edgewise"), (plain.epoch, "plain")]
        taken = {}
        for run, name in pair if turn % 2 == 0 else pair[::-1]:
            started = time.perf_counter()
            run()
            taken[name] = time.perf_counter() - started
        rows.append(taken)
        print(json.dumps({name: round(len(dataset.train) / value, 1) for name, value in taken.items()}), flush=True)
    total = sum(row["edgewise"] for row in rows)
    ratios = np.array([row["plain"] / row["edgewise"] for row in rows])
    low, high = percentile_bounds(np.random.default_rng(0).choice(ratios, (2000, len(ratios))).mean(1))
    test = dataset.test
    return {
        "ratio": float(ratios.mean()),
        "low": low,
        "high": high,
        "n_epochs": len(rows),
        "share_forward_backward": step.seconds / total,
        "share_augment": augment.seconds / total,
        "threads": trainer.state.threads,
        "test_accuracy_edgewise": float((logits(trainer.best().model, test.images).argmax(1) == test.labels).mean()),
        "test_accuracy_plain": plain.close(),
    }


def nothing(*_: Any, **__: Any) -> None:
    """Takes what the loop tells and does nothing with it."""


class Clocked:
    """Calls a function and adds up the time."""

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        started = time.perf_counter()
        try:
            return self.inner(*args)
        finally:
            self.seconds += time.perf_counter() - started


def memory(scratch: Path) -> dict[str, Any]:
    """Peak memory of a training on 20,000 images: 2,000 pictures in ten files each."""
    root = scratch / "large"
    write_images(root, 2000, 224)
    for copy, path in itertools.product(range(9), sorted(root.rglob("*.jpg"))):
        data = path.read_bytes()
        path.with_name(f"{path.stem}-{copy}.jpg").write_bytes(data + bytes([copy]))  # other bytes, the same picture
    words = [
        "--model",
        "convnet(4)",
        "--size",
        "224",
        "--epochs",
        "1",
        "--batch-size",
        "64",
        "--out",
        str(scratch / "run"),
    ]
    words += ["--set", "data.duplicates=off", "--set", "explain=false"]
    done = subprocess.run([sys.executable, "-m", "edgewise", "train", str(root), *words], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"images": sum(1 for _ in root.rglob("*.jpg")), "peak_rss_gb": round(peak, 2), "exit": done.returncode}


def main(names: list[str]) -> None:
    """Run the named parts, or both."""
    parts = {"throughput": throughput, "memory": memory}
    for name in names or parts:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({name: parts[name](Path(scratch))}, indent=1), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
