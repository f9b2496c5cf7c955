"""Commands that make smaller models of a finished run: compress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgewise.cli.early import check_techniques
from edgewise.cli.options import (
    Download,
    Force,
    Json,
    Quiet,
    check_plans,
    free_folder,
    opening_of,
    progress_for,
    read_recipe,
    say_next,
    words,
)
from edgewise.cli.show import files_of, show_run
from edgewise.errors import ConfigError

if TYPE_CHECKING:
    from edgewise.recipe import Recipe

EXAMPLE = '--plan "prune(0.7) > distill"'


def compress(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of a finished run, or of one of its models.")
    ] = None,
    plan: Annotated[
        list[str] | None, typer.Option(help='What to make, e.g. "prune(0.7) > distill"; may be repeated.')
    ] = None,
    model: Annotated[str | None, typer.Option(help="Which model of the run to start from. Default: its base.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new run. Default: RUN-compressed.")] = None,
    controls: Annotated[
        bool | None,
        typer.Option("--controls/--no-controls", help="Train each structure from scratch too. Default: as the run."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Formats, e.g. onnx,openvino. Default: those of the run.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8 or several, e.g. fp32,int8. Default: those of the run.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of train, augment, export, measure or goal, e.g. train.finetune_epochs=5.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; default: NAME beside RUN.")] = None,
    download: Download = False,
    force: Force = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="NEW", help="Go on with an interrupted compress; flags change its recipe."),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply further plans to a model that a run has trained, and compare them; the run itself stays as it is."""
    flags: dict[str, Any] = {
        "name": name,
        "variants": [{"plan": text} for text in plan] if plan else None,
        "controls": controls,
        "export.formats": None if to is None else words(to),
        "export.precisions": None if precision is None else words(precision),
        "data.download": download or None,
    }
    check_techniques(plan or ())
    if resume:
        if run or model:
            raise ConfigError(
                "a run that is resumed knows what it compresses",
                code="C03",
                where={"--resume": resume},
                fix=f"edgewise compress --resume {resume}",
            )
        chosen, folder = _resumed(resume, flags, settings), resume
    else:
        flags |= {"name": name, "variants": flags["variants"] or [], "data.download": download}
        chosen, folder = _further(run, model, flags, settings, out)

    from edgewise import further

    opening = opening_of(force, resume, accept_changes=False)
    result = show_run(
        lambda: further.compress_run(
            run, chosen, folder, model=model, opening=opening, progress=progress_for(quiet or json_)
        ),
        folder,
        json_,
    )
    from edgewise.report.outcome import headline

    if json_:  # the table names them too
        say_next(json_, *(f"not made: {one.name}: {one.reason}" for one in result.failures))
    say_next(json_, f"best:    {headline(result)[1]}", *files_of(result, folder))


def _further(
    place: Path | None, model: str | None, flags: dict[str, Any], settings: list[str] | None, out: Path | None
) -> tuple[Recipe, Path]:
    """The recipe of the run with the flags laid over it, and the folder of the new run; all that can be refused without
    torch is refused here."""
    from edgewise import runs

    if place is None:
        raise ConfigError("no run to compress", code="C72", fix=f"edgewise compress runs/NAME {EXAMPLE}")
    run, _ = runs.run_and_model(place)
    runs.read_run(run)
    home = run if run.name not in ("", "..") else run.resolve()
    chosen = read_recipe(run / "recipe.yaml", {**flags, "name": flags["name"] or f"{home.name}-compressed"}, settings)
    folder = out or free_folder(chosen.name, home.parent)

    from edgewise.source import check_further, find_source

    check_further(find_source(place, model), chosen, folder)
    return chosen, folder


def _resumed(folder: Path, flags: dict[str, Any], settings: list[str] | None) -> Recipe:
    from edgewise import runs

    facts = runs.read_run(folder)
    chosen = read_recipe(folder / "recipe.yaml", flags, settings)

    from edgewise.source import check_kind

    check_kind(facts, folder, compresses=True)
    check_plans(chosen)
    return chosen
