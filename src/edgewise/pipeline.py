"""The whole flow, data to report, as one readable function: `run`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.compress import Context, apply_plan
from edgewise.data import Dataset
from edgewise.data.augment import Augment
from edgewise.data.preview import write_preview
from edgewise.errors import ConfigError, EdgewiseError, GateError
from edgewise.export.speed import speeds
from edgewise.jobs import Built, Job, Opening, load_images, load_start, open_finished, open_job, resolve_input
from edgewise.judge import figure
from edgewise.measure.accuracy import quality, quality_of_part
from edgewise.measure.calibration import calibrate
from edgewise.models import Model, create_model, open_model, rebuild, save_model
from edgewise.models.cost import cost
from edgewise.models.marks import MARKS, structural
from edgewise.progress import Progress, Silent
from edgewise.proving import conclude, export_all, measure_all
from edgewise.recipe import Goal, Recipe, Variant
from edgewise.report.explanation import Explanation
from edgewise.results import Failure, Measurement, RunResult
from edgewise.source import check_one_model
from edgewise.train import Setup, World, fit, logits
from edgewise.train.explain import explain
from edgewise.train.folds import cut_folds, spread
from edgewise.train.losses import Loss
from edgewise.variants import BASE, resolve_variants


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
    world = one_process()
    check_one_model(recipe)
    with open_job(recipe, out, opening, progress, world) as job:
        with job.stage("train"):
            base = train_base(job)
        explain_base(job)
        result = compare_variants(job, base, variants, opening.argv)
    return judged(result, recipe.goal, out)


def one_process() -> World:
    """The world of this process, which has to be alone.

    Raises:
        ConfigError: C26, several processes were started together.
    """
    world = World()
    if world.size > 1:
        raise ConfigError(
            "several processes train one model, and do not compress and export it",
            code="C26",
            where={"processes": world.size},
            fix="`torchrun -m edgewise train ...`, then `edgewise run --weights RUN ...` in one process",
        )
    return world


def compare_variants(job: Job, base: Built, variants: Sequence[Variant], argv: list[str] | None) -> RunResult:
    """Make the variants of a trained base and their controls, export all, check, measure, choose and report."""
    with job.stage("compress"):
        built = [base, *make_variants(job, base, variants)]
    with job.stage("controls"):
        built += make_controls(job, built) if job.recipe.controls else []
    with job.stage("export"):
        exported = export_all(job, built)
    with job.stage("measure"):
        measurements = measure_all(job, exported)
    return conclude(job, measurements, argv)


def judged(result: RunResult, goal: Goal, out: Path) -> RunResult:
    """The result, when something was chosen.

    Raises:
        GateError: G01, nothing meets the goal; all files are written all the same.
    """
    if result.chosen is None:
        raise GateError(
            "nothing meets the goal",
            code="G01",
            where={"goal": _goal_text(goal), "report": out / "report.html"},
            why=_best_text(result.measurements, goal),
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
    dataset = load_images(recipe, resolve_input(recipe), progress or Silent())
    write_preview(dataset, _augment(recipe, dataset), path, recipe.seed)


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
    loaded = load_start(recipe, model)
    if loaded:
        job.progress.say(f"weights: {loaded}")
        job.run.update(weights={"source": recipe.weights, **loaded.as_dict()})
    trained = _fit(job, name, model, recipe.train.epochs, recipe.train.lr)
    return keep(job, Built(name, "base", "", trained))


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

    What it was before training is made again: a base with the recipe's seed (and the weights the recipe starts from),
    whatever a plan changed as its structure with fresh weights.
    """
    model = open_model(run.model_dir / name)
    labels, spec, seed = model.labels, model.input, recipe.seed
    if name == BASE and not model.structure:
        fresh = create_model(model.architecture, labels=labels, input=spec, pretrained=recipe.pretrained, seed=seed)
        load_start(recipe, fresh)
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
            made.append(keep(job, Built(name, "variant", variant.plan, model)))
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
            controls[structure] = keep(job, Built(name, "control", variant.plan, trained))
    return list(controls.values())


def _fit(job: Job, name: str, model: Model, epochs: int, lr: float, loss: Loss | None = None) -> Model:
    """Train under a name; a plan that trains twice under one name has a checkpoint folder for each time."""

    def on_epoch(record: dict[str, Any]) -> None:
        job.record(name, record)

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

    def bind(default_epochs: int, default_lr: float) -> Any:
        def train_copy(
            model: Model, *, epochs: int | None = None, loss: Loss | None = None, lr: float | None = None
        ) -> Model:
            return _fit(job, name, model, epochs or default_epochs, lr or default_lr, loss)

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


def keep(job: Job, built: Built) -> Built:
    """Write a model into the run folder."""
    if job.run.writes:
        save_model(built.model, job.run.model_dir / built.name)
    return built


def _failed(job: Job, name: str, stage: str, problem: EdgewiseError) -> None:
    job.failures.append(Failure(name, stage, f"{problem.what}. {problem.why}".strip()))
    job.progress.say(str(problem))


def _goal_text(goal: Goal) -> str:
    limits = [f"{goal.metric} >= {goal.min}"] if goal.min is not None else []
    limits += [f"at most {goal.max_drop} below the base"] if goal.max_drop is not None else []
    return ", ".join(limits)


def _best_text(measurements: Sequence[Measurement], goal: Goal) -> str:
    best = max(measurements, key=lambda row: figure(row, goal))
    return f"the best is {best.name} with {figure(best, goal):.3f} on validation images"
