"""The command line: each command is one public call; every error is one message, one fix, one exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgewise.errors import ConfigError, EdgewiseError, GateError

if TYPE_CHECKING:
    from types import FrameType

    from edgewise.recipe import Recipe

app = typer.Typer(
    name="edgewise",
    help="Labelled images in; the smallest, fastest classifier that still meets your accuracy on your device out.",
    epilog="Every command takes --debug, which shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data = typer.Typer(help="Look at images before anything is trained.", no_args_is_help=True)
app.add_typer(data, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print data as JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Source = Annotated[str, typer.Argument(metavar="DATA", help="Image folder, manifest, digits or fashion-mnist.")]
Out = Annotated[Path | None, typer.Option(help="Run folder to make; default: runs/NAME.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run that stands in the folder.")]
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
Seed = Annotated[int | None, typer.Option(help="Seed of everything that draws.")]


@app.command()
def run(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe file; see `edgewise recipe`.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Image folder, manifest, digits or fashion-mnist.")] = None,
    model: ModelName = None,
    weights: Weights = None,
    size: Size = None,
    epochs: Epochs = None,
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
        "variants": [{"plan": text} for text in plan] if plan else None,
        "export.int8": int8,
        "seed": seed,
        "data.download": download or None,
    }
    chosen = _recipe(recipe, flags, settings)
    _check_names(chosen)
    folder = out or _free_folder(chosen.name)

    from edgewise import pipeline

    try:
        result = pipeline.run(chosen, folder, force=force, argv=_argv(), progress=_progress(quiet or json_))
    except GateError:
        if not json_:
            from edgewise.results import read_result

            _show_results([read_result(folder / "results.json")], as_json=False)
        raise
    _show_results([result], json_)
    _next(
        json_,
        f"report:  {folder / 'report.html'}",
        f"bundles: {folder / 'bundles'}",
        f"try:     python {folder / 'bundles' / str(result.chosen) / 'runner.py'} classify IMAGE",
    )


@app.command()
def train(
    data: Source,
    model: ModelName = None,
    weights: Weights = None,
    size: Size = None,
    epochs: Epochs = None,
    seed: Seed = None,
    out: Out = None,
    settings: Set = None,
    download: Download = False,
    force: Force = False,
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
        "seed": seed,
        "data.download": download or None,
    }
    chosen = _recipe(None, flags, settings)
    folder = out or _free_folder(chosen.name)

    from edgewise import pipeline

    summary = pipeline.train_model(chosen, folder, force=force, argv=_argv(), progress=_progress(quiet or json_))
    if json_:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    for split in ("validation", "test"):
        accuracy, f1 = summary[split]["accuracy"], summary[split]["macro_f1"]
        print(f"{split:10}  accuracy {_interval(accuracy)}  macro F1 {_interval(f1)}  n {accuracy['n']}")
    _next(
        json_, f"model: {folder / 'model' / 'base'}", f"next:  edgewise run --data {data}  (compress, export, measure)"
    )


@data.command("explore")
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
    chosen = _recipe(None, flags, settings)

    from edgewise.data.explore import explore

    found = explore(chosen.data, model=model, weights=weights, seed=chosen.seed, progress=_progress(quiet or json_))
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
    _next(
        json_,
        *([f"page: {html}"] if html else []),
        *([f"rows: {csv}"] if csv else []),
        *([] if html else [f"next: edgewise data explore {source} --html explore.html"]),
        *([f"next: edgewise data explore {source} {better}  (features learnt on ImageNet)"] if better else []),
    )


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Part of a name, or a pattern such as 'mobilenet*'.")] = "",
    json_: Json = False,
) -> None:
    """List the models that can be trained."""
    from edgewise.models import list_models

    entries = list_models(pattern)
    if json_:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=1))
        return
    for entry in entries:
        print(f"{entry.family:12} {entry.name}")
    _next(json_, f"{len(entries)} models", "next: edgewise profile NAME... --classes N --size PX")


@app.command()
def profile(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, e.g. 'convnet(32,64,128)' resnet18.")],
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 2,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of the square image, in pixels.")] = 224,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 for gray, 3 for RGB.")] = 3,
    json_: Json = False,
) -> None:
    """Count parameters, multiply-adds and bytes of models."""
    from edgewise.models import profile as count

    rows = [count(name, classes=classes, size=size, channels=channels) for name in names]
    if json_:
        print(json.dumps(rows, indent=1))
        return
    keys = ["params_total", "params_nonzero", "params_zero", "macs", "flops", "size_bytes"]
    width = max(len("model"), *(len(row["model"]) for row in rows))
    print("model".ljust(width) + "".join(key.rjust(16) for key in keys))
    for row in rows:
        print(row["model"].ljust(width) + "".join(f"{row[key]:,}".rjust(16) for key in keys))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    json_: Json = False,
) -> None:
    """Show the variants of one or several runs side by side."""
    from edgewise.results import read_result

    _show_results([read_result(folder / "results.json") for folder in folders], json_)
    _next(json_, f"reports: {', '.join(str(folder / 'report.html') for folder in folders)}")


@app.command()
def verify(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders.")],
    json_: Json = False,
) -> None:
    """Check that a bundle is as it was written and that its runtime opens it."""
    from edgewise.device.check import check_bundle

    facts = [check_bundle(bundle) for bundle in bundles]
    if json_:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for fact in facts:
        runtime = f"{fact['runtime']} {fact['version']}"
        print(f"ok  {fact['bundle']}  {fact['files']} files, {fact['classes']} classes, opens in {runtime}")


@app.command()
def doctor(json_: Json = False) -> None:
    """Say what works on this machine and what to install for the rest."""
    from edgewise.doctor import examine

    report = examine()
    if json_:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return
    for check in report["checks"]:
        print(f"{'ok ' if check['ok'] else 'NO '} {check['name']:28} {check['detail']}")
    for key, value in report["machine"].items():
        if value not in (None, ""):
            print(f"    {key:28} {value}")


@app.command("recipe")
def show_recipe() -> None:
    """Print a complete recipe with every key, its default and its meaning."""
    from edgewise.recipe import example

    print(example(), end="")


def main() -> NoReturn:
    """The `edgewise` command."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug, as_json = len(words) < len(sys.argv) - 1, "--json" in words
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = app(words, standalone_mode=False) or 0
    except EdgewiseError as problem:
        if debug:
            raise
        code = _report(problem, as_json)
    except _Stopped as stopped:
        print("interrupted; what was finished is kept in the run folder", file=sys.stderr)
        code = 128 + stopped.number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as problem:
        usage = getattr(problem, "format_message", None)
        if usage is None and debug:
            raise
        code = _report(_usage_error(problem, usage()) if usage else _unexpected(problem), as_json)
    sys.exit(code)


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not a KeyboardInterrupt, which typer would turn into an exit code of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _usage_error(problem: Exception, message: str) -> ConfigError:
    context = getattr(problem, "ctx", None)
    command = getattr(context, "command_path", None) or "edgewise"
    first, *rest = message.splitlines()
    return ConfigError(first, code="C03", why="\n".join(rest), fix=f"`{command} --help` lists the flags")


def _unexpected(problem: Exception) -> EdgewiseError:
    return EdgewiseError(
        f"unexpected {type(problem).__name__}",
        code="B01",
        why=str(problem),
        fix="add --debug to see where; please report it with that traceback (a run keeps it in log.txt)",
    )


def _report(problem: EdgewiseError, as_json: bool) -> int:
    if as_json:
        print(json.dumps(problem.as_dict(), indent=1, ensure_ascii=False))
    else:
        print(problem, file=sys.stderr)
    return problem.exit_code


def _recipe(path: Path | None, flags: dict[str, Any], settings: list[str] | None) -> Recipe:
    """The recipe file, if any, with flags and --set laid over it."""
    from edgewise.recipe import load_recipe, parse_settings

    given = {key: value for key, value in flags.items() if value is not None} | parse_settings(settings or [])
    if path is None and "data.source" not in given:
        raise ConfigError(
            "no data", code="C04", fix="give a recipe file, or --data FOLDER (or --data digits for a trial)"
        )
    return load_recipe(path, given)


def _check_names(recipe: Recipe) -> None:
    """Find mistyped plans before anything heavy is imported."""
    from edgewise.compress import check_plan

    for variant in recipe.variants or ():
        check_plan(variant.plan)


def _free_folder(name: str) -> Path:
    """`runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3`, ... that is not there yet."""
    root = Path("runs")
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
        number += 1


def _argv() -> list[str]:
    return ["edgewise", *sys.argv[1:]]


def _progress(quiet: bool) -> Any:
    from edgewise.progress import for_terminal

    return for_terminal(quiet=quiet)


def _show_results(results: list[Any], as_json: bool) -> None:
    from edgewise.report import comparison, print_table

    if as_json:
        print(json.dumps(comparison(results), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    print_table(results, Console())


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2%} [{estimate['low']:.2%}, {estimate['high']:.2%}]"


def _next(as_json: bool, *lines: str) -> None:
    """What was written and what to try next; on standard error when standard output carries data."""
    for line in lines:
        print(line, file=sys.stderr if as_json else sys.stdout)
