"""Commands that look at the images: data check, data explore."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise.cli.early import check_models
from edgewise.cli.options import (
    Download,
    Json,
    Quiet,
    Seed,
    Set,
    Size,
    Source,
    Weights,
    in_percent,
    progress_for,
    read_recipe,
    say_next,
)
from edgewise.errors import EdgewiseError

if TYPE_CHECKING:
    from collections.abc import Callable


def data_check(
    source: Source,
    csv: Annotated[Path | None, typer.Option(help="Write a CSV file with a row for each image.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write an offline page with contact sheets.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 on conflicts, leakage or bad files.")] = False,
    seed: Seed = None,
    settings: Set = None,
    download: Download = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Report bad, blurry and dark images, copies, leakage between splits, label conflicts and small classes."""
    flags = {"data.source": source, "seed": seed, "data.download": download or None}
    recipe = read_recipe(None, flags, settings)

    from edgewise.data.check import check_data, require_clean

    with progress_for(quiet or json_).task("read images", 100) as advance:
        report = check_data(recipe.data, seed=recipe.seed, progress=in_percent(advance))
    refused = _refusal(lambda: require_clean(report, recipe.data)) if strict else None
    if json_:
        told = report.as_dict() | ({"refused": refused.as_dict()} if refused else {})
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        from rich.console import Console

        from edgewise.report.data_page import print_data

        print_data(report.facts, Console())
    if csv:
        from edgewise.report.data_page import write_data_csv

        write_data_csv(report.as_dict()["images"], csv)
    if html:
        from edgewise.data.sheets import contact_sheets
        from edgewise.report.data_page import write_data_page

        write_data_page(report.facts, contact_sheets(report, recipe.data), report.place, html)
    following = f"run --data {source}" if html else f"data check {source} --html check.html  (pictures of all this)"
    written = [f"{kind}: {path}" for kind, path in (("images", csv), ("page", html)) if path]
    say_next(json_, *written, f"next: edgewise {following}")
    if refused and json_:
        raise typer.Exit(refused.exit_code)
    if refused:
        raise refused


def explore_data(
    source: Source,
    model: Annotated[
        str | None,
        typer.Option(help="Compare features of this model: a name, a model folder or a run; default: pixels."),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    seed: Seed = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row per image to this file, doubtful labels first.")] = None,
    settings: Set = None,
    download: Download = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show whether classes can be told apart and which labels look wrong."""
    flags = {"data.source": source, "data.size": size, "seed": seed, "data.download": download or None}
    check_models([model] if model else [])
    chosen = read_recipe(None, flags, settings)

    from edgewise.data.explore import explore

    found = explore(chosen.data, model=model, weights=weights, seed=chosen.seed, progress=progress_for(quiet or json_))
    if html:
        found.write_html(html)
    if csv:
        found.write_csv(csv)
    if json_:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    else:
        from edgewise.report.explore import lines

        print("\n".join(lines(found.as_dict())))
    from edgewise.models.features import offered

    better = offered() if model is None else None
    say_next(
        json_,
        *([f"page: {html}"] if html else []),
        *([f"rows: {csv}"] if csv else []),
        *([] if html else [f"next: edgewise data explore {source} --html explore.html"]),
        *([f"next: edgewise data explore {source} {better}  (features learnt on ImageNet)"] if better else []),
    )


def _refusal(check: Callable[[], object]) -> EdgewiseError | None:
    """What a check raises, so that what was found out can be shown first."""
    try:
        check()
    except EdgewiseError as problem:
        return problem
    return None
