"""The whole flow, data to report, as one readable function: `run`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from PIL.Image import Image

from edgewise import runs
from edgewise.bundle import CENTER, InputSpec, update_measured
from edgewise.compress import Context, apply_plan, check_plan
from edgewise.data import Dataset, defaults, load_data
from edgewise.data.augment import Augment
from edgewise.data.preview import write_preview
from edgewise.device.preprocess import BadImage, open_image
from edgewise.errors import ConfigError, EdgewiseError, ExportError, GateError, nearest
from edgewise.export.deliver import deliver
from edgewise.export.desk import Exported, Order
from edgewise.export.offers import Offer, offer
from edgewise.export.speed import speeds
from edgewise.judge import choose, figure, times_as_long
from edgewise.measure import latency, machine, memory
from edgewise.measure.accuracy import difference, quality, quality_of_part
from edgewise.measure.calibration import calibrate
from edgewise.models import Model, create_model, default_input, open_model, rebuild, save_model
from edgewise.models.cost import cost
from edgewise.models.marks import MARKS, structural
from edgewise.models.weights import Transfer, load_weights
from edgewise.plan import parse_call
from edgewise.progress import Progress, Silent
from edgewise.recipe import Goal, Recipe, Variant, differences, dump_recipe, load_recipe
from edgewise.report import write_csv, write_html
from edgewise.report.explanation import RECORD, Explanation
from edgewise.results import Candidate, Cost, Failure, Latency, Measurement, RunResult, to_json
from edgewise.train import Setup, World, fit, logits
from edgewise.train.explain import explain
from edgewise.train.folds import cut_folds, spread
from edgewise.train.losses import Loss
from edgewise.train.state import HARMLESS
from edgewise.train.trackers import Mirror, check_trackers, mirrored

Role = Literal["base", "variant", "control"]
BASE = "base"
DEFAULT_SIZE = 128
_MEASURED = (
    *("cost", "validation", "test", "validation_clean", "test_clean"),
    *("difference", "parity", "calibration", "decision", "latency", "memory"),
)
"""What of a measurement goes into the manifest of its bundle."""
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
PICTURE_PIXELS = 50_000_000
"""About how many decoded pixels of full-size pictures are held for the end-to-end clock."""


@dataclass(frozen=True)
class Built:
    """A trained model that is to be exported."""

    name: str
    role: Role
    plan: str
    model: Model


@dataclass
class Job:
    """What the stages of one run share, and what they leave behind."""

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


def run(recipe: Recipe, out: Path, *, opening: Opening = Opening(), progress: Progress | None = None) -> RunResult:
    """Do all that a recipe says: train, compress, export, check, measure, report.

    Leaves in `out`: run.json, recipe.yaml, splits.csv, metrics.jsonl, model/, explain/, bundles/, results.json,
    results.csv and report.html.

    Raises:
        ConfigError: a name, plan or key is wrong; nothing has been trained then.
        DataError: the images cannot be used.
        GateError: `goal.min` was asked for and nothing meets it; all files are written all the same.
    """
    variants = resolve_variants(recipe)
    world = World()
    if world.size > 1:
        raise ConfigError(
            "several processes train one model, and do not compress and export it",
            code="C26",
            where={"processes": world.size},
            fix="`torchrun -m edgewise train ...`, then `edgewise run --weights RUN ...` in one process",
        )
    if recipe.train.folds:
        raise ConfigError(
            "folds judge a recipe and leave no one model to compress",
            code="C52",
            where={"key": "train.folds"},
            fix="`edgewise train ... --folds K`, then `edgewise run` without them",
        )
    with open_job(recipe, out, opening, progress, world) as job:
        with job.stage("train"):
            base = train_base(job)
        explain_base(job)
        with job.stage("compress"):
            built = [base, *make_variants(job, base, variants)]
        with job.stage("controls"):
            built += make_controls(job, built) if recipe.controls else []
        with job.stage("export"):
            exported = export_all(job, built)
        with job.stage("measure"):
            measurements = measure_all(job, exported)
        result = conclude(job, measurements, opening.argv)
    if result.chosen is None:
        raise GateError(
            "nothing meets the goal",
            code="G01",
            where={"goal": _goal_text(recipe.goal), "report": out / "report.html"},
            why=_best_text(measurements, recipe.goal),
            fix="lower goal.min, train longer, use a larger base model or more images",
        )
    return result


def train_model(
    recipe: Recipe, out: Path, *, opening: Opening = Opening(), progress: Progress | None = None
) -> dict[str, Any]:
    """Train the base model of a recipe and measure it in torch; writes no bundle.

    With `train.folds` a net is trained for each fold instead. Under torchrun or `accelerate launch` all processes train
    together, and the first one writes.

    Returns:
        name, run, architecture, params_total, epochs, seconds, warnings; validation and test `Quality` and
        `Calibration` as plain data; validation_clean and test_clean, the same without copies of training images, None
        where there are none. With folds: `Quality` of each in `folds`, and a `Spread` over them for each figure in
        `validation` and `test`.
    """
    world = World()
    world.join(recipe.train.device)
    out = Path(world.same(str(out)))
    with open_job(recipe, out, opening, progress, world) as job:
        with job.stage("train"):
            built, figures = train_folds(job) if recipe.train.folds else (train_base(job), {})
        figures = figures or _base_figures(job, built.model)
        summary = {
            "name": recipe.name,
            "run": str(out),
            "architecture": built.model.architecture,
            "params_total": cost(built.model.module, built.model.input).params_total,
            "epochs": len(job.history),
            "seconds": job.seconds,
            "warnings": job.warnings,
            **figures,
        }
        if job.run.writes:
            runs.write_json(out / "training.json", summary)
            job.mirror.figures({split: summary[split] for split in ("validation", "test")})
    return summary


def preview(recipe: Recipe, path: Path, *, progress: Progress | None = None) -> None:
    """Write a picture of the training images as augmentation changes them."""
    dataset = _load(recipe, resolve_input(recipe), progress or Silent())
    write_preview(dataset, _augment(recipe, dataset), path, recipe.seed)


@contextlib.contextmanager
def open_job(recipe: Recipe, out: Path, opening: Opening, progress: Progress | None, world: World) -> Iterator[Job]:
    """Check the names, make or open the run folder, read the data."""
    spec = resolve_input(recipe)
    _load_weights(recipe, create_model(recipe.model, labels=("a", "b"), input=spec))
    progress = progress if progress and world.main else Silent()
    with contextlib.ExitStack() as stack:
        with world.first():  # so that images are decoded once, and all others find them in the cache
            if world.main:
                check_trackers(recipe.train.trackers)
            if opening.resume:
                check_resumable(recipe, out)
            folder = stack.enter_context(_folder(recipe, out, opening, world))
            if folder.writes:  # before the images are read, so that a run that is killed meanwhile can be resumed
                runs.write_text(out / "recipe.yaml", dump_recipe(recipe))
            started = time.perf_counter()
            splits = out / "splits.csv"
            saved = splits if opening.resume and splits.exists() else None
            dataset = _load(recipe, spec, progress, saved, opening.accept_changes)
        if folder.writes:
            dataset.write_splits(splits)
            if dataset.bad:
                dataset.write_bad_files(out / "bad_files.csv")
        names = recipe.train.trackers if folder.writes else ()
        mirror = stack.enter_context(mirrored(names, out, recipe.name, recipe.model_dump(mode="json"), progress.say))
        warnings = list(dataset.summary["warnings"])
        job = Job(recipe, folder, dataset, progress, world, mirror, opening.accept_changes, warnings=warnings)
        job.seconds["data"] = round(time.perf_counter() - started, 2)
        for warning in job.warnings:
            progress.say(f"warning: {warning}")
        yield job


def check_resumable(recipe: Recipe, out: Path) -> None:
    """Compare a recipe with that of the run in `out`.

    Raises:
        ConfigError: C27 the run is complete and nothing new is asked of it, C23 something was changed that its
            checkpoints depend on, C25 there is no run.
    """
    facts = runs.read_run(out)
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


@contextlib.contextmanager
def _folder(recipe: Recipe, out: Path, opening: Opening, world: World) -> Iterator[runs.Run]:
    if not world.main:
        yield runs.Run(out, resumed=opening.resume, writes=False)
    elif opening.resume:
        with runs.open_run(out, argv=opening.argv) as folder:
            yield folder
    else:
        with runs.create_run(out, force=opening.force, argv=opening.argv, seed=recipe.seed) as folder:
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


def resolve_variants(recipe: Recipe) -> list[Variant]:
    """The variants with a name each; the default ones where the recipe names none. Checks every plan.

    Raises:
        ConfigError: an unknown technique or option, or two variants of one name.
    """
    variants = list(default_variants(recipe.model) if recipe.variants is None else recipe.variants)
    named = [Variant(plan=variant.plan, name=variant.name or plan_name(variant.plan)) for variant in variants]
    for variant in named:
        check_plan(variant.plan)
    names = [BASE, *(str(variant.name) for variant in named)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f'two variants are called "{twice[0]}"', code="C13", where={"key": "variants"}, fix="give each a name"
        )
    return named


def default_variants(architecture: str) -> list[Variant]:
    """A distilled small net and two pruned ones."""
    call = parse_call(architecture)
    student = "convnet(16, 32, 64)"
    if call.name == "convnet":
        student = f"convnet({', '.join(str(max(8, round(width / 4 / 8) * 8)) for width in call.args)})"
    return [
        Variant(name="distilled", plan=f"distill(student={student})"),
        Variant(name="prune50", plan="prune(ratio=0.5)"),
        Variant(name="prune70", plan="prune(ratio=0.7)"),
    ]


def plan_name(plan: str) -> str:
    """A row and folder name made from a plan: ``prune(ratio=0.7) > distill`` gives ``prune-0.7-distill``."""
    words: list[str] = []
    word = ""
    for character in plan:
        if character.isalnum() or character in "._":
            word += character
            continue
        if word and character != "=":  # option names are left out
            words.append(word)
        word = ""
    return "-".join([*words, word] if word else words)[:64].strip("-.") or "plan"


def train_base(job: Job, name: str = BASE) -> Built:
    """Train the base model and keep it under a name."""
    recipe = job.recipe
    model = create_model(
        recipe.model,
        labels=job.dataset.classes,
        input=resolve_input(recipe),
        pretrained=recipe.pretrained,
        seed=recipe.seed,
    )
    loaded = _load_weights(recipe, model)
    if loaded:
        job.progress.say(f"weights: {loaded}")
        job.run.update(weights={"source": recipe.weights, **loaded.as_dict()})
    trained = _fit(job, name, model, recipe.train.epochs, recipe.train.lr)
    return _keep(job, Built(name, "base", "", trained))


def train_folds(job: Job) -> tuple[Built, dict[str, Any]]:
    """Train and keep a net for each fold of the training and validation images; the last one, and the figures."""
    recipe, folds = job.recipe, []
    for number, dataset in enumerate(cut_folds(job.dataset, recipe.train.folds or 0, recipe.seed), 1):
        built = train_base(dataclasses.replace(job, dataset=dataset), f"fold-{number}")
        fold = {}
        for name, split in (("validation", dataset.val), ("test", dataset.test)):
            called = logits(built.model, split.images).argmax(1)
            fold[name] = dataclasses.asdict(quality(called, split.labels, dataset.classes, seed=recipe.seed))
        folds.append(fold)
    spreads = {
        split: {
            key: dataclasses.asdict(spread([fold[split][key]["value"] for fold in folds]))
            for key in ("accuracy", "macro_f1")
        }
        for split in ("validation", "test")
    }
    return built, {"folds": folds, **spreads}


def _base_figures(job: Job, model: Model) -> dict[str, Any]:
    """Explain the base model, and judge it."""
    explain_base(job)
    data, seed = job.dataset, job.recipe.seed
    val, test = (logits(model, split.images) for split in (data.val, data.test))
    figures: dict[str, Any] = {"calibration": calibrate(val, data.val.labels, test, data.test.labels, seed=seed)}
    for name, split, scores in (("validation", data.val, val), ("test", data.test, test)):
        called = scores.argmax(1)
        figures[name] = quality(called, split.labels, data.classes, seed=seed)
        figures[f"{name}_clean"] = quality_of_part(called, split.labels, data.classes, split.clean, seed=seed)
    return {name: figure and dataclasses.asdict(figure) for name, figure in figures.items()}


def explain_base(job: Job) -> None:
    """Explain the base model as it stands in the run folder, unless the recipe says not to.

    A failure is a warning: the run goes on.
    """
    if not job.recipe.explain or not job.run.writes:
        return
    with job.stage("explain"):
        try:
            explain_model(job.recipe, job.dataset, job.run, BASE, job.progress)
        except EdgewiseError as problem:
            job.warnings.append(f"the base model is not explained: {problem.what}. {problem.why}".strip())
            job.progress.say(str(problem))


def explain_model(recipe: Recipe, dataset: Dataset, run: runs.Run, name: str, progress: Progress) -> Explanation:
    """Explain a model of a run folder; see `edgewise.train.explain`.

    What it was before training is made again: the base with the recipe's seed (and the weights the recipe starts
    from), any other as its structure with fresh weights.
    """
    model = open_model(run.model_dir / name)
    labels, spec, seed = model.labels, model.input, recipe.seed
    if name == BASE:
        fresh = create_model(model.architecture, labels=labels, input=spec, pretrained=recipe.pretrained, seed=seed)
        _load_weights(recipe, fresh)
    else:
        fresh = rebuild(model, seed=seed)
    return explain(model, fresh, dataset, run.explain_dir / name, name=name, seed=seed, progress=progress)


def explain_run(out: Path, name: str = BASE, *, progress: Progress | None = None) -> Explanation:
    """Explain a model of a finished run, the base or a variant; the files are in `explain/NAME` of the run folder.

    Raises:
        ConfigError: no run (C25), one that did not finish (C81), or one without such a model (C80).
        DataError: the images are not there, or not those the run was made with (D32).
    """
    progress = progress or Silent()
    recipe, dataset, folder = open_finished(out, (name,), progress)
    return explain_model(recipe, dataset, folder, name, progress)


def open_finished(out: Path, names: Sequence[str], progress: Progress) -> tuple[Recipe, Dataset, runs.Run]:
    """The recipe, the images as they were split, and the folder of a finished run that has these models.

    Raises:
        ConfigError: no run (C25), one that did not finish (C81), or one without such a model (C80).
        DataError: the images are not there, or not those the run was made with (D32).
    """
    folder = runs.Run(out)
    status = runs.read_run(out)["status"]
    if status != "complete":
        raise ConfigError(
            "this run did not finish",
            code="C81",
            where={"folder": out},
            why=f"its status is {status}",
            fix=f"go on with it first: edgewise run --resume {out}",
        )
    known = sorted(path.name for path in folder.model_dir.iterdir() if path.is_dir())
    for name in names:
        if name not in known:
            raise ConfigError(
                f'the run has no model "{name}"',
                code="C80",
                where={"folder": folder.model_dir},
                why=nearest(name, known),
                fix="name a model of the run, not a file of it: prune50, not prune50-int8",
            )
    recipe = load_recipe(out / "recipe.yaml", {"data.download": False})
    return recipe, _load(recipe, resolve_input(recipe), progress, out / "splits.csv"), folder


def make_variants(job: Job, base: Built, variants: Sequence[Variant]) -> list[Built]:
    """Apply each plan to the base; a plan that cannot be carried out is recorded and the others go on."""
    made = []
    for variant in variants:
        name = str(variant.name)
        try:
            model = apply_plan(base.model, variant.plan, _context(job, base, name))
        except EdgewiseError as problem:
            _failed(job, name, "compress", problem)
        else:
            made.append(_keep(job, Built(name, "variant", variant.plan, model)))
            _note_storage(job, made[-1])
    return made


def _note_storage(job: Job, built: Built) -> None:
    """Warn where what a plan did for the size of files is not made use of."""
    options = job.recipe.export
    marks = {edit["edit"] for edit in built.model.structure} & MARKS
    notes = []
    if "qat" in marks and "int8" not in options.precisions:
        notes.append("qat trained it for int8, which is not written; add it to export.precisions")
    if marks & {"palettize", "sparsify"} and "packed" not in options.formats:
        notes.append("the packed format alone stores its weights in fewer bytes; add it to export.formats")
    if "palettize" in marks and "int8" in options.precisions and "onnx" in options.formats:
        notes.append("its int8 file gives each weight 8 bits and levels of its own, not those of palettize")
    for note in notes:
        job.warnings.append(f"{built.name}: {note}")
        job.progress.say(f"warning: {job.warnings[-1]}")


def make_controls(job: Job, built: Sequence[Built]) -> list[Built]:
    """The structure of each variant, trained from fresh weights with the labels alone; equal structures share one.

    Where a plan changed only the weights of the base (few values, zeros), the base is the control.
    """
    controls: dict[str, Built] = {}

    def structure_of(one: Built) -> str:
        return json.dumps([one.model.architecture, structural(one.model.structure)])

    known = {structure_of(one) for one in built if one.role == "base"}
    for variant in built:
        structure = structure_of(variant)
        if variant.role == "variant" and structure not in known | set(controls):
            name = f"{variant.name}-scratch"
            fresh = rebuild(variant.model, seed=job.recipe.seed)
            trained = _fit(job, name, fresh, job.recipe.train.epochs, job.recipe.train.lr)
            controls[structure] = _keep(job, Built(name, "control", variant.plan, trained))
    return list(controls.values())


def export_all(job: Job, built: Sequence[Built]) -> list[tuple[Built, Exported]]:
    """Write every model in every precision and check each file; a file that fails is recorded and the others go on.

    Controls are written in fp32 only: they answer what a technique was worth, nobody ships them.

    Raises:
        ExportError: the base model could not be written in fp32, so that there is nothing to compare with.
    """
    exported: list[tuple[Built, Exported]] = []
    options = job.recipe.export
    scratch = job.run.path / "work"
    ready = _ready(job)
    if job.run.resumed:
        shutil.rmtree(job.run.bundles_dir, ignore_errors=True)  # of a run that was killed here; all are written again
    with job.progress.task("export", len(built)) as advance:
        for one in built:
            precisions = {"base": ("fp32", *options.precisions), "variant": options.precisions, "control": ("fp32",)}
            order = Order(
                name=one.name,
                model=one.model,
                precisions=precisions[one.role],
                folder=job.run.bundles_dir,
                workspace=scratch / one.name,
                lineage=lineage(one, job.recipe, job.dataset),
            )
            for format_ in options.formats:
                here = tuple(precision for precision in order.precisions if (format_, precision) in ready)
                place = dataclasses.replace(order, precisions=here)
                outcome = deliver(place, format_, job.dataset, options, seed=job.recipe.seed, progress=job.progress)
                job.candidates += outcome.candidates
                job.failures += outcome.failures
                exported += [(one, file) for file in outcome.exported]
            advance(1, f"{len(exported)} files")
    shutil.rmtree(scratch, ignore_errors=True)
    if not any(one.role == "base" and file.manifest.precision == "fp32" for one, file in exported):
        raise ExportError(
            "the base model could not be exported",
            code="X06",
            where={"model": job.recipe.model},
            why="; ".join(failure.reason for failure in job.failures),
            fix="choose another model",
        )
    return exported


def _ready(job: Job) -> set[tuple[str, str]]:
    """The formats and precisions that can be written here; what else was asked for is told once, not for each model."""
    options = job.recipe.export
    asked = [(format_, precision) for format_ in options.formats for precision in ("fp32", *options.precisions)]
    offers = {one: offer(*one) for one in asked}
    reasons: dict[tuple[str, Offer], list[str]] = {}
    for (format_, precision), found in offers.items():
        reasons.setdefault((str(format_), found), []).append(precision)
    for (name, found), precisions in reasons.items():
        if found.state == "missing":
            job.failures.append(Failure(f"{name} {', '.join(precisions)}", "export", found.reason))
        elif found.state == "not written":
            job.warnings.append(found.reason)
            job.progress.say(f"warning: {found.reason}")
    return {one for one, found in offers.items() if found.state == "ready"}


def measure_all(job: Job, exported: Sequence[tuple[Built, Exported]]) -> list[Measurement]:
    """Time all files interleaved with each other, then each in fresh processes, and put the records together."""
    recipe = job.recipe
    reference = next(file for one, file in exported if one.role == "base" and file.manifest.precision == "fp32")
    subjects = [latency.Subject(file.name, file.model_file, file.manifest.format) for _, file in exported]
    timed = latency.measure(
        subjects,
        job.dataset.test.images[:256],
        reference=reference.name,
        spec=reference.manifest.input,
        pictures=_pictures(job),
        threads=recipe.measure.threads,
        seconds=recipe.measure.seconds,
        seed=recipe.seed,
        progress=job.progress,
    )
    with job.progress.task("cold starts", len(exported)) as advance:
        measurements = []
        for one, file in exported:
            measurements.append(_measurement(job, one, file, reference, timed[file.name]))
            advance(1, f"{len(measurements)} files")
    return [_says_whether_int8_pays(measurements, one) for one in measurements]


def _says_whether_int8_pays(measurements: Sequence[Measurement], one: Measurement) -> Measurement:
    """An int8 file that takes longer than the fp32 file of its model says so."""
    times = times_as_long(measurements, one)
    if times is None or times <= 1:
        return one
    note = f"int8 does not pay here: {times:.2f} times as long as fp32"
    return dataclasses.replace(one, notes=[*one.notes, note])


def conclude(job: Job, measurements: list[Measurement], argv: list[str] | None) -> RunResult:
    """Choose, and write results.json, results.csv and report.html."""
    recipe = job.recipe
    chosen, warning = choose(measurements, recipe.goal)
    job.warnings += [warning] if warning else []
    result = RunResult(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(argv) if argv else "edgewise.run(recipe, out)",
        seed=recipe.seed,
        classes=list(job.dataset.classes),
        data=job.dataset.summary,
        goal=recipe.goal.model_dump(),
        chosen=chosen,
        machine=machine.describe(),
        versions=runs.versions(),
        measurements=measurements,
        candidates=job.candidates,
        failures=job.failures,
        warnings=job.warnings,
        seconds=job.seconds,
    )
    out = job.run.path
    runs.write_text(out / "results.json", to_json(result))
    write_csv([result], out / "results.csv")
    explained = job.run.explain_dir / BASE
    shown = explained if job.recipe.explain and (explained / RECORD).exists() else None
    write_html(result, out / "report.html", history=job.history, explained=shown)
    figures = {row.name: {"validation": row.validation, "test": row.test} for row in measurements}
    job.mirror.figures(
        {name: {split: dataclasses.asdict(found) for split, found in both.items()} for name, both in figures.items()}
    )
    return result


def _load(
    recipe: Recipe, spec: InputSpec, progress: Progress, saved: Path | None = None, accept_changes: bool = False
) -> Dataset:
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


def _load_weights(recipe: Recipe, model: Model) -> Transfer | None:
    return load_weights(model, Path(recipe.weights).expanduser()) if recipe.weights else None


def _fit(job: Job, name: str, model: Model, epochs: int, lr: float, loss: Loss | None = None) -> Model:
    """Train under a name; a plan that trains twice under one name has a checkpoint folder for each time."""

    def on_epoch(record: dict[str, Any]) -> None:
        job.history.append({"variant": name, **record})
        job.mirror.record(name, record)
        job.run.log_metrics(job.history[-1])

    job.trainings[name] += 1
    times = job.trainings[name]
    setup = Setup(
        job.recipe.train,
        job.recipe.seed,
        job.run.checkpoints_dir / (name if times == 1 else f"{name}+{times}"),
        epochs=epochs,
        lr=lr,
        loss=loss,
        augment=_augment(job.recipe, job.dataset) if job.recipe.augment.active else None,
        resume=job.run.resumed,
        accept_images=job.accept_changes,
    )
    fitted = fit(
        model, job.dataset, setup, title=f"train {name}", on_epoch=on_epoch, progress=job.progress, world=job.world
    )
    job.threads[name] = fitted.threads
    job.precisions[name] = fitted.amp
    job.run.update(train_threads=job.threads, train_amp=job.precisions)
    return fitted.model


def _augment(recipe: Recipe, dataset: Dataset) -> Augment:
    return Augment(recipe.augment, resolve_input(recipe), dataset.train.labels, len(dataset.classes))


def _context(job: Job, base: Built, name: str) -> Context:
    options, measured = job.recipe.train, job.recipe.measure
    short = options.finetune_epochs or max(1, round(options.epochs * 2 / 3))
    low = options.finetune_lr or options.lr

    def bind(default_epochs: int, lr: float) -> Any:
        def train_copy(model: Model, *, epochs: int | None = None, loss: Loss | None = None) -> Model:
            return _fit(job, name, model, epochs or default_epochs, lr, loss)

        return train_copy

    def say(text: str) -> None:
        job.progress.say(f"{name}: {text}")

    def timed(models: Sequence[Model]) -> list[float]:
        return speeds(models, job.dataset.val.images, threads=measured.threads, seed=job.recipe.seed, say=say)

    return Context(
        job.dataset,
        bind(options.epochs, options.lr),
        bind(short, low),
        base.model,
        job.recipe.seed,
        augmented=job.recipe.augment.active,
        mixed=options.amp in ("auto", "bf16"),
        say=say,
        speeds=timed,
    )


def _keep(job: Job, built: Built) -> Built:
    if job.run.writes:
        save_model(built.model, job.run.model_dir / built.name)
    return built


def _failed(job: Job, name: str, stage: str, problem: EdgewiseError) -> None:
    job.failures.append(Failure(name, stage, f"{problem.what}. {problem.why}".strip()))
    job.progress.say(str(problem))


def _pictures(job: Job) -> list[Image] | None:
    """Test images at the size they are stored in, for the end-to-end clock; None for built-in sets.

    An image that was deleted or damaged since it was read is named in a warning and left out.
    """
    pictures: list[Image] = []
    for name, path in zip(job.dataset.test.names, job.dataset.test.paths[:64], strict=False):
        try:
            pictures.append(open_image(path))
        except BadImage as problem:
            job.warnings.append(f"{name} cannot be read any more ({problem}); it is left out of the end-to-end clock")
            continue
        if sum(picture.width * picture.height for picture in pictures) > PICTURE_PIXELS:
            break
    return pictures or None


def _measurement(job: Job, one: Built, file: Exported, reference: Exported, timed: Latency) -> Measurement:
    """The record of one bundle; its figures also go into the bundle's manifest."""
    cold = memory.probe(file.bundle)
    weights = cost(one.model.module, one.model.input)
    is_reference = file is reference
    measurement = Measurement(
        name=file.name,
        variant=one.name,
        role=one.role if is_reference or one.role != "base" else "variant",
        plan=one.plan,
        format=file.manifest.format,
        precision=file.manifest.precision,
        scheme=file.manifest.scheme,
        bundle=str(file.bundle.relative_to(job.run.path)),
        sha256=file.manifest.files[file.manifest.model_file],
        cost=Cost(
            params_total=weights.params_total,
            params_nonzero=weights.params_nonzero,
            params_zero=weights.params_zero,
            macs=weights.macs,
            file_bytes=file.file_bytes,
        ),
        validation=file.validation,
        test=file.test,
        difference=None
        if is_reference
        else difference(
            file.predictions,
            reference.predictions,
            job.dataset.test.labels,
            job.dataset.classes,
            reference=reference.name,
            seed=job.recipe.seed,
        ),
        parity=file.parity,
        latency=dataclasses.replace(timed, load_ms=cold.load_ms, first_ms=cold.first_ms),
        memory=cold.memory,
        notes=file.notes,
        calibration=file.calibration,
        validation_clean=file.validation_clean,
        test_clean=file.test_clean,
        decision=file.decision,
    )
    record = dataclasses.asdict(measurement)
    update_measured(
        file.bundle,
        {key: record[key] for key in _MEASURED},
    )
    return measurement


def lineage(one: Built, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Where a model comes from, for the manifests of its bundles."""
    return {
        "run": recipe.name,
        "architecture": one.model.architecture,
        "structure": [edit["edit"] for edit in one.model.structure],
        "plan": one.plan,
        "role": one.role,
        "data": dataset.summary["data_hash"],
        "seed": recipe.seed,
        "versions": runs.versions(),
    }


def _goal_text(goal: Goal) -> str:
    limits = [f"{goal.metric} >= {goal.min}"] if goal.min is not None else []
    limits += [f"at most {goal.max_drop} below the base"] if goal.max_drop is not None else []
    return ", ".join(limits)


def _best_text(measurements: Sequence[Measurement], goal: Goal) -> str:
    best = max(measurements, key=lambda row: figure(row, goal))
    return f"the best is {best.name} with {figure(best, goal):.3f} on validation images"
