"""Commands that train: run, train, explain."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise import ranks
from edgewise.cli.options import (
    AcceptChanges,
    Augment,
    BatchSize,
    Download,
    Epochs,
    Folds,
    Force,
    Json,
    ModelName,
    Out,
    Patience,
    Preview,
    Quiet,
    Resume,
    Seed,
    Set,
    Size,
    Source,
    Weights,
    check_plans,
    free_folder,
    number,
    opening_of,
    progress_for,
    read_recipe,
    say_next,
)
from edgewise.cli.show import files_of, show_figures, show_folds, show_run

if TYPE_CHECKING:
    from edgewise.recipe import Recipe


def run(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file; see `edgewise recipe`.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Image folder, manifest, digits or fashion-mnist.")] = None,
    model: ModelName = None,
    weights: Weights = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    patience: Patience = None,
    augment: Augment = None,
    preview: Preview = None,
    plan: Annotated[
        list[str] | None, typer.Option(help='A variant to make, e.g. "prune(0.7) > distill"; may be repeated.')
    ] = None,
    int8: Annotated[
        str | None, typer.Option(help="int8 scheme; auto tries each and keeps the best that passes.")
    ] = None,
    seed: Seed = None,
    out: Out = None,
    settings: Set = None,
    download: Download = False,
    force: Force = False,
    resume: Resume = None,
    accept_data_change: AcceptChanges = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, compress, export, check, measure and report: the whole job."""
    flags = {
        "data.source": data,
        "model": model,
        "weights": weights,
        "data.size": size,
        "train.epochs": epochs,
        "train.batch_size": number(batch_size),
        "train.patience": patience,
        "augment.version": augment,
        "variants": [{"plan": text} for text in plan] if plan else None,
        "export.int8": int8,
        "seed": seed,
        "data.download": download or None,
    }
    chosen = read_recipe(resume / "recipe.yaml" if resume else recipe, flags, settings)
    check_plans(chosen)
    folder = resume or out or free_folder(chosen.name)

    from edgewise import pipeline

    if preview:
        _preview(chosen, preview, json_, quiet)
        return
    opening = opening_of(force, resume, accept_data_change)
    result = show_run(
        lambda: pipeline.run(chosen, folder, opening=opening, progress=progress_for(quiet or json_)), folder, json_
    )
    say_next(json_, *files_of(result, folder))


def train(
    data: Source = None,
    folds: Folds = None,
    model: ModelName = None,
    weights: Weights = None,
    size: Size = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    patience: Patience = None,
    augment: Augment = None,
    preview: Preview = None,
    seed: Seed = None,
    out: Out = None,
    settings: Set = None,
    download: Download = False,
    force: Force = False,
    resume: Resume = None,
    accept_data_change: AcceptChanges = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one model and measure it, without compressing or exporting."""
    flags = {
        "data.source": data,
        "model": model,
        "weights": weights,
        "data.size": size,
        "train.epochs": epochs,
        "train.batch_size": number(batch_size),
        "train.patience": patience,
        "train.folds": folds,
        "augment.version": augment,
        "seed": seed,
        "data.download": download or None,
    }
    chosen = read_recipe(resume / "recipe.yaml" if resume else None, flags, settings)
    folder = resume or out or free_folder(chosen.name)

    from edgewise import pipeline

    if preview:
        _preview(chosen, preview, json_, quiet)
        return
    opening = opening_of(force, resume, accept_data_change)
    summary = pipeline.train_model(chosen, folder, opening=opening, progress=progress_for(quiet or json_))
    if ranks.rank():
        return
    folder = Path(summary["run"])
    if json_:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    if "folds" in summary:
        show_folds(summary)
        figures = f"figures of each fold: {folder / 'training.json'}"
        say_next(json_, f"models: {folder / 'model'}", figures, f"next:  edgewise run --data {chosen.data.source}")
        return
    show_figures(summary)
    page = folder / "explain" / "base" / "explain.html"
    say_next(
        json_,
        f"model: {folder / 'model' / 'base'}",
        *([f"page:  {page}"] if page.exists() else []),
        f'next:  edgewise compress {folder} --plan "prune(0.5) > distill"  (then export, measure, compare)',
    )


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    model: Annotated[str, typer.Option(help="Which of its models: base, or the name of a variant.")] = "base",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a model of a run looks at, where it errs and how far its confidence can be believed."""
    from edgewise import pipeline

    found = pipeline.explain_run(run, model, progress=progress_for(quiet or json_))
    if json_:
        print(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
    else:
        from edgewise.report.explanation import summary

        print("\n".join(summary(found)))
    say_next(json_, f"page:  {run / 'explain' / model / 'explain.html'}")


def _preview(recipe: Recipe, path: Path, json_: bool, quiet: bool) -> None:
    from edgewise import pipeline

    pipeline.preview(recipe, path, progress=progress_for(quiet or json_))
    say_next(json_, f"picture: {path}")
