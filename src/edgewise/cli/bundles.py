"""Commands about bundles: pack, unpack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, say_next


def pack(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: the folder's name with .zip.")] = None,
    json_: Json = False,
) -> None:
    """Write a bundle as one zip file; the same bundle gives the same bytes."""
    from edgewise.archive import pack as pack_bundle

    target = out or Path(bundle.resolve().name + ".zip")
    manifest = pack_bundle(bundle, target)
    if json_:
        print(json.dumps({"file": str(target), "bytes": target.stat().st_size, "name": manifest.name}))
    say_next(json_, f"{target}  {target.stat().st_size:,} bytes", f"next: edgewise verify {target}")


def unpack(
    archive: Annotated[Path, typer.Argument(metavar="FILE.zip", help="Archive written by `edgewise pack`.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: the file's name without .zip.")] = None,
    json_: Json = False,
) -> None:
    """Unpack an archive of a bundle, once it is known to be one and unchanged."""
    from edgewise.archive import unpack as unpack_bundle

    target = out or Path(archive.stem)
    manifest = unpack_bundle(archive, target)
    if json_:
        print(json.dumps({"bundle": str(target), "name": manifest.name, "files": len(manifest.files) + 1}))
    say_next(json_, f"{target}  {len(manifest.files) + 1} files", f"next: edgewise verify {target}")
