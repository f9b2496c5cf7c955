"""One session of ``edgewise bench``: what is asked of `edgewise.device.jobs` on a device, and what comes back.

A session is all bundles at one number of threads. Nothing is judged here; see `edgewise.measure.cells`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import Manifest
from edgewise.device import Pixels
from edgewise.errors import EdgewiseError, UnavailableError
from edgewise.measure import machine
from edgewise.measure.channel import Channel
from edgewise.measure.latency import IMAGES, orders_of
from edgewise.measure.protocol import EnergyPlan, Protocol
from edgewise.progress import Advance

COLD_RUNS = 20
"""Inferences of a cold start before its peak memory is read."""

SLACK_S = 120.0
"""Time that a job may take besides what it measures: loading, warming up, a slow disk."""

WARMER_C = 3.0
"""A cell begins when the device is at most so much warmer than it was at first."""

Samples = list[NDArray[np.int64]]


@dataclass(frozen=True)
class TestImages:
    """What a bundle is measured on.

    `pixels` are uint8 (N, height, width, channels) at the model's size, `labels` int64 (N,), `pictures` some of the
    files as they are stored, for the e2e clock; `total` is the number of test images that `pixels` were drawn from.
    """

    __test__ = False  # not a test, whatever its name looks like to pytest

    pixels: Pixels
    labels: NDArray[np.int64]
    pictures: tuple[Path, ...] = ()
    total: int = 0

    @property
    def sha256(self) -> str:
        """Of the pixels and labels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes() + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """A bundle to measure; `name` is unique in the session."""

    name: str
    folder: Path
    manifest: Manifest
    images: TestImages


@dataclass(frozen=True)
class Setting:
    """Threads of the runtime, and whether the process is kept on so many of the fastest cores."""

    threads: int
    pinned: bool = False

    @property
    def label(self) -> str:
        """``t2`` or ``t2-pinned``."""
        return f"t{self.threads}{'-pinned' if self.pinned else ''}"


@dataclass
class Timed:
    """The samples of one bundle in ns: of each launch the blocks in their order. `again` is the second series of the
    reference, empty for the others."""

    model: list[Samples] = field(default_factory=list)
    e2e: list[Samples] = field(default_factory=list)
    again: list[Samples] = field(default_factory=list)
    warm: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass
class Taken:
    """All that one session brought back; `launches` counts the whole ones."""

    timed: dict[str, Timed]
    cold: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    energy: dict[str, dict[str, Any]] = field(default_factory=dict)
    launches: int = 0
    states: list[list[machine.State]] = field(default_factory=list)
    edges: list[tuple[machine.State, machine.State]] = field(default_factory=list)
    about: dict[str, dict[str, Any]] = field(default_factory=dict)
    affinity: list[int] | None = None
    no_e2e: str = ""
    missing: str = ""


@dataclass(frozen=True)
class _More:
    """What a launch needs to know besides."""

    root: str
    slowest_s: float
    advance: Advance


def send(channel: Channel, candidates: Sequence[Candidate]) -> None:
    """Put models, images and pictures into the folder on the device; images that are shared go once."""
    sent: set[str] = set()
    for one in candidates:
        for file in (one.manifest.model_file, *one.manifest.sidecars):
            channel.put(f"models/{one.name}/{file}", (one.folder / file).read_bytes())
        name = _image_file(one)
        if name not in sent:
            stream = io.BytesIO()
            np.save(stream, np.ascontiguousarray(one.images.pixels), allow_pickle=False)
            channel.put(name, stream.getvalue())
        for picture, path in zip(_picture_files(one), one.images.pictures, strict=True):
            if picture not in sent:
                channel.put(picture, path.read_bytes())
        sent |= {name, *_picture_files(one)}


def needed_bytes(candidates: Sequence[Candidate]) -> int:
    """About how much room `send` needs."""
    models = sum((one.folder / name).stat().st_size for one in candidates for name in one.manifest.files)
    images = {_image_file(one): one.images.pixels.nbytes for one in candidates}
    return (
        models + sum(images.values()) + sum(path.stat().st_size for one in candidates for path in one.images.pictures)
    )


def classify(channel: Channel, one: Candidate) -> NDArray[np.int64]:
    """The class that the bundle calls each of its test images on the device, int64 (N,)."""
    seconds = SLACK_S + len(one.images.labels) * 2.0
    lines = _job(channel, "answers", {"subjects": [_subject(one)], "threads": 1}, seconds)[0]
    called = unpack(lines[-1]["called"])
    if len(called) != len(one.images.labels):
        raise _broken(channel, f"{len(called)} answers for {len(one.images.labels)} images")
    return called


def take(
    channel: Channel,
    candidates: Sequence[Candidate],
    protocol: Protocol,
    setting: Setting,
    *,
    seed: int,
    start_c: float | None,
    slowest_s: float = 0.0,
    root: str = "/",
    advance: Advance,
) -> Taken:
    """Measure all candidates at one setting.

    A connection that ends in the middle leaves what was taken, with the reason in `missing`.

    Args:
        channel: the device, to which `send` has sent the candidates.
        candidates: the first is the reference.
        protocol: how long.
        setting: threads and affinity.
        seed: of the order.
        start_c: temperature of the device at first, None where it has no sensor.
        slowest_s: about how long one inference of the slowest candidate takes; a job may take accordingly long.
        root: of the files that tell about the machine.
        advance: called with (1, note) after each round.

    Raises:
        EdgewiseError: before anything was taken.
    """
    taken = Taken({one.name: Timed() for one in candidates})
    more = _More(root, slowest_s, advance)
    groups = [list(candidates)] if protocol.interleaved else [[one] for one in candidates]
    try:
        for number, group in enumerate(groups):
            for launch in range(protocol.launches):
                _cool(channel, protocol, start_c)
                random = np.random.default_rng([seed, setting.threads, number, launch])
                _launch(channel, group, protocol, setting, random, taken, more)
            taken.launches = protocol.launches
        for one in candidates:
            job = {"subjects": [_subject(one)], "runs": COLD_RUNS, **_setting(setting)}
            taken.cold[one.name] = [
                _job(channel, "cold", job, SLACK_S + 60, "@now")[0][-1] for _ in range(protocol.cold)
            ]
            advance(0, f"cold starts of {one.name}")
        if protocol.energy is not None:
            for one in candidates:
                taken.energy[one.name] = _energy(channel, one, protocol.energy, setting)
                advance(0, f"energy of {one.name}")
    except EdgewiseError as problem:
        if problem.code not in ("E97", "E98") or not any(one.model for one in taken.timed.values()):
            raise
        taken.missing = f"incomplete: {problem.what} after {taken.launches} of {protocol.launches} launches"
    return taken


def unpack(text: str) -> NDArray[np.int64]:
    """The whole numbers of an answer."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i8").astype(np.int64)


def _launch(
    channel: Channel,
    group: Sequence[Candidate],
    protocol: Protocol,
    setting: Setting,
    random: np.random.Generator,
    taken: Taken,
    more: _More,
) -> None:
    """One process that times all candidates of a group; its blocks are added as they come."""
    series = [
        (one.name, again) for index, one in enumerate(group) for again in ([False, True] if not index else [False])
    ]
    if not protocol.interleaved:
        series = series[:1]
    stores: list[dict[str, Samples]] = []
    for name, again in series:
        store: dict[str, Samples] = {"model": [], "e2e": []}
        stores.append(store)
        (taken.timed[name].again if again else taken.timed[name].model).append(store["model"])
        if not again:
            taken.timed[name].e2e.append(store["e2e"])

    def on_line(line: dict[str, Any]) -> None:
        for index, clock, block in line.get("blocks", ()):
            stores[index][clock].append(unpack(block))
        if "blocks" in line or "round" in line:
            more.advance(1 if "round" in line or protocol.block_s >= 1 else 0, setting.label)

    block = {"least": protocol.least_block, "ns": protocol.block_s * 1e9, "most": protocol.most_block or 1 << 60}
    job = {
        "subjects": [
            {**_subject(one), "reference": protocol.interleaved and not index} for index, one in enumerate(group)
        ],
        "orders": orders_of(len(series), protocol.rounds, random),
        "block": block,
        "warm": {"least_ns": protocol.warm_s * 1e9, "cap_ns": protocol.warm_cap_s * 1e9},
        "e2e": protocol.e2e,
        "stream": protocol.block_s >= 1,
        "root": more.root,
        **_setting(setting),
    }
    clocks = 2 if protocol.e2e else 1
    longest_s = max(protocol.block_s, protocol.least_block * more.slowest_s)
    seconds = SLACK_S + len(series) * (2 * protocol.warm_cap_s + 4 * clocks * longest_s * protocol.rounds)
    lines, ended = _job(channel, "measure", job, seconds, on_line=on_line)
    facts: dict[str, Any] = {}
    for line in lines:
        facts.update(line)
    for (name, again), warm in zip(series, facts["warm"], strict=True):
        if not again:
            taken.timed[name].warm.append(unpack(warm))
    during = [one for one in ended["states"] if facts["began"] <= one.pop("t") <= facts["ended"]]
    taken.states.append([machine.state_of(one) for one in during])
    taken.edges.append((machine.state_of(facts["before"]), machine.state_of(facts["after"])))
    taken.about.update(facts["described"])
    taken.affinity = facts["affinity"] if setting.pinned else None
    taken.no_e2e = facts["no_e2e"]
    taken.launches += 1


def _energy(channel: Channel, one: Candidate, plan: EnergyPlan, setting: Setting) -> dict[str, Any]:
    """Power while nothing is done, at full pace and at a camera's pace; raw, see `edgewise.measure.energy`."""
    source = channel.ask("facts")["power"]
    if source["source"] is None:
        return {"source": None, "why": source["why"]}
    job = {"subjects": [_subject(one)], **_setting(setting)}
    before = channel.ask("wait", plan.idle_s + SLACK_S, seconds=plan.idle_s, power=True)["energy"]
    full = {**job, "seconds": plan.block_s, "blocks": plan.blocks, "per_second": None}
    fast, fast_end = _job(channel, "pace", full, SLACK_S + 2 * plan.block_s * plan.blocks, power=True)
    slow, slow_end = [], {"energy": []}  # type: tuple[list[dict[str, Any]], dict[str, Any]]
    if plan.per_second:
        paced = {**job, "seconds": plan.paced_s, "blocks": 1, "per_second": plan.per_second}
        slow, slow_end = _job(channel, "pace", paced, SLACK_S + 2 * plan.paced_s, power=True)
    after = channel.ask("wait", plan.idle_s + SLACK_S, seconds=plan.idle_s, power=True)["energy"]
    return {
        **source,
        "idle": [before, after],
        "full": {"energy": fast_end["energy"], "blocks": fast[-1]["paced"]},
        "paced": {"energy": slow_end["energy"], "blocks": slow[-1]["paced"] if slow else []},
        "per_second": plan.per_second,
    }


def _cool(channel: Channel, protocol: Protocol, start_c: float | None) -> None:
    if start_c is not None and protocol.cool_s > 0:
        channel.ask("cool", protocol.cool_s + SLACK_S, celsius=start_c + WARMER_C, seconds=protocol.cool_s)


def _setting(setting: Setting) -> dict[str, Any]:
    return {"threads": setting.threads, "pin": setting.pinned}


def _subject(one: Candidate) -> dict[str, Any]:
    return {
        "name": one.name,
        "format": one.manifest.format,
        "file": f"models/{one.name}/{one.manifest.model_file}",
        "images": _image_file(one),
        "pictures": _picture_files(one),
        "distinct": IMAGES,
        "preprocessing": one.manifest.input.preprocessing(),
    }


def _image_file(one: Candidate) -> str:
    return f"images/{one.images.sha256[:16]}.npy"


def _picture_files(one: Candidate) -> list[str]:
    names = [hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest() for path in one.images.pictures]
    return [f"pictures/{name[:16]}" for name in names]


def _job(
    channel: Channel,
    what: str,
    job: dict[str, Any],
    seconds: float,
    *words: str,
    power: bool = False,
    on_line: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run a job to its end.

    Raises:
        UnavailableError: E95 it was killed by a signal or failed, E98 it took too long or answered nothing.
    """
    channel.put("job.json", json.dumps(job).encode("utf-8"))
    lines, ended = channel.run([what, "job.json", *words], seconds, power=power, on_line=on_line)
    if ended["timed_out"]:
        raise _broken(channel, f"{what} did not end within {seconds:.0f} s")
    if ended["code"] != 0:
        raise job_failure(channel.place, what, ended["code"], ended["stderr"])
    if not lines:
        raise _broken(channel, f"{what} answered nothing")
    return lines, ended


def job_failure(place: str, what: str, code: int, stderr: str) -> UnavailableError:
    """What it means that a job ended with this exit code, below 0 for a signal."""
    why, fix = (
        "\n".join(stderr.strip().splitlines()[-5:]) or f"exit code {code}",
        "the words above are the device's own",
    )
    if code < 0:
        name = signal.Signals(-code).name
        why = f"killed by {name}"
        if name == "SIGILL":
            fix = (
                "this build of a package uses instructions that this CPU does not have (onnxruntime for ARM needs "
                "ARMv8.2 since 1.19): pip install 'onnxruntime<1.19' in an environment of that device, "
                "and OPENBLAS_CORETYPE=ARMV8 for old numpy"
            )
        elif name == "SIGKILL":
            fix = "most likely the device ran out of memory; take a smaller model or image size"
        else:
            fix = f"run it by hand there; {what} is what failed"
    return UnavailableError(f"{what} failed on the device", code="E95", where={"device": place}, why=why, fix=fix)


def _broken(channel: Channel, why: str) -> UnavailableError:
    return UnavailableError(
        "the program on the device does not do as it should",
        code="E98",
        where={"device": channel.place},
        why=why,
        fix="try again; if it stays so, run `edgewise doctor --on` with that device",
    )
