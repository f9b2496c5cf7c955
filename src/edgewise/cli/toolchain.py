"""`edgewise toolchain`: environments for converters that cannot live beside edgewise."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from edgewise.cli.options import Json, say_next

Name = Annotated[str, typer.Argument(metavar="NAME", help="A toolchain; `edgewise toolchain list` shows them.")]


def toolchain_list(json_: Json = False) -> None:
    """Show the toolchains, what they are for and which are installed."""
    from edgewise.export.toolchain import TOOLCHAINS

    rows = [_row(name) for name in TOOLCHAINS]
    if json_:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        there = f"installed, {row['disk_bytes'] // 10**6} MB" if row["installed"] else f"{row['disk_mb']} MB of disk"
        print(f"{row['name']:12} {there:22} {row['purpose']}")
        if row["stale"]:
            print(f"{'':12} out of date: {row['stale']}; edgewise toolchain install {row['name']}")
    say_next(json_, "next: edgewise toolchain install NAME")


def toolchain_install(name: Name, json_: Json = False) -> None:
    """Make the environment of a toolchain from pinned packages; asks the package index of pip, never anything else."""
    from edgewise.export.toolchain import find, install, root

    wanted = find(name)
    print(
        f"{wanted.name}: {wanted.purpose}; "
        f"about {wanted.download_mb} MB to fetch, {wanted.disk_mb} MB on disk in {root()}",
        file=sys.stderr,
    )
    install(wanted, lambda line: print(line, file=sys.stderr))
    row = _row(name)
    if json_:
        print(json.dumps(row, indent=1))
    say_next(json_, f"installed: {row['folder']}, {row['disk_bytes'] // 10**6} MB", "next: edgewise export RUN")


def toolchain_remove(name: Name, json_: Json = False) -> None:
    """Delete the environment of a toolchain."""
    from edgewise.export.toolchain import find, remove

    freed = remove(find(name))
    if json_:
        print(json.dumps({"name": name, "freed_bytes": freed}))
    told = f"removed: {name}, {freed // 10**6} MB" if freed else f"{name} was not installed"
    say_next(json_, told, f"next: edgewise toolchain install {name}")


def _row(name: str) -> dict[str, Any]:
    from edgewise.export.toolchain import find, state

    wanted = find(name)
    now = state(wanted)
    return {
        "name": name,
        "purpose": wanted.purpose,
        "installed": now.installed,
        "stale": now.stale,
        "folder": str(now.folder),
        "disk_bytes": now.disk_bytes,
        "download_mb": wanted.download_mb,
        "disk_mb": wanted.disk_mb,
        "packages": list(wanted.packages),
    }
