"""The command that writes a bundle as a web page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, say_next


def web(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder of format onnx.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    runtime: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="onnxruntime-web: its npm package, unpacked or as .tgz; default: the cache."),
    ] = None,
    sample: Annotated[
        list[Path] | None, typer.Option(metavar="IMAGE", help="A picture to offer on the page; may be repeated.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Allow onnxruntime-web to be fetched from the npm registry.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the web page that stands in the folder.")] = False,
    json_: Json = False,
) -> None:
    """Write a bundle as a web page that classifies camera and pictures offline."""
    from edgewise.export.web import write_web

    written = write_web(bundle, out, runtime=runtime, samples=sample or (), download=download, force=force)
    if json_:
        facts = {**dataclasses.asdict(written), "folder": str(out), "total_bytes": written.total_bytes}
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    size = f"{len(written.files)} files, {written.total_bytes / 1e6:.1f} MB, of which {written.runtime} is "
    size += f"{sum(n for name, n in written.files.items() if name.startswith('onnxruntime/')) / 1e6:.1f} MB"
    say_next(
        json_,
        *(f"note: {note}" for note in written.notes),
        f"page: {out}  ({size})",
        f"next: python3 -m http.server --bind 127.0.0.1 --directory {out} 8000   then open http://127.0.0.1:8000/",
    )
