"""Two clocks of every model file, taken interleaved so that files can be compared: the quick protocol.

`model` times `session.scores` alone, the pixels ready in memory. `e2e` times what a camera loop does with a decoded
picture: `prepare`, `scores`, `softmax`, the label. Both are single stream, batch 1, on real images.

A session has `ROUNDS` rounds. In each, every series runs one block of consecutive inferences for the model clock and
then one for the e2e clock. The order of the series is drawn with the seed for every even round and reversed in the odd
round after it (ABBA), so a machine that grows slower evenly does so for all alike. The reference runs as two series;
their ratio is the A/A check, and tells how large a difference this session would show where there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.device import RUNTIMES, Pixels, Runtime, Session
from edgewise.device.preprocess import prepare, softmax
from edgewise.device.rounds import (
    WARM_RUNS,
    WARM_WINDOW,
    Length,
    Series,
    run_rounds,
    time_block,
    warm_up,
)
from edgewise.measure import machine
from edgewise.measure.intervals import P90_RUNS, P99_RUNS, median_estimate, ratio_estimate
from edgewise.progress import Advance, Progress, Silent
from edgewise.results import Clock, Estimate, Latency

ROUNDS = 32
"""Rounds of a session: 16 ABBA pairs."""

IMAGES = 64
"""Distinct images that are cycled; all of them where there are fewer."""

WARM_CAP_NS = 1_000_000_000
"""Quick protocol: warming up ends after a second even where the windows do not agree yet."""

DRIFT = 0.05
"""Largest change between the medians of the first and the last quarter of a session."""

SESSIONS = 3
"""So many sessions are held at most where one that was disturbed is held again."""

AA_LEVEL = 0.99
"""Level of the interval in which the reference against itself must hold 1."""


@dataclass(frozen=True)
class Subject:
    """A model file to time; `format` names its runtime."""

    name: str
    path: Path
    format: str


def measure(
    subjects: Sequence[Subject],
    images: Pixels,
    *,
    reference: str | None,
    spec: InputSpec,
    threads: int = 1,
    seconds: float = 2.0,
    seed: int = 0,
    min_runs: int = 100,
    max_runs: int = 1000,
    runtimes: Mapping[str, Runtime] = RUNTIMES,
    clock: Callable[[], int] = time.perf_counter_ns,
    progress: Progress | None = None,
    pictures: Sequence[Image.Image] | None = None,
    snapshot: Callable[[], machine.State] = machine.snapshot,
) -> dict[str, Latency]:
    """Time model files side by side; see the top of this file.

    Args:
        subjects: the files; names are distinct.
        images: real images, uint8 (N, height, width, channels) as `spec` says; a seeded draw of `IMAGES` is used.
        reference: name of the subject that the others are compared with, None for no comparison.
        spec: how `prepare` brings a picture to the model's size.
        threads: of the runtime.
        seconds: time for both clocks of each subject; `min_runs` and `max_runs` come before it.
        seed: of the images, the order and the intervals.
        min_runs: least timed runs of each clock.
        max_runs: most timed runs of each clock, at least `ROUNDS`.
        runtimes: format -> runtime.
        clock: monotonic, in ns.
        progress: where to show the rounds.
        pictures: decoded pictures at their stored size for the e2e clock; default: `images`, which need no scaling.
        snapshot: reads the state of the machine.

    Returns:
        Name -> figures, `load_ms` and `first_ms` left to `edgewise.measure.memory.probe`. The reference's own ratio
        is the A/A ratio.

    Raises:
        ValueError: no subjects or images, equal names, an unknown reference or format, or impossible limits.
        UnavailableError, UntrustedError: a file cannot be loaded.
    """
    _check(subjects, images, reference, spec, min_runs, max_runs, runtimes)
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(images))[:IMAGES]
    batches = [np.ascontiguousarray(images[index : index + 1]) for index in chosen]
    shown = _pictures(pictures, images, chosen, random)
    series = []
    for subject in subjects:
        session = runtimes[subject.format].load(subject.path, threads)
        runs = (_model_run(session, batches), _e2e_run(session, shown, spec))
        series += [
            Series(subject.name, again, *runs) for again in ([False, True] if subject.name == reference else [False])
        ]
    for one in series:
        one.length = Length(_block_runs(_warm_up(one, clock), seconds, min_runs, max_runs))
    before = snapshot()
    with (progress or Silent()).task("time the files", ROUNDS) as advance:
        _run_rounds(series, random, clock, advance)
    return _evaluate(series, reference, threads, machine.reasons(before, snapshot()), seed)


def until_comparable(session: Callable[[int], dict[str, Latency]], reference: str) -> tuple[dict[str, Latency], bool]:
    """Hold sessions, at most `SESSIONS`, until one passes its A/A check.

    Args:
        session: takes the number of the session, from 0, and gives what `measure` gives.
        reference: of these sessions.

    Returns:
        The figures of the last session, and whether it passed.
    """
    timed: dict[str, Latency] = {}
    for number in range(SESSIONS):
        timed = session(number)
        if timed[reference].comparable:
            return timed, True
    return timed, False


def clock_of(blocks: NDArray[np.float64], random: np.random.Generator) -> Clock:
    """The figures of one clock.

    p50 is the median; p90 and p99 are nearest-rank percentiles: the least run that so many percent do not exceed.

    Args:
        blocks: milliseconds, float64 (blocks, runs of a block).
        random: source of the resamples.
    """
    runs = blocks.ravel()
    return Clock(
        n=runs.size,
        p50_ms=median_estimate(blocks, random),
        p90_ms=float(np.percentile(runs, 90, method="inverted_cdf")) if runs.size >= P90_RUNS else None,
        p99_ms=float(np.percentile(runs, 99, method="inverted_cdf")) if runs.size >= P99_RUNS else None,
        mean_ms=float(runs.mean()),
        sd_ms=float(runs.std(ddof=1)),
        min_ms=float(runs.min()),
    )


def drift(blocks: Sequence[NDArray[np.float64]] | NDArray[np.float64], name: str) -> list[str]:
    """The reason why a clock is invalid when its first and last quarters differ by more than `DRIFT`, else nothing.

    Args:
        blocks: milliseconds, each float64 (runs of the block,), in the order they ran; at least 4 blocks.
        name: of the clock.
    """
    quarter = len(blocks) // 4
    start, end = (float(np.median(np.concatenate(part))) for part in (blocks[:quarter], blocks[-quarter:]))
    return [f"{name} drift {start:.3g} -> {end:.3g} ms"] if abs(end - start) > DRIFT * start else []


def _check(
    subjects: Sequence[Subject],
    images: Pixels,
    reference: str | None,
    spec: InputSpec,
    min_runs: int,
    max_runs: int,
    runtimes: Mapping[str, Runtime],
) -> None:
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) != len(names):
        raise ValueError("subjects need at least one name, each different")
    if reference is not None and reference not in names:
        raise ValueError(f"the reference {reference!r} is not among {names}")
    if unknown := {subject.format for subject in subjects} - set(runtimes):
        raise ValueError(f"no runtime for format {sorted(unknown)}")
    if images.dtype != np.uint8 or images.shape[1:] != spec.shape or len(images) == 0:
        raise ValueError(f"images are uint8 (N, {spec.shape}), at least one; not {images.dtype} {images.shape}")
    if not 1 <= min_runs <= max_runs or max_runs < ROUNDS:
        raise ValueError(f"min_runs <= max_runs, and max_runs at least {ROUNDS}; not {min_runs} and {max_runs}")


def _pictures(
    pictures: Sequence[Image.Image] | None, images: Pixels, chosen: NDArray[np.int64], random: np.random.Generator
) -> list[Image.Image]:
    if pictures:
        shown = [pictures[index] for index in random.permutation(len(pictures))[:IMAGES]]
    else:
        shown = [
            Image.fromarray(images[index].squeeze(-1) if images.shape[-1] == 1 else images[index]) for index in chosen
        ]
    for picture in shown:
        picture.load()
    return shown


def _model_run(session: Session, batches: list[Pixels]) -> Callable[[int], None]:
    def run(turn: int) -> None:
        session.scores(batches[turn % len(batches)])

    return run


def _e2e_run(session: Session, pictures: list[Image.Image], spec: InputSpec) -> Callable[[int], None]:
    options = spec.preprocessing()

    def run(turn: int) -> None:
        pixels = prepare(pictures[turn % len(pictures)], **options)
        int(np.argmax(softmax(session.scores(pixels[None]))[0]))

    return run


def _warm_up(series: Series, clock: Callable[[], int]) -> float:
    """Run until warm; the ns that one model run and one e2e run take together."""
    taken = warm_up(series.run_model, clock, 0, WARM_CAP_NS)
    e2e = time_block(series.run_e2e or series.run_model, clock, 0, Length(WARM_RUNS // 2))
    return float(np.median(taken[-WARM_WINDOW:]) + np.median(e2e))


def _block_runs(ns_per_run: float, seconds: float, min_runs: int, max_runs: int) -> int:
    """Runs of a block, such that all rounds together take `seconds` and keep to the limits."""
    wanted = int(seconds * 1e9 / (ROUNDS * max(ns_per_run, 1.0)))
    return max(1, min(max_runs // ROUNDS, max(-(-min_runs // ROUNDS), wanted)))


def orders_of(count: int, rounds: int, random: np.random.Generator) -> list[list[int]]:
    """The order of `count` series in each round: drawn for even rounds, reversed in the odd round after each."""
    orders: list[list[int]] = []
    for turn in range(rounds):
        orders.append(orders[-1][::-1] if turn % 2 else [int(index) for index in random.permutation(count)])
    return orders


def _run_rounds(series: list[Series], random: np.random.Generator, clock: Callable[[], int], advance: Advance) -> None:
    run_rounds(series, orders_of(len(series), ROUNDS, random), clock, advance)


def _evaluate(
    series: list[Series], reference: str | None, threads: int, disturbed: list[str], seed: int
) -> dict[str, Latency]:
    """Turn the blocks into records."""
    model = {(one.name, one.again): np.asarray(one.model) / 1e6 for one in series}
    spread: float | None = None
    check: Estimate | None = None
    comparable = True
    if reference is not None:
        check = ratio_estimate(model[reference, True], model[reference, False], np.random.default_rng([seed, 1]))
        spread = (check.high - check.low) / 2
        # One session has one such check, so its interval is wider: at 95 % one sound session in twenty would fail.
        twins = model[reference, True], model[reference, False]
        wide = ratio_estimate(*twins, np.random.default_rng([seed, 1]), level=AA_LEVEL)
        comparable = wide.low <= 1 <= wide.high
        if not comparable:
            disturbed = [*disturbed, f"A/A check: the reference against itself is {_interval(wide)}, which excludes 1"]
    found = {}
    for one in series:
        if one.again:
            continue
        random = np.random.default_rng([seed, 2])
        own, e2e = model[one.name, False], np.asarray(one.e2e) / 1e6
        ratio = check
        if reference is not None and one.name != reference:
            ratio = ratio_estimate(own, model[reference, False], random)
        reasons = [*disturbed, *drift(own, "model"), *drift(e2e, "e2e")]
        found[one.name] = Latency(
            protocol="quick",
            threads=threads,
            model=clock_of(own, random),
            e2e=clock_of(e2e, random),
            reference=reference,
            ratio=ratio,
            aa_spread=spread,
            comparable=comparable,
            valid=not reasons,
            invalid_reasons=reasons,
        )
    return found


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
