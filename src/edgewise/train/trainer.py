"""One training as an object: its tensors, its state, and what may be done with them."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgewise import runs
from edgewise.data import Dataset
from edgewise.errors import ConfigError, TrainingError
from edgewise.interrupt import Interrupted
from edgewise.models import Model
from edgewise.models.parts import freeze, head_names, keep_frozen
from edgewise.progress import Advance, Progress
from edgewise.recipe import TrainOptions
from edgewise.train.checkpoint import load_newest, load_weights, remove_checkpoints, save_checkpoint
from edgewise.train.evaluate import validate
from edgewise.train.feed import Augmentation, Feed, Pixels
from edgewise.train.fused import fuse_for_training
from edgewise.train.losses import Batch, Loss, make_loss
from edgewise.train.optim import MovingAverage, make_optimizer, make_schedule
from edgewise.train.state import State, fingerprint, images_hash, load_optimizer, optimizer_tensors
from edgewise.train.threads import choose_mode, has_fast_bf16
from edgewise.train.world import World, explained

AUTO_BATCH = 64


@dataclass(frozen=True)
class Fitted:
    """A trained model with the weights of its best epoch.

    `history` has one record per epoch: epoch, lr, train_loss, val_loss, val_accuracy, val_macro_f1,
    val_balanced_accuracy, val_worst_recall, seconds, and the running parts of the loss where it has any. `threads` and
    `amp` (off, bf16, fp16) are what was chosen to compute with.
    """

    model: Model
    best_epoch: int
    best_macro_f1: float
    threads: int
    amp: str
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Setup:
    """How to train, besides the model and the images.

    options: see `edgewise.recipe.TrainOptions`. seed: of batch order, augmentation and dropout. checkpoints: folder for
    `best.safetensors` and `last.safetensors`. epochs, lr, loss: instead of those of the options.
    augment: what happens to the images of a batch. resume: go on from the checkpoints where they are of this training;
    accept_images: also when they were made with other images.
    """

    options: TrainOptions
    seed: int
    checkpoints: Path
    epochs: int | None = None
    lr: float | None = None
    loss: Loss | None = None
    augment: Augmentation | None = None
    resume: bool = False
    accept_images: bool = False


class _NotFiniteError(Exception):
    """The loss or the weights are not finite."""

    def __init__(self, what: str, rate: float, names: list[str]) -> None:
        super().__init__(what)
        self.what, self.rate, self.names = what, rate, names


class Trainer:
    """One training: the tensors, the state, and what may be done with them."""

    def __init__(
        self, model: Model, dataset: Dataset, setup: Setup, device: torch.device, world: World, progress: Progress
    ) -> None:
        self.setup, self.options, self.world, self.progress = setup, setup.options, world, progress
        self.model, self.dataset, self.device = model, dataset, device
        self.epochs = self.options.epochs if setup.epochs is None else setup.epochs
        self.module = copy.deepcopy(model.module).to(device).to(memory_format=torch.channels_last)
        if self.options.freeze != "none":
            freeze(self.module, self.options.freeze)
        self.pixels = Pixels(model.input, device)
        size = AUTO_BATCH if self.options.batch_size == "auto" else self.options.batch_size
        self.feed = Feed(
            dataset.train, self.pixels, size, setup.seed, self.options.sampling, setup.augment, world.rank, world.size
        )
        self.loss = setup.loss or make_loss(self.options.loss, dataset.train.labels, len(dataset.classes))
        peak = self.options.lr if setup.lr is None else setup.lr
        head = () if self.options.backbone_lr is None else head_names(self.module)
        self.optimizer = make_optimizer(self.module, self.options, peak, head)
        self.schedule = make_schedule(self.options, self.epochs, self.feed.steps)
        self.ema = MovingAverage(self.module, self.options.ema) if self.options.ema else None
        self.training = self.module  # until `begin` wraps it
        self.state = State(threads=0, amp=_amp(self.options.amp, device), chunk=size)
        self.scaler = self._make_scaler()
        self.last, self.best_path = (setup.checkpoints / f"{name}.safetensors" for name in ("last", "best"))
        self.fingerprint = fingerprint(model, self.options, [setup.seed, peak, size, type(self.loss).__name__])
        self.images = images_hash(dataset.train)
        self.saved_at = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or nothing got better for `patience` of them."""
        state, patience = self.state, self.options.patience
        return state.epoch > self.epochs or bool(patience and state.epoch - 1 - state.best_epoch >= patience)

    @property
    def steps_done(self) -> int:
        """Steps since the first epoch began."""
        return (self.state.epoch - 1) * self.feed.steps + self.state.step

    # -----------------------------------------------------------------------------------------------------------
    # Checkpoints.

    def begin(self) -> None:
        """Go on from the checkpoints where that was asked for, else write the first one."""
        found = self.setup.resume and self.restore()
        if not found:
            if self.world.main:
                remove_checkpoints(self.last)
                remove_checkpoints(self.best_path)
            self.world.wait()
            self._choose_mode()
            self._warn_of_little_space()
        if self.state.fused:
            fuse_for_training(self.module)
        self.training = self.world.wrap(self.module)
        if not found:
            self.save()

    def _choose_mode(self) -> None:
        """Settle threads and precision, which the checkpoints keep: a step that was done is never done otherwise."""
        state, options = self.state, self.options
        alone = self.device.type == "cpu" and self.world.size == 1
        tried = ("off", "bf16") if options.amp == "auto" and alone and has_fast_bf16() else (state.amp,)
        batch = self.pixels(self.dataset.train.images[: self.feed.size])
        state.threads, state.amp = self.world.same(choose_mode(self.module, batch, options.threads, tried))
        state.fused = self.device.type == "cpu" and state.amp == "off"
        if len(tried) > 1 and state.amp != "off":
            self.progress.say("mixed precision: bf16, which this CPU computes faster; train.amp=off switches it off")

    def restore(self) -> bool:
        """Take the newest checkpoint's tensors and state; False when there is none.

        Raises:
            ConfigError: C24, it belongs to another training.
        """
        found = load_newest(self.last)
        if found is None:
            return False
        tensors, facts, note = found
        if note:
            self.progress.say(f"warning: {note}")
        if facts["fingerprint"] != self.fingerprint:
            raise self._foreign("first weights, seed or options are not those it was made with")
        rooms: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, value in tensors.items():
            room, _, rest = name.partition("/")
            rooms[room][rest] = value
        load_weights(self.module, rooms["model"], self.last)
        if self.ema:
            load_weights(self.ema.module, rooms["ema"], self.last)
        load_optimizer(self.optimizer, rooms["optimizer"])
        same_images = facts["images"] == self.images
        if not same_images and not self.setup.accept_images:
            raise self._foreign("it was made with other images")
        facts["state"]["best"] = tuple(facts["state"]["best"])
        self.state = State(**facts["state"])
        self.scaler = self._make_scaler()
        if self.state.scaler:
            self.scaler.load_state_dict(self.state.scaler)
        if not same_images:  # the epoch in work begins again
            self.state.step, self.state.seen, self.state.loss_sum = 0, 0, 0.0
        if self.ema:
            self.ema.updates = self.state.ema_updates
        if hasattr(self.loss, "restore"):
            self.loss.restore(self.state.loss)
        return True

    def _make_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.state.amp == "fp16")

    def _foreign(self, why: str) -> ConfigError:
        return ConfigError(
            "the checkpoint belongs to another training",
            code="C24",
            where={"file": self.last},
            why=why,
            fix="resume with the recipe and the images of the run, or begin a new run",
        )

    def save(self) -> None:
        """Write `last.safetensors`."""
        self.saved_at = time.monotonic()
        if self.ema:
            self.state.ema_updates = self.ema.updates
        self.state.scaler = self.scaler.state_dict()
        self.state.loss = self.loss.state() if hasattr(self.loss, "state") else {}
        if self.world.main:
            tensors = {f"model/{name}": value for name, value in self.module.state_dict().items()}
            if self.ema:
                tensors |= {f"ema/{name}": value for name, value in self.ema.module.state_dict().items()}
            tensors |= {f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizer)}
            state = dataclasses.asdict(self.state)
            facts = {"fingerprint": self.fingerprint, "images": self.images}
            save_checkpoint(self.last, tensors, facts | {"state": state})
        self.world.wait()

    def best(self) -> Fitted:
        """The model with the weights of its best epoch."""
        found = load_newest(self.best_path)
        if found is None:
            raise TrainingError("no epoch was finished", code="T03", where={"folder": self.setup.checkpoints})
        tensors, facts, note = found
        if note:
            self.progress.say(f"warning: {note}")
        module = copy.deepcopy(self.model.module)
        load_weights(module, tensors, self.best_path)
        return Fitted(
            dataclasses.replace(self.model, module=module.eval()),
            facts["epoch"],
            facts["val_macro_f1"],
            self.state.threads,
            self.state.amp,
            self.state.history,
        )

    def _warn_of_little_space(self) -> None:
        needed = 3 * 3 * sum(value.nbytes for value in self.module.state_dict().values())
        free = runs.free_bytes(self.setup.checkpoints)
        if free < needed:
            self.progress.say(
                f"warning: {free:,} bytes are free in {self.setup.checkpoints}; checkpoints need about {needed:,}"
            )

    # -----------------------------------------------------------------------------------------------------------
    # Epochs and steps.

    def train_epoch(
        self, advance: Advance, stop: Callable[[], int | None], on_epoch: Callable[[dict[str, Any]], None]
    ) -> None:
        """Train the rest of the epoch in work, validate, and write the checkpoints.

        Raises:
            TrainingError: T01, T02. Interrupted: `stop` told a signal; the state is saved.
        """
        started = time.perf_counter() - self.state.seconds
        try:
            rate = self._steps(advance, stop, started)
            self._check_weights(rate)
        except _NotFiniteError as problem:
            self._roll_back(problem)
            return
        record = self._record(rate) | {"seconds": round(time.perf_counter() - started, 3)}
        state = self.state
        state.history.append(record)
        score = (_score(record, self.options.metric), -record["val_loss"])
        if score > state.best:
            state.best, state.best_epoch = score, state.epoch
            if self.world.main:
                save_checkpoint(self.best_path, self._kept().state_dict(), record)
        shown = f"validation {self.options.metric} {abs(score[0]):.3f}, best {abs(state.best[0]):.3f}"
        advance(0, f"epoch {state.epoch}/{self.epochs}, {shown}")
        state.epoch, state.step, state.seen, state.loss_sum, state.seconds = state.epoch + 1, 0, 0, 0.0, 0.0
        self.save()
        on_epoch(record)

    def _steps(self, advance: Advance, stop: Callable[[], int | None], started: float) -> float:
        """The steps of the epoch that are left; the last learning rate of the classifier."""
        state = self.state
        self.training.train()
        if self.options.freeze != "none":
            keep_frozen(self.module)
        rate = self._set_rates(max(0, self.steps_done - 1))  # told where no step of the epoch is left
        for batch in self.feed.batches(state.epoch, state.step):
            rate = self._set_rates(self.steps_done)
            value, count, stopped = self._together(self._step(batch), len(batch.labels), stop())
            if not math.isfinite(value):
                names = [self.feed.split.names[row] for row in batch.rows[:5].tolist()]
                raise _NotFiniteError(f"the loss became {value}", rate, names)
            self._apply()
            state.loss_sum += value * count
            state.seen += count
            state.step += 1
            advance()
            due = time.monotonic() - self.saved_at > 60 * self.options.checkpoint_minutes
            if stopped or (due and self.world.size == 1):
                self._check_weights(rate)
                state.seconds = time.perf_counter() - started
                self.save()
            if stopped:
                raise Interrupted(stopped)
        return rate

    def _set_rates(self, step: int) -> float:
        """The learning rates of a step; the largest is returned."""
        factor = self.schedule(step) * self.state.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        rate: float = max(group["lr"] for group in self.optimizer.param_groups)
        return rate

    def _together(self, value: float, count: int, stopped: int | None) -> tuple[float, int, int]:
        """Mean loss, images and signal of all processes."""
        if self.world.size == 1:
            return value, count, stopped or 0
        totals, counts, signals = zip(*self.world.gather(value * count, count, stopped or 0), strict=True)
        return math.fsum(totals) / sum(counts), int(sum(counts)), int(max(signals))

    def _step(self, batch: Batch) -> float:
        """Gradients of a batch, in chunks where memory is short; the mean loss."""
        while True:
            try:
                self.optimizer.zero_grad(set_to_none=True)
                return sum(self._gradients(part, len(part.labels) / len(batch.labels)) for part in self._chunks(batch))
            except RuntimeError as problem:  # torch.OutOfMemoryError is one; the CPU's has no class of its own
                if not _out_of_memory(problem):
                    raise explained(problem) from problem
                self._halve(batch, problem)

    def _gradients(self, batch: Batch, share: float) -> float:
        amp = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.state.amp)
        with torch.autocast(self.device.type, dtype=amp, enabled=amp is not None):
            scores = self.training(batch.images)
        loss = self.loss(scores.float(), batch) * share
        value = loss.item()
        if math.isfinite(value) or self.world.size > 1:  # the others wait for these gradients
            torch.autograd.backward(self.scaler.scale(loss))
        return value

    def _apply(self) -> None:
        """Move the weights along the gradients, and their moving average after them."""
        if self.options.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.module)

    def _chunks(self, batch: Batch) -> Iterator[Batch]:
        count = len(batch.labels)
        if self.state.chunk >= count:
            yield batch
            return
        pieces = math.ceil(count / self.state.chunk)
        for start, end in zip(_cuts(count, pieces), _cuts(count, pieces)[1:], strict=False):
            targets = None if batch.targets is None else batch.targets[start:end]
            yield Batch(batch.images[start:end], batch.labels[start:end], batch.rows[start:end], targets)

    def _halve(self, batch: Batch, problem: RuntimeError) -> None:
        """Compute half as much at once from now on, where `batch_size: auto` allows it."""
        used = min(self.state.chunk, len(batch.labels))
        peak = f"; {torch.cuda.max_memory_allocated() / 1e9:.2f} GB were in use" if self.device.type == "cuda" else ""
        alone = self.world.size == 1  # the others would not halve with this process
        if self.options.batch_size != "auto" or used < 4 or not alone:
            raise TrainingError(
                "out of memory",
                code="T02",
                where={"key": f"train.batch_size = {self.options.batch_size}", "computed at once": f"{used} images"},
                why=(str(problem).splitlines() or [""])[0] + peak,
                fix=f"--set train.batch_size=auto halves it by itself, or try {max(2, used // 2)}; a smaller data.size "
                "or model also helps",
            ) from problem
        self.state.chunk = max(2, used // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.progress.say(
            f"out of memory with {used} images at once: computing {self.state.chunk} at once and adding gradients up "
            "(batch norm sees the smaller groups)"
        )

    # -----------------------------------------------------------------------------------------------------------
    # What can go wrong with numbers.

    def _check_weights(self, rate: float) -> None:
        values = [value for value in self.module.state_dict().values() if value.is_floating_point()]
        broken = not all(torch.isfinite(value).all() for value in values)
        if self.world.largest(broken):
            raise _NotFiniteError("weights became infinite or NaN", rate, [])

    def _roll_back(self, problem: _NotFiniteError) -> None:
        """Back to the last checkpoint with half the learning rate, once.

        Raises:
            TrainingError: T01, it happened before.
        """
        if self.state.rolled_back:
            raise TrainingError(
                f"{problem.what} again, after going back to a checkpoint with half the learning rate",
                code="T01",
                where={"learning rate": f"{problem.rate:.3g}"}
                | ({"batch": ", ".join(problem.names) + ", ..."} if problem.names else {}),
                why="the weights were blown up by too large a step, or an image or loss holds broken values",
                fix="lower train.lr (a tenth is a good next try), or set train.clip=1",
            )
        chunk = self.state.chunk
        self.restore()
        self.state.rolled_back, self.state.chunk = True, chunk
        self.state.lr_scale /= 2
        off = ", mixed precision off" if self.state.amp != "off" else ""
        self.state.amp = "off"
        self.scaler = self._make_scaler()
        self.save()
        names = f" at {', '.join(problem.names)}, ..." if problem.names else ""
        self.progress.say(
            f"warning: {problem.what} at learning rate {problem.rate:.3g}{names}; back to epoch {self.state.epoch}, "
            f"step {self.state.step}, with half the learning rate{off}"
        )

    def _kept(self) -> torch.nn.Module:
        """What is validated and kept: the moving average, where there is one."""
        return self.ema.module if self.ema else self.module

    def _record(self, rate: float) -> dict[str, Any]:
        record: dict[str, Any] = {"epoch": self.state.epoch, "lr": rate}
        record["train_loss"] = self.state.loss_sum / max(1, self.state.seen)
        if self.world.main:
            record |= validate(self._kept(), self.pixels, self.dataset.val, len(self.dataset.classes))
        record = self.world.same(record)
        return record | _parts(self.loss)


def _score(record: dict[str, Any], metric: str) -> float:
    value: float = record[f"val_{metric}"]
    return -value if metric == "loss" else value


def _amp(wish: str, device: torch.device) -> str:
    if wish != "auto":
        return wish
    if device.type != "cuda":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _cuts(count: int, pieces: int) -> list[int]:
    return [round(count * piece / pieces) for piece in range(pieces + 1)]


def _out_of_memory(problem: RuntimeError) -> bool:
    return isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in str(problem)


def _parts(loss: Loss) -> dict[str, float]:
    """The running parts of a loss that has any, reset for the next epoch."""
    parts: dict[str, float] = getattr(loss, "parts", {})
    if parts:
        loss.reset()  # type: ignore[attr-defined]
    return {f"loss_{name}": value for name, value in parts.items()}
