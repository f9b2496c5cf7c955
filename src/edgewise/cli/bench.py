"""`edgewise bench`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli.options import Json, Quiet, Seed, argv, free_folder, progress_for, say_next
from edgewise.errors import ConfigError

Device = Annotated[
    str | None, typer.Option(metavar="ssh://USER@HOST[:PORT]", help="Measure there; default: this machine.")
]
SshConfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="ssh configuration to use in place of your own.", exists=True)
]
PROTOCOL_NAMES = ("quick", "standard", "sustained")


def bench(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE...", help="Bundle folders; the first is compared with.")
    ],
    device: Device = None,
    protocol: Annotated[
        str, typer.Option(help="quick (seconds), standard (a minute a clock, 6 launches), sustained (10 minutes).")
    ] = "quick",
    threads: Annotated[str, typer.Option(help="Threads of the runtime, e.g. 1,2,all.")] = "1",
    images: Annotated[
        Path | None, typer.Option(metavar="DIR|RUN", help="Test images; default: those of the run of each bundle.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the cells; default: the next free runs/bench-N.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the cells that are there, measure the missing.")
    ] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="Measure each setting again on fixed cores, as a second series.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Time of each clock; below the protocol's: marked.")
    ] = None,
    launches: Annotated[int | None, typer.Option(min=1, help="Processes; fewer than the protocol's: marked.")] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Make an environment with numpy and onnxruntime in the device's home.")
    ] = False,
    python: Annotated[str | None, typer.Option(help="The python3 to use on the device.")] = None,
    ssh_config: SshConfig = None,
    cooling: Annotated[
        str | None, typer.Option(help="Cooling of the device, for the record: none, heat sink, fan.")
    ] = None,
    psu: Annotated[str | None, typer.Option(help="Power supply of the device, for the record.")] = None,
    seed: Seed = 0,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Measure bundles on a device: latency, memory, energy and accuracy."""
    counts = _threads(threads)
    if protocol not in PROTOCOL_NAMES:
        raise ConfigError(
            f'no protocol "{protocol}"', code="C98", fix=f"one of {', '.join(PROTOCOL_NAMES)}: see docs/bench.md"
        )
    from edgewise.bench import Options
    from edgewise.bench import bench as measure
    from edgewise.measure.protocol import PROTOCOLS, shorten
    from edgewise.measure.target import parse_target
    from edgewise.report.benched import lines

    folder = out or (Path("runs/bench") if resume else free_folder("bench"))
    options = Options(
        protocol=shorten(PROTOCOLS[protocol], seconds, launches),
        out=folder,
        target=parse_target(device, ssh_config) if device else None,
        threads=counts,
        pin=pin,
        images=images,
        resume=resume,
        installs=install,
        python=python,
        seed=seed or 0,
        command=shlex.join(argv()),
        said={key: text for key, text in (("cooling", cooling), ("psu", psu)) if text},
    )
    cells = measure(bundles, options, progress=progress_for(quiet))
    if json_:
        print(json.dumps(cells, indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(cells)))
    say_next(
        json_,
        f"cells: {folder / 'cells'}, samples: {folder / 'raw'}",
        f"next: edgewise bench {' '.join(map(str, bundles))} --protocol standard --out {folder}-standard"
        if protocol == "quick"
        else f"next: edgewise bench ... --resume --out {folder} with another --threads adds cells",
    )


def _threads(text: str) -> tuple[int | str, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word == "all" or (word.isdigit() and 1 <= int(word) <= 256) for word in words):
        raise ConfigError(
            "not numbers of threads",
            code="C98",
            where={"--threads": text},
            fix="for example --threads 1 or --threads 1,2,all",
        )
    return tuple(word if word == "all" else int(word) for word in words)
