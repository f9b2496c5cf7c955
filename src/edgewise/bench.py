"""``edgewise bench``: bundles measured on a device, here or behind ssh, kept as one JSON file for each cell."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import Manifest, verify_bundle
from edgewise.data.testing import labelled_images
from edgewise.device import RUNTIMES
from edgewise.device.jobs import ON_BOARD
from edgewise.device.preprocess import BadImage, open_image
from edgewise.errors import ConfigError, UnavailableError, UntrustedError
from edgewise.measure.board import examine, install, refuse
from edgewise.measure.cells import SCHEMA, Cell, cells_of, raw_csv
from edgewise.measure.channel import Channel, connect
from edgewise.measure.protocol import Protocol
from edgewise.measure.session import Candidate, Setting, Taken, TestImages, classify, needed_bytes, send, take
from edgewise.measure.target import Target
from edgewise.progress import Progress, Silent
from edgewise.runs import versions, write_bytes, write_json

PICTURE_PIXELS = 16_000_000
"""About how many decoded pixels of full-size pictures the device holds for the e2e clock."""

PICTURE_BYTES = 32 << 20
"""Most bytes of pictures that are sent for it."""


@dataclass(frozen=True)
class Options:
    """What is measured and where; `threads` may hold "all". `installs` makes an environment on the device."""

    protocol: Protocol
    out: Path
    target: Target | None = None
    threads: tuple[int | str, ...] = (1,)
    pin: bool = False
    images: Path | None = None
    resume: bool = False
    installs: bool = False
    python: str | None = None
    seed: int = 0
    command: str = "edgewise.bench(...)"
    root: str = "/"
    said: dict[str, str] = field(default_factory=dict)


def bench(bundles: Sequence[Path], options: Options, *, progress: Progress | None = None) -> list[Cell]:
    """Measure bundles and write `cells/NAME.json` and `raw/NAME.csv.gz` below `options.out`.

    Args:
        bundles: bundle folders; the first is what the others are compared with.
        options: how and where.
        progress: where to show the rounds.

    Returns:
        The cells, those of an earlier call first.

    Raises:
        ConfigError: C96 to C98, an impossible request.
        UntrustedError: a bundle is not as it was written, or U50, a kept cell is damaged.
        UnavailableError: E90 to E99, the device cannot do it; what was measured before that is kept.
    """
    shown = progress or Silent()
    kept = _kept(options)
    candidates = _candidates(bundles, options)
    if options.installs:
        with connect(options.target, root=options.root) as channel:
            shown.say("making an environment on the device")
            install(channel)
    need = needed_bytes(candidates)
    with connect(options.target, python=options.python, need_bytes=need, root=options.root) as channel:
        device = {**examine(channel), **options.said}
        refuse(device)
        settings = _settings(options, device)
        todo = [setting for setting in settings if not _is_done(kept, candidates, setting, options, device)]
        if not todo:
            shown.say("all cells are there already")
            return kept
        send(channel, candidates)
        return _measure(channel, candidates, todo, options, device, kept, shown)


def _measure(
    channel: Channel,
    candidates: Sequence[Candidate],
    settings: Sequence[Setting],
    options: Options,
    device: dict[str, Any],
    kept: list[Cell],
    progress: Progress,
) -> list[Cell]:
    """All cells, those of `kept` first; bundles that do not run there are left out and named at the end."""
    called, failed, slowest_s = _called(channel, candidates, progress)
    running = [one for one in candidates if one.name in called]
    if not running:
        raise failed[0][1]
    found = list(kept)
    groups = 1 if options.protocol.interleaved else len(running)
    rounds = groups * options.protocol.launches * options.protocol.rounds
    for setting in settings:
        with progress.task(f"{options.protocol.label}, {setting.label}", rounds) as advance:
            taken = take(
                channel,
                running,
                options.protocol,
                setting,
                seed=options.seed,
                start_c=device["state"]["temperature_c"],
                slowest_s=slowest_s,
                root=options.root,
                advance=advance,
            )
        cells = _written(taken, running, setting, options, device, called)
        names = {cell["name"] for cell in cells}
        found = [cell for cell in found if cell["name"] not in names] + cells
        if taken.missing:
            raise UnavailableError(
                "the connection to the device ended",
                code="E97",
                where={"device": channel.place, "kept": options.out},
                why=taken.missing,
                fix="the cells so far are marked incomplete; run the same command with --resume when it is back",
            )
    if failed:
        raise UnavailableError(
            f"{len(failed)} of {len(candidates)} bundles do not run on the device",
            code="E95",
            where={"device": channel.place, "the others are in": options.out},
            why="\n".join(f"{one.name}: {problem.why.splitlines()[-1]}" for one, problem in failed),
            fix="leave them out, or export them for the runtime that is there",
        )
    return found


def _called(
    channel: Channel, candidates: Sequence[Candidate], progress: Progress
) -> tuple[dict[str, NDArray[np.int64]], list[tuple[Candidate, UnavailableError]], float]:
    """What each bundle calls its test images on the device, by name; those that do not run, and why; about how long
    one inference of the slowest takes, in seconds.
    """
    called, failed, slowest_s = {}, [], 0.0
    with progress.task("accuracy on the device", len(candidates)) as advance:
        for one in candidates:
            try:
                start = time.monotonic()
                called[one.name] = classify(channel, one)
                slowest_s = max(slowest_s, (time.monotonic() - start) / len(one.images.labels))
            except UnavailableError as problem:
                if problem.code != "E95":
                    raise
                failed.append((one, problem))
            advance(1, one.name)
    return called, failed, slowest_s


def _written(
    taken: Taken,
    candidates: Sequence[Candidate],
    setting: Setting,
    options: Options,
    device: dict[str, Any],
    called: dict[str, NDArray[np.int64]],
) -> list[Cell]:
    """The cells of one setting, written with their raw samples and the states of the machine."""
    about = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "tool_version": versions().get("edgewise", "not installed"),
        "command": options.command,
        "session": secrets.token_hex(6),
    }
    cells = cells_of(
        taken,
        candidates,
        options.protocol,
        setting,
        device=device,
        called=called,
        about=about,
        seed=options.seed,
    )
    states = options.out / "raw" / f"{about['session']}.states.json"
    write_json(states, [[dataclasses.asdict(state) for state in launch] for launch in taken.states])
    for one, cell in zip(candidates, cells, strict=True):
        cell["states_json"] = str(states.relative_to(options.out))
        raw = options.out / "raw" / f"{cell['name']}.csv.gz"
        write_bytes(raw, raw_csv(taken.timed[one.name]))
        cell["raw_csv"] = str(raw.relative_to(options.out))
        write_json(options.out / "cells" / f"{cell['name']}.json", cell)
    return cells


def _candidates(bundles: Sequence[Path], options: Options) -> list[Candidate]:
    manifests = [verify_bundle(bundle) for bundle in bundles]
    for bundle, manifest in zip(bundles, manifests, strict=True):
        _check_format(bundle, manifest, options.target)
    found = []
    for name, bundle, manifest in zip(_names(bundles), bundles, manifests, strict=True):
        source = options.images or bundle.resolve().parents[1]
        if options.images is None and not (source / "splits.csv").is_file():
            raise ConfigError(
                "no test images known for this bundle",
                code="C97",
                where={"bundle": bundle},
                why="it does not lie in the run that made it, whose saved split would name them",
                fix="add --images RUN or --images FOLDER (one folder for each class); latency needs real images too",
            )
        images = labelled_images(source, manifest.input, manifest.labels, seed=options.seed)
        pictures = _pictures(images.paths)
        found.append(
            Candidate(name, bundle, manifest, TestImages(images.pixels, images.labels, pictures, images.total))
        )
    return found


def _check_format(bundle: Path, manifest: Manifest, target: Target | None) -> None:
    if manifest.format not in RUNTIMES or (target is not None and manifest.format not in ON_BOARD):
        here = target is None
        raise ConfigError(
            f"bundles of format {manifest.format} cannot be measured {'here' if here else 'on a device over ssh'}",
            code="C98",
            where={"bundle": bundle},
            why="there is no runtime for it"
            if here
            else "only onnx and packed run there without edgewise being installed",
            fix="install edgewise on the device and run `edgewise bench` there, or export the bundle as onnx",
        )


def _names(bundles: Sequence[Path]) -> list[str]:
    """A name for each bundle: its folder's, with its run's in front where two are alike."""
    short = [bundle.resolve().name for bundle in bundles]
    names = [
        name if short.count(name) == 1 else f"{bundle.resolve().parents[1].name}-{name}"
        for name, bundle in zip(short, bundles, strict=True)
    ]
    names = [re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names]
    if len(set(names)) < len(names):
        raise ConfigError(
            "a bundle is named twice", code="C98", where={"bundles": ", ".join(names)}, fix="name each one once"
        )
    return names


def _pictures(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Some of the files as they are stored, for the e2e clock; a big picture costs memory on the device."""
    chosen: list[Path] = []
    pixels = size = 0
    for path in paths[:64]:
        try:
            image = open_image(path)
        except BadImage:
            continue
        pixels += image.width * image.height
        size += path.stat().st_size
        if chosen and (pixels > PICTURE_PIXELS or size > PICTURE_BYTES):
            break
        chosen.append(path)
    return tuple(chosen)


def _settings(options: Options, device: dict[str, Any]) -> list[Setting]:
    cores = device["machine"]["cores_physical"]
    counts = list(dict.fromkeys(cores if one == "all" else int(one) for one in options.threads))
    return [Setting(count, pinned) for count in counts for pinned in ((False, True) if options.pin else (False,))]


def _kept(options: Options) -> list[Cell]:
    """The cells of an earlier call.

    Raises:
        ConfigError: C98, there are some and nothing was said of resuming.
        UntrustedError: U50, one cannot be read.
    """
    files = sorted((options.out / "cells").glob("*.json"))
    if files and not options.resume:
        raise ConfigError(
            "there are cells of an earlier bench here",
            code="C98",
            where={"folder": options.out},
            fix="go on with it by --resume, or choose another --out",
        )
    return [read_cell(path) for path in files]


def read_cell(path: Path) -> Cell:
    """Read one cell.

    Raises:
        UntrustedError: U50, it is not one, or of another layout version.
    """
    try:
        cell: Cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["schema"] != SCHEMA or not {"name", "device", "runtime", "latency_ms", "valid"} <= set(cell):
            raise ValueError(f"layout version {cell['schema']}; this edgewise reads {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UntrustedError(
            "not a cell of a bench",
            code="U50",
            where={"file": path},
            why=f"{type(problem).__name__}: {problem}",
            fix="remove the file; --resume measures that cell again",
        ) from problem
    return cell


def _is_done(
    kept: Sequence[Cell],
    candidates: Sequence[Candidate],
    setting: Setting,
    options: Options,
    device: dict[str, Any],
) -> bool:
    """Whether every cell of a setting was taken whole: the same files and protocol on the same machine."""
    known = {cell["name"]: cell for cell in kept}
    for one in candidates:
        cell = known.get(f"{one.name}-{setting.label}")
        if (
            cell is None
            or not cell.get("complete")
            or cell["model"]["sha256"] != one.manifest.files[one.manifest.model_file]
            or cell["protocol"]["mode"] != options.protocol.label
            or cell["protocol"]["images_sha256"] != one.images.sha256
            or _place(cell) != (device["where"], *(device["machine"][key] for key in ("cpu", "kernel", "governor")))
            or cell["runtime"]["python"] != device["python"]
            or cell["runtime"]["runtime_package"] != device["packages"]["onnxruntime"].get("version")
        ):
            return False
    return True


def _place(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell["device"][key] for key in ("where", "soc", "kernel", "governor"))


__all__ = ["Options", "bench", "read_cell"]
