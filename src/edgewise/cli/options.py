"""Flags that several commands share, and what becomes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgewise.errors import ConfigError

if TYPE_CHECKING:
    from edgewise.jobs import Opening
    from edgewise.recipe import Recipe

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Source = Annotated[str | None, typer.Argument(metavar="DATA", help="Image folder, manifest, digits or fashion-mnist.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to make; default: runs/NAME.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run that stands in the folder.")]
Resume = Annotated[
    Path | None, typer.Option(metavar="RUN", help="Go on with an interrupted run; flags change its recipe.")
]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-data-change", help="Resume although images were changed, added or removed.")
]
BatchSize = Annotated[str | None, typer.Option(help="Images per step, or auto.")]
Patience = Annotated[int | None, typer.Option(help="Stop after so many epochs without a better validation figure.")]
Augment = Annotated[
    int | None, typer.Option(help="Augmentation: 0 none, 1 flips and rotation, 2 adds colour, 3 adds blur and noise.")
]
Preview = Annotated[
    Path | None, typer.Option(metavar="FILE.png", help="Write a picture of what training would see, and stop.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any recipe key, e.g. train.lr=0.01.")
]
ModelName = Annotated[str | None, typer.Option(help='Base model, e.g. "convnet(32,64,128)"; see `edgewise models`.')]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Start from weights: .safetensors, .pth, a model folder or a run."),
]
Size = Annotated[int | None, typer.Option(help="Side of the square the model sees, in pixels.")]
Epochs = Annotated[int | None, typer.Option(help="Training epochs.")]
Download = Annotated[bool, typer.Option("--download", help="Allow a built-in set to be fetched from the network.")]
Folds = Annotated[int | None, typer.Option(help="Cross-validate on so many folds, 2 to 20.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything that draws.")]


def read_recipe(path: Path | None, flags: dict[str, Any], settings: list[str] | None) -> Recipe:
    """The recipe file, if any, with flags and --set laid over it."""
    from edgewise.architecture import check_architecture
    from edgewise.cli.early import check_early
    from edgewise.written import parse_settings, read_written

    given = {key: value for key, value in flags.items() if value is not None} | parse_settings(settings or [])
    if path is None and "data.source" not in given:
        raise ConfigError(
            "no data", code="C04", fix="give a recipe file, or --data FOLDER (or --data digits for a trial)"
        )
    written = read_written(path, given)
    check_early(written)

    from edgewise.recipe import check_written

    recipe = check_written(written)
    check_architecture(recipe.model)
    return recipe


def check_plans(recipe: Recipe) -> None:
    """Find mistyped plans before anything heavy is imported."""
    from edgewise.compress import check_plan

    for variant in recipe.variants or ():
        check_plan(variant.plan)


def opening_of(force: bool, resume: Path | None, accept_changes: bool) -> Opening:
    """How the run folder is opened; --force and --resume exclude each other."""
    from edgewise.jobs import Opening

    if resume and force:
        raise ConfigError("--force replaces a run and --resume goes on with it", code="C03", fix="use one of them")
    return Opening(force, resume is not None, accept_changes, argv())


def number(text: str | None) -> int | str | None:
    """A whole number where the text is one, else the text."""
    return int(text) if text is not None and text.isdigit() else text


def free_folder(name: str, root: Path = Path("runs")) -> Path:
    """`runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that is not there yet; or so in another folder."""
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
        number += 1


def words(text: str) -> list[str]:
    """The words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def argv() -> list[str]:
    """The command as it was typed, for the records."""
    return ["edgewise", *sys.argv[1:]]


def progress_for(quiet: bool) -> Any:
    """Bars on a terminal, lines elsewhere, nothing when quiet."""
    from edgewise.progress import for_terminal

    return for_terminal(quiet=quiet)


def in_percent(advance: Any) -> Any:
    """A progress of (done, in all) that advances a task of 100 steps."""
    shown = 0

    def on_images(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(1, total)
        advance(percent - shown, f"{done} of {total}")
        shown = percent

    return on_images


def say_next(as_json: bool, *lines: str) -> None:
    """What was written and what to try next; on standard error when standard output carries data."""
    for line in lines:
        print(line, file=sys.stderr if as_json else sys.stdout)
