"""The command that fills class folders from a camera: capture."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise.cli.live import Camera
from edgewise.cli.options import Json, Quiet, say_next
from edgewise.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    camera: Camera = "640x480@30",
    headless: Annotated[bool, typer.Option("--headless", help="Show no window.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fill the folder of a class from a camera or a video; pictures that are nearly the same are passed over."""
    from edgewise.live import fill
    from edgewise.live.sources import open_source
    from edgewise.live.wanted import parse_wanted

    fill.check_label(label)
    opened = open_source(source, parse_wanted(camera))
    with _shown(headless, quiet or json_) as show:
        found = fill.capture(opened, folder, label, count=count, every=every, difference=difference, show=show)
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


@contextlib.contextmanager
def _shown(headless: bool, quiet: bool) -> Iterator[Callable[[Pixels, Captured], bool]]:
    """What is done with each frame: a window where one is wanted, and a line a second on standard error.

    q ends it, in the window or in the terminal.
    """
    from edgewise.live.window import keys, open_window, why_no_window

    why = "" if headless else why_no_window()
    if why and not quiet:
        print(f"no window: {why}; going on headless", file=sys.stderr)
    window = None if headless or why else open_window()
    said = time.monotonic()
    with keys() as quit_pressed:

        def show(pixels: Pixels, so_far: Captured) -> bool:
            nonlocal said
            if not quiet and time.monotonic() - said >= SECOND:
                said = time.monotonic()
                told = f"{len(so_far.written)} written, {so_far.alike} alike, {so_far.frames} frames"
                print(told, file=sys.stderr, flush=True)
            return (window is None or window.show(pixels)) and not quit_pressed()

        try:
            yield show
        finally:
            if window:
                window.close()
