"""Two training loops on the same images: the usual one, and ours with a clock on every part."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from edgewise import load_recipe
from edgewise.data import Dataset, load_data
from edgewise.data.augment import Augment
from edgewise.jobs import resolve_input
from edgewise.models import create_model
from edgewise.progress import Silent
from edgewise.recipe import Recipe
from edgewise.train import Setup, trainer
from edgewise.train.fused import keep_large_blocks
from edgewise.train.loop import pick_device
from edgewise.train.optim import make_schedule
from edgewise.train.threads import threads_set
from edgewise.train.world import World

PARTS = ("augment", "gather and normalise", "forward", "backward", "optimiser", "validation", "checkpoints")
"""What is timed within an epoch; what is left is called bookkeeping."""

_TO_TENSOR = (transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3))


def stripes(root: Path, count: int, side: int) -> None:
    """Textured JPEG files of four classes: stripes of one of four wavelengths in any direction, over coloured noise and
    lit unevenly. Neighbouring wavelengths overlap, so that not every image can be told."""
    ramp = np.arange(side)
    x, y = np.meshgrid(ramp, ramp)
    for number in range(count):
        random = np.random.default_rng(number)
        label = number % 4
        angle, frequency = random.uniform(0, np.pi), 0.35 + 0.15 * label + random.normal(0, 0.045)
        phase = (x * np.cos(angle) + y * np.sin(angle)) * frequency + random.uniform(0, 6)
        light = 110 + 60 * (x / side - 0.5) * random.normal() + 60 * (y / side - 0.5) * random.normal()
        pixels = light[..., None] + 28 * np.sin(phase)[..., None] * random.uniform(0.3, 1, 3)
        pixels = pixels + _grain(random, side) + random.normal(0, 25, (1, 1, 3))
        folder = root / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)


def _grain(random: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Noise as photographs have it, spread over a few pixels: (side, side, 1). Noise of single pixels would be averaged
    away wherever an image is rotated, so that nets would learn from cleaner images than they are asked about."""
    noise = random.normal(0, 8, (side, side))
    for axis in (0, 1, 0, 1):
        noise = (noise + np.roll(noise, 1, axis)) / 2**0.5
    return noise[..., None]


def clothes(root: Path) -> None:
    """Fashion-MNIST as colour JPEG files: 2,000 training, 500 validation and 3,000 test images of 28 x 28, drawn with
    a seed, in class folders."""
    limits = {"data.limit_train": 2000, "data.limit_val": 500, "data.limit_test": 3000}
    recipe = load_recipe(None, {"data.source": "fashion-mnist"} | limits)
    dataset = load_data(recipe.data, resolve_input(recipe), seed=0)
    for part, split in (("train", dataset.train), ("val", dataset.val), ("test", dataset.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            folder = root / part / f"class-{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).convert("RGB").save(folder / f"{number:05}.jpg", quality=95)


class PlainLoop:
    """The loop that most people write: DataLoader with two workers, PIL, torchvision's transforms; with the schedule,
    the warm-up and the weight decay of the recipe, so that nothing but the way of the images differs."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        files: set[str] | None = None,
        rotation: transforms.InterpolationMode = transforms.InterpolationMode.NEAREST,
    ) -> None:
        transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomRotation(15, rotation),
                transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.3, hue=0.05),
                *_TO_TENSOR,
            ]
        )
        wanted = None if files is None else lambda path: str(Path(path).relative_to(folder)) in files
        torch.manual_seed(recipe.seed)
        data = ImageFolder(str(folder), transform, is_valid_file=wanted)
        batch = int(recipe.train.batch_size)
        self.loader = DataLoader(data, batch, shuffle=True, num_workers=2, persistent_workers=True)
        spec = resolve_input(recipe)
        self.net = create_model(recipe.model, labels=data.classes, input=spec, seed=recipe.seed).module.train()
        matrices = [value for value in self.net.parameters() if value.ndim > 1]
        vectors = [value for value in self.net.parameters() if value.ndim == 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.train.weight_decay},
            {"params": vectors, "weight_decay": 0},
        ]
        self.optimizer = torch.optim.AdamW(groups, recipe.train.lr)
        rate = make_schedule(recipe.train, recipe.train.epochs, len(self.loader))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, rate)

    def epoch(self) -> None:
        """Train one epoch."""
        self.net.train()
        for images, labels in self.loader:
            loss = torch.nn.functional.cross_entropy(self.net(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()

    @torch.inference_mode()
    def right(self, folder: Path) -> dict[str, bool]:
        """Which images of a folder it calls rightly, by file name."""
        self.net.eval()
        data = ImageFolder(str(folder), transforms.Compose(_TO_TENSOR))
        called = torch.cat([self.net(images).argmax(1) for images, _ in DataLoader(data, 256)])
        return {Path(path).name: bool(call == label) for (path, label), call in zip(data.samples, called, strict=True)}


def _serve(recipe: Recipe, folder: Path, files: set[str], pipe: Any) -> None:
    loop = PlainLoop(recipe, folder, files)
    while pipe.recv() == "epoch":
        loop.epoch()
        pipe.send("done")


@contextlib.contextmanager
def plain_process(recipe: Recipe, folder: Path, files: set[str]) -> Iterator[Callable[[], None]]:
    """The usual loop in a process of its own, so that nothing we set for ours (the allocator) helps it; what is yielded
    trains an epoch."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(recipe, folder, files, theirs))
    process.start()

    def epoch() -> None:
        pipe.send("epoch")
        pipe.recv()

    try:
        yield epoch
    finally:
        pipe.send("end")
        process.join()


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


class OurLoop:
    """Our trainer, epoch by epoch, with the time of each part in `seconds` and of whole epochs in `total`."""

    def __init__(self, recipe: Recipe, dataset: Dataset, checkpoints: Path) -> None:
        spec = resolve_input(recipe)
        keep_large_blocks()
        model = create_model(recipe.model, labels=dataset.classes, input=spec, seed=recipe.seed)
        self._augment = Clocked(Augment(recipe.augment, spec, dataset.train.labels, len(dataset.classes)))
        setup = Setup(recipe.train, recipe.seed, checkpoints, augment=self._augment)
        self.trainer = trainer.Trainer(model, dataset, setup, pick_device("cpu"), World(), Silent())
        self.trainer.begin()
        self._steps = Clocked(self._next)
        self._forward, self._loss = Clocked(self.trainer.training.forward), Clocked(self.trainer.loss)
        self._backward = Clocked(torch.autograd.backward)
        self._apply = Clocked(self.trainer._apply)
        self._record = Clocked(self._aside(self.trainer._record))
        self._save = Clocked(trainer.save_checkpoint)
        self._feed = self.trainer.feed
        self.total = 0.0
        self._wire()

    def _wire(self) -> None:
        ours: Any = self.trainer
        ours.feed, ours.loss = _Fed(self._feed, self._steps), self._loss
        ours.training.forward = self._forward
        ours._apply, ours._record = self._apply, self._record

    def _aside(self, validate: Callable[..., Any]) -> Callable[..., Any]:
        """Validation goes through the same forward and loss; what these take there is validation's, not theirs."""

        def validated(*args: Any) -> Any:
            before = self._forward.seconds, self._loss.seconds
            try:
                return validate(*args)
            finally:
                self._forward.seconds, self._loss.seconds = before

        return validated

    @staticmethod
    def _next(batches: Iterator[Any]) -> Any:
        return next(batches, None)

    def epoch(self) -> None:
        """Train one epoch, with its validation and checkpoints."""
        inner = trainer.save_checkpoint, torch.autograd.backward
        trainer.save_checkpoint, torch.autograd.backward = self._save, self._backward
        started = time.perf_counter()
        try:
            with torch.random.fork_rng(devices=[]), threads_set(self.trainer.state.threads):
                self.trainer.train_epoch(_nothing, _nothing, _nothing)
        finally:
            self.total += time.perf_counter() - started
            trainer.save_checkpoint, torch.autograd.backward = inner

    def forget(self) -> None:
        """Set all clocks to zero."""
        self.total = 0.0
        for clock in self._clocks():
            clock.seconds = 0.0

    def _clocks(self) -> tuple[Clocked, ...]:
        parts = (self._augment, self._steps, self._forward, self._loss, self._backward, self._apply)
        return (*parts, self._record, self._save)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each part since `forget`; they add up to `total`."""
        augment, fed, forward, loss, backward, applied, record, saved = (clock.seconds for clock in self._clocks())
        values = (augment, fed - augment, forward + loss, backward, applied, record, saved)
        found = dict(zip(PARTS, values, strict=True))
        return found | {"bookkeeping": self.total - sum(found.values())}

    def right(self, dataset: Dataset) -> dict[str, bool]:
        """Which test images its present weights call rightly, by file name."""
        module = self.trainer.module.eval()
        test = dataset.test
        called: list[int] = []
        with torch.inference_mode():
            for start in range(0, len(test), 256):
                called += module(self.trainer.pixels(test.images[start : start + 256])).argmax(1).tolist()
        return {
            Path(name).name: call == label for name, call, label in zip(test.names, called, test.labels, strict=True)
        }


class _Fed:
    """A feed whose batches are timed."""

    def __init__(self, feed: Any, clock: Clocked) -> None:
        self._feed, self._clock = feed, clock
        self.steps, self.size, self.split = feed.steps, feed.size, feed.split

    def batches(self, epoch: int, skip: int = 0) -> Iterator[Any]:
        """As `edgewise.train.feed.Feed.batches`."""
        batches = self._feed.batches(epoch, skip)
        while (batch := self._clock(batches)) is not None:
            yield batch


def _nothing(*_: Any, **__: Any) -> None:
    """Takes what the loop tells and does nothing with it."""
