"""The command that fills class folders from a camera: capture."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise.cli.options import Json, Quiet, say_next
from edgewise.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewise.device import Pixels
    from edgewise.live.fill import Captured

SECOND = 1.0


def capture(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Data folder, a folder for each class in it.")],
    label: Annotated[str, typer.Option("--class", help="Class that the camera sees; its folder is made.")],
    source: Annotated[
        str,
        typer.Option(help="usb:0, csi:0, picamera, rtsp://HOST/PATH, gst:PIPELINE, synthetic, a video or a folder."),
    ] = "usb:0",
    count: Annotated[int | None, typer.Option(min=1, help="Pictures to write; default: until Ctrl-C.")] = None,
    every: Annotated[float, typer.Option(min=0, help="Least seconds between two pictures of a camera.")] = 0.5,
    difference: Annotated[
        float, typer.Option(min=0, help="Gray levels by which a picture differs from those before; 0 takes all.")
    ] = 3.0,
    headless: Annotated[bool, typer.Option("--headless", help="Show no window.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill the folder of a class from a camera or a video; pictures that are nearly the same are passed over."""
    from edgewise.live import fill
    from edgewise.live.sources import open_source

    fill.check_label(label)
    show = _shown(f"{label}: q ends", headless, quiet or json_)
    found = fill.capture(open_source(source), folder, label, count=count, every=every, difference=difference, show=show)
    if json_:
        facts = {
            **{"class": label, "folder": str(found.folder), "written": [path.name for path in found.written]},
            **{"frames": found.frames, "alike": found.alike, "too_soon": found.too_soon},
            **{"ended": found.ended, "lost": found.lost},
        }
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    said = f"{len(found.written)} of {found.frames} frames; {found.alike} were nearly the same as one before"
    said += f", {found.too_soon} came too soon" if found.too_soon else ""
    say_next(
        json_,
        f"pictures: {found.folder}  ({said})",
        *([f"the camera was lost: {found.lost}"] if found.lost else []),
        f"next: edgewise data check {shlex.quote(str(folder))}",
    )
    if found.lost:
        raise typer.Exit(UnavailableError.exit_code)
    if found.signal is not None:
        raise typer.Exit(128 + found.signal)


def _shown(title: str, headless: bool, quiet: bool) -> Callable[[Pixels, Captured], bool]:
    """What is done with each frame: a window where one is wanted, and a line a second on standard error."""
    from edgewise.live.preview import Preview

    window = None if headless else Preview(title)
    if window and window.problem and not quiet:
        print(f"no window: {window.problem} (--headless asks for none)", file=sys.stderr)
    said = time.monotonic()

    def show(pixels: Pixels, so_far: Captured) -> bool:
        nonlocal said
        told = f"{len(so_far.written)} written, {so_far.alike} alike, {so_far.frames} frames"
        if not quiet and time.monotonic() - said >= SECOND:
            said = time.monotonic()
            print(told, file=sys.stderr, flush=True)
        return window is None or window.show(pixels, told)

    return show
