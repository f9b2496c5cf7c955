"""Commands that only look: models, profile, compare, verify, doctor, recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.bench import SshConfig
from edgewise.cli.options import Json, say_next
from edgewise.cli.show import show_results


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
    say_next(json_, f"{len(entries)} models", "next: edgewise profile NAME... --classes N --size PX")


def profile(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, e.g. 'convnet(32,64,128)' resnet18.")],
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 2,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of the square image, in pixels.")] = 224,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 for gray, 3 for RGB.")] = 3,
    json_: Json = False,
) -> None:
    """Count parameters, multiply-adds and bytes of models."""
    from edgewise.cli.early import check_models

    check_models(names)

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


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    json_: Json = False,
) -> None:
    """Show the variants of one or several runs side by side."""
    from edgewise.results import read_result

    show_results([read_result(folder / "results.json") for folder in folders], json_)
    say_next(json_, f"reports: {', '.join(str(folder / 'report.html') for folder in folders)}")


def verify(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders, archives of bundles or ONNX files.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="For an ONNX file without its labels: a text file, one label a line.")
    ] = None,
    json_: Json = False,
) -> None:
    """Check that a bundle is as it was written and that its runtime opens it."""
    from edgewise.device.check import check

    facts = [check(bundle, labels) for bundle in bundles]
    if json_:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for fact in facts:
        runtime = f"{fact['runtime']} {fact['version']}"
        files = f"{fact['files']} files, " if "files" in fact else ""
        print(f"ok  {fact.get('bundle', fact.get('model'))}  {files}{fact['classes']} classes, opens in {runtime}")


def doctor(
    on: Annotated[
        str | None, typer.Option(metavar="ssh://USER@HOST[:PORT]", help="Look at that device instead of this machine.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="The python3 to look at on the device.")] = None,
    ssh_config: SshConfig = None,
    json_: Json = False,
) -> None:
    """Say what works on this machine, or on a device, and what to install for the rest."""
    from edgewise.doctor import examine, examine_device

    report = examine_device(on, ssh_config, python) if on else examine()
    if json_:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return
    for check in report["checks"]:
        print(f"{'ok ' if check['ok'] else 'NO '} {check['name']:28} {check['detail']}")
    for key, value in report["machine"].items():
        if value not in (None, ""):
            print(f"    {key:28} {value}")


def show_recipe() -> None:
    """Print a complete recipe with every key, its default and its meaning."""
    from edgewise.recipe import example

    print(example(), end="")
