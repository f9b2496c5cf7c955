"""The command line: each command is one public call; every error is one message, one fix, one exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgewise import ranks
from edgewise.errors import ConfigError, EdgewiseError, GateError
from edgewise.interrupt import Interrupted, listen

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewise.pipeline import Opening
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

_TOLD_BY_PROCESS_0 = {"E70", "T01"}
"""Errors that all processes meet together, besides those of configuration."""

data = typer.Typer(help="Know the images before training on them.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data, name="data")

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
        "train.batch_size": _number(batch_size),
        "train.patience": patience,
        "augment.version": augment,
        "variants": [{"plan": text} for text in plan] if plan else None,
        "export.int8": int8,
        "seed": seed,
        "data.download": download or None,
    }
    chosen = _recipe(resume / "recipe.yaml" if resume else recipe, flags, settings)
    _check_names(chosen)
    folder = resume or out or _free_folder(chosen.name)

    from edgewise import pipeline

    if preview:
        _preview(chosen, preview, json_, quiet)
        return
    opening = _opening(force, resume, accept_data_change)
    try:
        result = pipeline.run(chosen, folder, opening=opening, progress=_progress(quiet or json_))
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
        "train.batch_size": _number(batch_size),
        "train.patience": patience,
        "train.folds": folds,
        "augment.version": augment,
        "seed": seed,
        "data.download": download or None,
    }
    chosen = _recipe(resume / "recipe.yaml" if resume else None, flags, settings)
    folder = resume or out or _free_folder(chosen.name)

    from edgewise import pipeline

    if preview:
        _preview(chosen, preview, json_, quiet)
        return
    opening = _opening(force, resume, accept_data_change)
    summary = pipeline.train_model(chosen, folder, opening=opening, progress=_progress(quiet or json_))
    if ranks.rank():
        return
    folder = Path(summary["run"])
    if json_:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    if "folds" in summary:
        _show_folds(summary)
        _next(json_, f"models: {folder / 'model'}", f"next:  edgewise run --data {chosen.data.source}")
        return
    _show_figures(summary)
    page = folder / "explain" / "base" / "explain.html"
    _next(
        json_,
        f"model: {folder / 'model' / 'base'}",
        *([f"page:  {page}"] if page.exists() else []),
        f"next:  edgewise run --data {chosen.data.source}  (compress, export, measure)",
    )


@data.command("check")
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
    recipe = _recipe(None, flags, settings)

    from edgewise.data.check import check_data, require_clean

    with _progress(quiet or json_).task("read images", 100) as advance:
        report = check_data(recipe.data, seed=recipe.seed, progress=_in_percent(advance))
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
    _next(json_, *written, f"next: edgewise {following}")
    if refused and json_:
        raise typer.Exit(refused.exit_code)
    if refused:
        raise refused


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    model: Annotated[str, typer.Option(help="Which of its models: base, or the name of a variant.")] = "base",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a model of a run looks at, where it errs and how far its confidence can be believed."""
    from edgewise import pipeline

    found = pipeline.explain_run(run, model, progress=_progress(quiet or json_))
    if json_:
        print(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
    else:
        from edgewise.report.explanation import summary

        print("\n".join(summary(found)))
    _next(json_, f"page:  {run / 'explain' / model / 'explain.html'}")


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
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for them costs a tenth of a usage error
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug, as_json = len(words) < len(sys.argv) - 1, "--json" in words
    listen()
    try:
        code = app(words, standalone_mode=False) or 0
    except EdgewiseError as problem:
        if debug:
            raise
        code = _report(problem, as_json)
    except Interrupted as stopped:
        how = f"go on with: edgewise {words[0]} --resume {shlex.quote(str(stopped.saved))}" if stopped.saved else ""
        if not ranks.rank():
            print("interrupted" + (f"; the state is saved, {how}" if how else ""), file=sys.stderr)
        code = stopped.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as problem:
        usage = getattr(problem, "format_message", None)
        if usage is None and debug:
            raise
        code = _report(_usage_error(problem, usage()) if usage else _unexpected(problem), as_json)
    sys.exit(code)


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
    if ranks.rank():
        if problem.exit_code != ConfigError.exit_code and problem.code not in _TOLD_BY_PROCESS_0:
            print(f"process {ranks.rank()}: {problem}", file=sys.stderr)
        return problem.exit_code
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


def _opening(force: bool, resume: Path | None, accept_changes: bool) -> Opening:
    from edgewise.pipeline import Opening

    if resume and force:
        raise ConfigError("--force replaces a run and --resume goes on with it", code="C03", fix="use one of them")
    return Opening(force, resume is not None, accept_changes, _argv())


def _preview(recipe: Recipe, path: Path, json_: bool, quiet: bool) -> None:
    from edgewise import pipeline

    pipeline.preview(recipe, path, progress=_progress(quiet or json_))
    _next(json_, f"picture: {path}")


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text


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


def _refusal(check: Callable[[], object]) -> EdgewiseError | None:
    """What a check raises, so that what was found out can be shown first."""
    try:
        check()
    except EdgewiseError as problem:
        return problem
    return None


def _in_percent(advance: Any) -> Any:
    """A progress of (done, in all) that advances a task of 100 steps."""
    shown = 0

    def on_images(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // max(1, total)
        advance(percent - shown, f"{done} of {total}")
        shown = percent

    return on_images


def _show_results(results: list[Any], as_json: bool) -> None:
    from edgewise.report import comparison, print_table

    if as_json:
        print(json.dumps(comparison(results), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    print_table(results, Console())


def _show_figures(summary: dict[str, Any]) -> None:
    for split in ("validation", "test"):
        accuracy, f1 = summary[split]["accuracy"], summary[split]["macro_f1"]
        print(f"{split:10}  accuracy {_interval(accuracy)}  macro F1 {_interval(f1)}  n {accuracy['n']}")
        clean = summary[f"{split}_clean"]
        if clean:
            accuracy, f1 = clean["accuracy"], clean["macro_f1"]
            copies = f"n {accuracy['n']}, without copies of training images"
            print(f"{'':10}  accuracy {_interval(accuracy)}  macro F1 {_interval(f1)}  {copies}")


def _show_folds(summary: dict[str, Any]) -> None:
    """A line per fold, then mean, standard deviation and 95 % interval."""
    keys = [(split, key) for split in ("validation", "test") for key in ("macro_f1", "accuracy")]
    titles = [f"{split} {'macro F1' if key == 'macro_f1' else key}" for split, key in keys]
    print("fold".ljust(8) + "".join(title.rjust(22) for title in titles))
    for number, fold in enumerate(summary["folds"], 1):
        cells = (f"{fold[split][key]['value']:.2%}" for split, key in keys)
        print(str(number).ljust(8) + "".join(cell.rjust(22) for cell in cells))
    spreads = [summary[split][key] for split, key in keys]
    print("mean ±sd" + "".join(f"{found['mean']:.2%} ±{found['sd']:.2%}".rjust(22) for found in spreads))
    print("95 %".ljust(8) + "".join(f"[{found['low']:.2%}, {found['high']:.2%}]".rjust(22) for found in spreads))


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2%} [{estimate['low']:.2%}, {estimate['high']:.2%}]"


def _next(as_json: bool, *lines: str) -> None:
    """What was written and what to try next; on standard error when standard output carries data."""
    for line in lines:
        print(line, file=sys.stderr if as_json else sys.stdout)
