"""Jobs: what the stages of a run share; how a run folder is opened, resumed, and opened again when it is finished."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgewise import runs
from edgewise.bundle import CENTER, InputSpec
from edgewise.data import Dataset, defaults, load_data
from edgewise.errors import ConfigError
from edgewise.models import Model, create_model, default_input
from edgewise.models.weights import Transfer, load_weights
from edgewise.progress import Progress, Silent
from edgewise.recipe import Recipe, differences, dump_recipe, load_recipe
from edgewise.results import Candidate, Failure
from edgewise.source import check_kind
from edgewise.train import World
from edgewise.train.state import HARMLESS
from edgewise.train.trackers import Mirror, check_trackers, mirrored

Role = Literal["base", "variant", "control"]
DEFAULT_SIZE = 128
FREE_TO_CHANGE = (
    "name",
    "explain",
    "variants",
    "controls",
    "export.",
    "measure.",
    "goal.",
    *(f"train.{key}" for key in sorted(HARMLESS)),
)
"""Beginnings of the recipe keys that may differ when a run goes on."""


@dataclass(frozen=True)
class Built:
    """A trained model that is to be exported."""

    name: str
    role: Role
    plan: str
    model: Model


@dataclass(frozen=True)
class Given:
    """A base model that is not trained in the run: another one did, and `facts` tell which.

    splits: where each image stood in that run. history: the records of its training. explained: where it is explained,
    None where it is not. kept: whether all of it stands in the folder of this run already.
    """

    model: Model
    facts: dict[str, Any]
    splits: Path
    history: tuple[dict[str, Any], ...]
    explained: Path | None = None
    kept: bool = False


@dataclass
class Job:
    """What the stages of one run share, and what they leave behind.

    `source` tells where the base comes from when it was not trained here; see `edgewise.source`.
    """

    recipe: Recipe
    run: runs.Run
    dataset: Dataset
    progress: Progress
    world: World
    mirror: Mirror
    accept_changes: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    trainings: Counter[str] = field(default_factory=Counter)
    source: dict[str, Any] = field(default_factory=dict)

    def record(self, name: str, record: Mapping[str, Any]) -> None:
        """Note an epoch of the training of a model."""
        self.history.append({"variant": name, **record})
        self.mirror.record(name, record)
        self.run.log_metrics(self.history[-1])

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 2)


@dataclass(frozen=True)
class Opening:
    """How the run folder is opened.

    force: replace the run that stands there. resume: go on with it instead. accept_changes: resume although images were
    changed, added or removed. argv: the command, for the records.
    """

    force: bool = False
    resume: bool = False
    accept_changes: bool = False
    argv: list[str] | None = None


@contextlib.contextmanager
def open_job(
    recipe: Recipe,
    out: Path,
    opening: Opening,
    progress: Progress | None,
    world: World,
    given: Given | None = None,
) -> Iterator[Job]:
    """Check the names, make or open the run folder, read the data."""
    spec = given.model.input if given else _checked_input(recipe)
    progress = progress if progress and world.main else Silent()
    with contextlib.ExitStack() as stack:
        with world.first():  # so that images are decoded once, and all others find them in the cache
            if world.main:
                check_trackers(recipe.train.trackers)
            if opening.resume:
                check_resumable(recipe, out, compresses=given is not None)
            facts = {"source": given.facts} if given else {}
            folder = stack.enter_context(_folder(recipe, out, opening, world, facts))
            if folder.writes:  # before the images are read, so that a run that is killed meanwhile can be resumed
                runs.write_text(out / "recipe.yaml", dump_recipe(recipe))
            started = time.perf_counter()
            splits = out / "splits.csv"
            saved = splits if opening.resume and splits.exists() else given.splits if given else None
            dataset = load_images(recipe, spec, progress, saved, opening.accept_changes)
        if folder.writes:
            dataset.write_splits(splits)
            if dataset.bad:
                dataset.write_bad_files(out / "bad_files.csv")
        names = recipe.train.trackers if folder.writes else ()
        mirror = stack.enter_context(mirrored(names, out, recipe.name, recipe.model_dump(mode="json"), progress.say))
        job = Job(recipe, folder, dataset, progress, world, mirror, opening.accept_changes)
        job.source = given.facts if given else {}
        job.warnings += dataset.summary["warnings"]
        job.seconds["data"] = round(time.perf_counter() - started, 2)
        for warning in job.warnings:
            progress.say(f"warning: {warning}")
        yield job


def check_resumable(recipe: Recipe, out: Path, *, compresses: bool = False) -> None:
    """Compare a recipe with that of the run in `out`.

    Raises:
        ConfigError: C27 the run is complete and nothing new is asked of it, C23 something was changed that its
            checkpoints depend on, C25 there is no run, C73 it compresses a model of another run and `compresses` is
            not set, or the reverse.
    """
    facts = runs.read_run(out)
    check_kind(facts, out, compresses=compresses)
    known = load_recipe(out / "recipe.yaml")
    changed = differences(known, recipe)
    if facts["status"] == "complete" and not changed:
        raise ConfigError(
            "this run is complete", code="C27", where={"folder": out}, fix="`edgewise compare` shows what it found"
        )
    binding = [line for key, line in changed.items() if not key.startswith(FREE_TO_CHANGE)]
    theirs, ours = (
        str(versions.get("torch", "")).partition(".")[0] for versions in (facts["versions"], runs.versions())
    )
    if theirs != ours:
        binding.append(f"torch: {facts['versions'].get('torch')} -> {runs.versions().get('torch')}")
    if binding:
        raise ConfigError(
            "the run cannot go on with these changes",
            code="C23",
            where={"folder": out},
            why="\n".join(binding),
            fix=f"resume without them, or start a new run from its weights: edgewise train DATA --weights {out}",
        )


def _checked_input(recipe: Recipe) -> InputSpec:
    spec = resolve_input(recipe)
    load_start(recipe, create_model(recipe.model, labels=("a", "b"), input=spec))
    return spec


@contextlib.contextmanager
def _folder(
    recipe: Recipe, out: Path, opening: Opening, world: World, facts: Mapping[str, object]
) -> Iterator[runs.Run]:
    if not world.main:
        yield runs.Run(out, resumed=opening.resume, writes=False)
    elif opening.resume:
        with runs.open_run(out, argv=opening.argv) as folder:
            yield folder
    else:
        with runs.create_run(out, force=opening.force, argv=opening.argv, seed=recipe.seed, facts=facts) as folder:
            yield folder


def resolve_input(recipe: Recipe) -> InputSpec:
    """The image the model will see: the recipe's wishes, then what the data bring, then what the model was made for."""
    native = default_input(recipe.model)
    data_size, data_channels = defaults(recipe.data.source)
    size = recipe.data.size or data_size or (native.height if native else DEFAULT_SIZE)
    channels: Literal[1, 3] = recipe.data.channels or (1 if data_channels == 1 else 3)
    spec = InputSpec(size, size, channels, recipe.data.fit, mean=(CENTER,) * channels, std=(0.5,) * channels)
    if native and channels == native.channels:
        spec = dataclasses.replace(spec, mean=native.mean, std=native.std, interpolation=native.interpolation)
    return spec


def open_finished(out: Path, names: Sequence[str], progress: Progress) -> tuple[Recipe, Dataset, runs.Run]:
    """The recipe, the images as they were split, and the folder of a finished run that has these models.

    Raises:
        ConfigError: no run (C25), one that did not finish (C81), or one without such a model (C80).
        DataError: the images are not there, or not those the run was made with (D32).
    """
    folder = runs.finished(out, names)
    recipe = load_recipe(out / "recipe.yaml", {"data.download": False})
    return recipe, load_images(recipe, resolve_input(recipe), progress, out / "splits.csv"), folder


def load_images(
    recipe: Recipe, spec: InputSpec, progress: Progress, saved: Path | None = None, accept_changes: bool = False
) -> Dataset:
    """The images of a recipe at the size of `spec`, as they were split in `saved` where that is given."""
    with progress.task("read images", 100) as advance:
        shown = 0

        def on_images(done: int, total: int) -> None:
            nonlocal shown
            percent = 100 * done // max(1, total)
            advance(percent - shown)
            shown = percent

        dataset = load_data(
            recipe.data, spec, seed=recipe.seed, progress=on_images, saved=saved, accept_changes=accept_changes
        )
        train, val, test = len(dataset.train), len(dataset.val), len(dataset.test)
        classes = len(dataset.classes)
        advance(0, f"{train + val + test} images, {classes} classes, train {train} / val {val} / test {test}")
    return dataset


def load_start(recipe: Recipe, model: Model) -> Transfer | None:
    """Put the weights that a recipe starts from into a model; None where it names none."""
    return load_weights(model, Path(recipe.weights).expanduser()) if recipe.weights else None
