"""Commands that write files for devices: export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgewise.cli.options import Json, Quiet, argv, progress_for, say_next, words
from edgewise.errors import ConfigError, ExportError

if TYPE_CHECKING:
    from edgewise.handout import Wanted

AUTO = "auto"
WEB = "web"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Which of its models; may be repeated. Default: the one the run chose.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(help="Formats, e.g. onnx,openvino; web is a page; auto measures all and keeps the fastest here."),
    ] = AUTO,
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8 or several, e.g. fp32,int8. Default: auto tries all.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Opset of ONNX files, 13 to 20.")] = None,
    int8: Annotated[str | None, typer.Option(help="int8 scheme of ONNX files; auto tries each.")] = None,
    precision_of_answers: Annotated[
        float | None,
        typer.Option(
            help="Share of given answers that has to be right, e.g. 0.99; the rest is unknown. Default: 0.95."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of export, e.g. export.int8_method=mse."),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For web: onnxruntime-web, its npm package unpacked or as .tgz."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="For web: allow onnxruntime-web to be fetched from the npm registry.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: exports/1, 2, ... in the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export that stands in the folder.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model of a run in other formats, each checked and timed in its own runtime."""
    flags = {
        "export.opset": opset,
        "export.int8": int8,
        "export.decide.precision": precision_of_answers,
        **_settings(settings or []),
    }
    wanted = _wanted(run, tuple(model or ()), to, precision, flags)

    from edgewise import handout

    if WEB in words(to):
        wanted = dataclasses.replace(wanted, page=handout.Page(runtime, download))
    result, folder = handout.export_run(
        run, wanted, out=out, force=force, argv=argv(), progress=progress_for(quiet or json_)
    )
    kept = [row.bundle for row in result.attempts if row.kept]
    if json_:
        from edgewise.results import to_json

        print(to_json(result), end="")
    else:
        from rich.console import Console

        from edgewise.report.status import print_status

        print_status(result, Console())
    if not kept:
        problem = ExportError(
            "nothing could be handed out",
            code="X11",
            where={"run": run},
            why="the table says for each format and precision what is missing or wrong",
            fix="`edgewise doctor` tells what works here and how to install the rest",
        )
        typer.echo(problem, err=True)
        raise typer.Exit(problem.exit_code)
    say_next(
        json_,
        *(f"bundle: {folder / name}" for name in kept),
        *(f"page:   {page}" for page in sorted(folder.glob(f"*-{WEB}"))),
        f"next:   edgewise verify {folder / kept[0]}  (its README.md tells how to run it)",
    )


def _wanted(run: Path, models: tuple[str, ...], to: str, precision: str | None, flags: dict[str, Any]) -> Wanted:
    """The flags laid over the recipe of the run; what is mistyped is found here, before torch is imported."""
    from edgewise import runs
    from edgewise.recipe import every, load_recipe

    runs.read_run(run)
    formats = words(to)
    if WEB in formats:  # a page is made of an onnx bundle
        formats = list(dict.fromkeys("onnx" if word == WEB else word for word in formats))
    auto = formats == [AUTO]
    if AUTO in formats and not auto:
        raise ConfigError(
            "auto tries all formats and stands alone", code="C92", where={"flag": "--to"}, fix="--to auto, or formats"
        )
    changes = {key: value for key, value in flags.items() if value is not None}
    changes |= {} if auto else {"export.formats": formats}
    changes |= {"export.precisions": words(precision)} if precision is not None else {}
    options = load_recipe(run / "recipe.yaml", {**changes, "data.download": False}).export
    if auto:
        options = every(options, precisions=precision is None)

    from edgewise.handout import Wanted

    return Wanted(models, options, auto)


def _settings(words: list[str]) -> dict[str, Any]:
    from edgewise.written import parse_settings

    values = parse_settings(words)
    for key in values:
        if not key.startswith("export."):
            raise ConfigError(
                "a finished run is only exported: nothing else of it can be changed",
                code="C05",
                where={"--set": key},
                fix="set a key that begins with export., or start a new run",
            )
    return values
