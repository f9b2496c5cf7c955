"""The training loop: AdamW, warm-up and cosine, early stopping on validation macro F1, atomic checkpoints.

Images stay decoded as uint8 (N, height, width, channels), which *is* channels_last memory for torch: a batch is one
gather, one cast and one multiply-add away from the net.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.bundle import InputSpec
from edgewise.data import Dataset, Split
from edgewise.errors import TrainingError, UnavailableError
from edgewise.measure.accuracy import confusion_matrix, macro_f1
from edgewise.models import Model
from edgewise.progress import Advance, Progress, Silent
from edgewise.recipe import TrainOptions
from edgewise.train.checkpoint import load_checkpoint, save_checkpoint
from edgewise.train.losses import Batch, Loss, cross_entropy

EVAL_BATCH = 256


@dataclass(frozen=True)
class Fitted:
    """A trained model with the weights of its best epoch.

    `history` has one record per epoch: epoch, lr, train_loss, val_loss, val_accuracy, val_macro_f1, seconds, and the
    running parts of the loss where it has any.
    """

    model: Model
    best_epoch: int
    best_macro_f1: float
    threads: int
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    model: Model,
    dataset: Dataset,
    options: TrainOptions,
    *,
    seed: int,
    checkpoints: Path,
    title: str = "train",
    epochs: int | None = None,
    lr: float | None = None,
    loss: Loss = cross_entropy,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Train a copy of `model` and return it with the weights of its best epoch.

    Best is the highest macro F1 on the validation split, the lower validation loss among equals. The same seed, threads
    and versions give the same weights on a CPU.

    Args:
        model: where to start; not changed.
        dataset: `train` is learnt from, `val` chooses the epoch, `test` is not touched.
        options: batch size, schedule, device; see `edgewise.recipe.TrainOptions`.
        seed: of batch order and dropout.
        checkpoints: folder for `best.safetensors` and `last.safetensors`.
        title: shown with the progress.
        epochs: instead of `options.epochs`.
        lr: instead of `options.lr`.
        loss: the criterion.
        on_epoch: called with each epoch's record.
        progress: where to show how far it is.

    Raises:
        TrainingError: the loss is not finite.
        UnavailableError: CUDA was asked for and does not work.
    """
    epochs = options.epochs if epochs is None else epochs
    device = pick_device(options.device)
    module = copy.deepcopy(model.module).to(device).to(memory_format=torch.channels_last)
    pixels = Pixels(model.input, device)
    batches = math.ceil(len(dataset.train) / options.batch_size)
    schedule = Schedule(options.lr if lr is None else lr, epochs * batches, round(options.warmup_epochs * batches))
    best = (-1.0, -math.inf)
    best_epoch = 0
    history: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_seeded(seed, device))
        threads = options.threads or _faster_threads(module, pixels, dataset.train, options.batch_size)
        stack.enter_context(_threads(threads))
        advance = stack.enter_context((progress or Silent()).task(title, epochs * batches))
        optimizer = _adamw(module, options.weight_decay)
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            steps = enumerate(_batches(dataset.train, pixels, options.batch_size, seed, epoch), (epoch - 1) * batches)
            record: dict[str, Any] = {"epoch": epoch}
            record |= _train_epoch(module, optimizer, schedule, loss, steps, dataset.train, advance)
            record |= _validate(module, pixels, dataset) | _parts(loss)
            record["seconds"] = round(time.perf_counter() - started, 3)
            history.append(record)
            score = (record["val_macro_f1"], -record["val_loss"])
            if score > best:
                best, best_epoch = score, epoch
                save_checkpoint(checkpoints / "best.safetensors", module, record)
            save_checkpoint(checkpoints / "last.safetensors", module, record)
            advance(0, f"epoch {epoch}/{epochs}, validation macro F1 {record['val_macro_f1']:.3f}, best {best[0]:.3f}")
            if on_epoch:
                on_epoch(record)
            if options.patience and epoch - best_epoch >= options.patience:
                break
    load_checkpoint(checkpoints / "best.safetensors", module)
    trained = module.cpu().to(memory_format=torch.contiguous_format).eval()
    return Fitted(dataclasses.replace(model, module=trained), best_epoch, best[0], threads, history)


def logits(model: Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's logits, float32 (N, classes), for uint8 (N, height, width, channels), on the CPU in eval mode."""
    return _forward(model.module.eval(), Pixels(model.input, torch.device("cpu")), images).numpy()


class Pixels:
    """Brings uint8 pixels to a device as normalised float32 (N, channels, height, width) in channels_last memory."""

    def __init__(self, spec: InputSpec, device: torch.device) -> None:
        self.device = device
        std = torch.tensor(spec.std, dtype=torch.float32)
        mean = torch.tensor(spec.mean, dtype=torch.float32)
        self._scale = (1 / (255 * std)).view(1, -1, 1, 1).to(device)
        self._shift = (-mean / std).view(1, -1, 1, 1).to(device)

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Normalise a batch; `images` is uint8 (N, height, width, channels)."""
        batch = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        return torch.addcmul(self._shift, batch.permute(0, 3, 1, 2).float(), self._scale)


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then a cosine to zero (Loshchilov, Hutter: SGDR, arXiv:1608.03983, one cycle)."""

    peak: float
    steps: int
    warmup: int

    def __call__(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        warmup = min(self.warmup, self.steps // 2)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def pick_device(wish: str) -> torch.device:
    """The device to train on: "cpu", "cuda" or "auto".

    Raises:
        UnavailableError: "cuda" was asked for by name and does not work.
    """
    if wish == "cpu" or (wish == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UnavailableError(
            "CUDA was asked for and is not available",
            code="E21",
            where={"key": "train.device"},
            why=f"torch {torch.__version__} finds no working GPU",
            fix="leave --device at auto, or install a driver that fits this torch",
        )
    return torch.device("cuda")


def _train_epoch(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    loss: Loss,
    steps: Iterable[tuple[int, Batch]],
    split: Split,
    advance: Advance,
) -> dict[str, float]:
    """One pass over the training images: the last learning rate and the mean loss."""
    rate = total = 0.0
    for step, batch in steps:
        rate = schedule(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        value = loss(module(batch.images), batch)
        if not torch.isfinite(value):
            raise _not_finite(value.item(), rate, [split.names[row] for row in batch.rows[:5].tolist()])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        total += value.item() * len(batch.labels)
        advance()
    return {"lr": rate, "train_loss": total / len(split)}


def _not_finite(value: float, rate: float, names: list[str]) -> TrainingError:
    return TrainingError(
        f"the loss became {value}",
        code="T01",
        where={"learning rate": f"{rate:.3g}", "batch": ", ".join(names) + ", ..."},
        why="the weights were blown up by too large a step, or an image holds broken values",
        fix="lower train.lr (a tenth is a good next try)",
    )


def _batches(split: Split, pixels: Pixels, size: int, seed: int, epoch: int) -> Iterator[Batch]:
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        if len(rows) == 1 and len(order) > 1:
            rows = order[start - 1 : start + 1]  # batch norm cannot train on one image
        labels = torch.from_numpy(split.labels[rows]).to(pixels.device)
        yield Batch(pixels(split.images[rows]), labels, torch.from_numpy(rows).to(pixels.device))


def _validate(module: torch.nn.Module, pixels: Pixels, dataset: Dataset) -> dict[str, float]:
    module.eval()
    scores = _forward(module, pixels, dataset.val.images)
    module.train()
    labels = torch.from_numpy(dataset.val.labels)
    confusion = confusion_matrix(scores.argmax(1).numpy(), dataset.val.labels, len(dataset.classes))
    return {
        "val_loss": torch.nn.functional.cross_entropy(scores, labels).item(),
        "val_accuracy": float(np.trace(confusion) / confusion.sum()),
        "val_macro_f1": float(macro_f1(confusion)),
    }


@torch.inference_mode()
def _forward(module: torch.nn.Module, pixels: Pixels, images: NDArray[np.uint8]) -> torch.Tensor:
    starts = range(0, len(images), EVAL_BATCH)
    return torch.cat([module(pixels(images[start : start + EVAL_BATCH])).float().cpu() for start in starts])


def _adamw(module: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov, Hutter: Decoupled Weight Decay Regularization, arXiv:1711.05101); no decay on vectors."""
    module.train()
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, fused=True)


def _faster_threads(module: torch.nn.Module, pixels: Pixels, split: Split, size: int) -> int:
    """The thread count, 1 or all, that takes forward and backward of a few batches in less time on this machine."""
    available = torch.get_num_threads()
    if pixels.device.type != "cpu" or available == 1:
        return available
    trial = copy.deepcopy(module).train()
    batch = pixels(split.images[: min(size, len(split))])
    taken: dict[int, float] = {}
    for threads in (1, available, 1, available):
        with _threads(threads):
            for warm in (True, False):
                started = time.perf_counter()
                torch.autograd.backward(trial(batch).sum())
                if not warm:
                    taken[threads] = min(taken.get(threads, math.inf), time.perf_counter() - started)
    return min(taken, key=lambda threads: taken[threads])


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout draws from them) and put them back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _parts(loss: Loss) -> dict[str, float]:
    """The running parts of a loss that has any, reset for the next epoch."""
    parts: dict[str, float] = getattr(loss, "parts", {})
    if parts:
        loss.reset()  # type: ignore[attr-defined]
    return {f"loss_{name}": value for name, value in parts.items()}
