"""The command that serves a bundle, or two side by side, as a page and a REST address."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise.cli.live import Camera
from edgewise.cli.options import Json, say_next

if TYPE_CHECKING:
    from edgewise.serve.server import Ready


def serve(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE [BUNDLE2]", help="Bundle folder; a second one is shown beside it.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than the default opens the server to a network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the first free one from 8000 on.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="EDGEWISE_TOKEN", help="What lets somebody in; default: a random one at each start."),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="A further name under which the server may be asked; may be repeated."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="Show what this machine's camera sees: usb:0, csi:0, picamera, rtsp://..., a video file, a folder of "
            "pictures, or synthetic; default: the page uses the camera of its browser."
        ),
    ] = None,
    detector: Annotated[
        str, typer.Option(help="What finds faces in it: none (whole frames), haar, lbp, yunet:FILE or onnx:FILE.")
    ] = "none",
    every: Annotated[int, typer.Option(min=1, help="Detect at least every so many frames; else follow.")] = 10,
    smooth: Annotated[int, typer.Option(min=1, max=600, help="Average results over so many frames.")] = 1,
    camera: Camera = "640x480@30",
    threads: Annotated[int, typer.Option(min=1, max=256, help="Threads of the runtime.")] = 1,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in this machine's browser.")] = False,
    log: Annotated[bool, typer.Option("--log", help="A line on standard error for each request.")] = False,
    json_: Json = False,
) -> None:
    """Serve a bundle, or two side by side, as a page and a REST address on this machine."""
    from edgewise.serve import check_installed

    check_installed()

    from edgewise.serve.guard import Log
    from edgewise.serve.server import Options, make_ready
    from edgewise.serve.source import Asked

    asked = Asked(source, detector, every, smooth=smooth, camera=camera) if source else None
    options = Options(tuple(bundles), host, port, token, tuple(name or ()), threads, asked)
    ready = make_ready(options, Log(_on_stderr if log else _nowhere, _failed))
    if json_:
        print(json.dumps(_facts(ready), indent=1, ensure_ascii=False), flush=True)
    say_next(json_, *_words(ready))
    if browser and not _opened(ready.url):
        say_next(json_, "note: no browser could be opened here; open the page by its address")
    sys.stdout.flush()
    ready.run()


def _facts(ready: Ready) -> dict[str, object]:
    return {
        "url": ready.url,
        "address": ready.address,
        "token": ready.access.token,
        "port": ready.port,
        "bundles": [opened.title for opened in ready.bundles],
    }


def _words(ready: Ready) -> list[str]:
    names = " and ".join(f"{one.title} ({one.manifest.format} {one.manifest.precision})" for one in ready.bundles)
    if ready.access.addresses:
        who = [
            "warning: this server is open to the network. Whoever has the token can use it, and the connection is not",
            "         encrypted: whoever can listen on the network can read the token and the pictures.",
        ]
    else:
        who = ["only this machine can reach it, and only with the token"]
    return [
        f"serving {names}",
        *who,
        f"page: {ready.url}",
        f"next: curl -H 'Authorization: Bearer {ready.access.token}' --data-binary @picture.jpg "
        f"{ready.address}v1/classify",
        "Ctrl-C ends it",
    ]


def _opened(url: str) -> bool:
    """Whether a browser took the page."""
    import webbrowser

    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False


def _nowhere(_: str) -> None:
    pass


def _failed(text: str) -> None:
    """What a request failed at; the traceback only for those who asked for it."""
    first, _, rest = text.partition("\n")
    _on_stderr(text if "--debug" in sys.argv else f"{first} {rest.rstrip().rpartition(chr(10))[2]}")


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
