"""Measurement records: what a run found out, as plain frozen data that goes to JSON and back.

Units stand in the field names. Every share (accuracy, recall, F1) is in 0..1. Every interval is a 95 % one.
Nothing here computes: `edgewise.measure` fills the records, `edgewise.report` shows them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from edgewise.errors import ConfigError, UntrustedError

T = TypeVar("T")

SCHEMA = 1
"""Version of the JSON layout; a reader refuses a version it does not know. A key that may be left out and then means
what files without it meant is no new version."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Quality:
    """How well a classifier decides on `n` labelled images.

    `recall` has one entry per class; None where the class has no image. `confusion[i][j]` counts images of true
    class i that were called j, in the order of the class map. `macro_f1` averages over the classes that occur.
    """

    n: int
    accuracy: Estimate
    macro_f1: Estimate
    recall: dict[str, Estimate | None]
    confusion: list[list[int]]


@dataclass(frozen=True)
class Difference:
    """Paired difference (this minus `reference`) on the same images."""

    reference: str
    accuracy: Estimate
    macro_f1: Estimate


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in (low, high]: how many, mean confidence, share that is right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """How far the confidence of `n` answers can be believed.

    `ece` is the expected calibration error over equal-width bins, `ece_adaptive` over bins of equally many images, and
    `ece_chance` what a perfectly calibrated model stays below in 95 of 100 test sets of this size. `gap` is the mean
    confidence minus the accuracy: above 0 is over-confident. `nll` is the mean negative log likelihood in nats. `bins`
    are those of `ece`, without the empty ones.
    """

    n: int
    ece: float
    ece_chance: float
    ece_adaptive: float
    nll: float
    gap: Estimate
    bins: list[Bin]


@dataclass(frozen=True)
class Calibration:
    """The temperature that the logits are to be divided by, and the reliability on test images before and after.

    It was fitted on `fitted_on` validation images, of which `fitted_errors` were called wrongly; `note` says why where
    it could not be fitted and is 1.
    """

    temperature: float
    fitted_on: int
    fitted_errors: int
    note: str
    before: Reliability
    after: Reliability


@dataclass(frozen=True)
class Answered:
    """What a threshold does to labelled images: the share that is answered, and the share of the answers that is right.

    `precision` is None where nothing is answered.
    """

    coverage: Estimate
    precision: Estimate | None


@dataclass(frozen=True)
class Decision:
    """The confidence below which a file's answer is `unknown`, and what that costs and brings.

    `threshold` was chosen on validation images for a precision of the answers of at least `asked`; 0 answers
    everything. None means that no threshold could be shown to reach it, and `note` says why; then there is no figure.
    `validation` is of the images by which it was chosen, `test` of images by which nothing was.
    """

    asked: float
    threshold: float | None
    note: str
    validation: Answered | None
    test: Answered | None


@dataclass(frozen=True)
class Cost:
    """Size and work of a model. `macs` counts multiply-adds of convolutions and linear layers for one image."""

    params_total: int
    params_nonzero: int
    params_zero: int
    macs: int
    file_bytes: int

    @property
    def flops(self) -> int:
        """Two operations per multiply-add."""
        return 2 * self.macs


@dataclass(frozen=True)
class Clock:
    """One latency distribution in milliseconds. A percentile is None when `n` is too small for it."""

    n: int
    p50_ms: Estimate
    p90_ms: float | None
    p99_ms: float | None
    mean_ms: float
    sd_ms: float
    min_ms: float


@dataclass(frozen=True)
class Latency:
    """The clocks of one bundle: cold `load`, `first` run, `model` (run only) and `e2e` (decoded image to label).

    `ratio` compares the `model` clock with `reference` by paired interleaved blocks; below 1 is faster.
    `aa_spread` is the half-width of the same ratio for the reference against itself in this session.
    `valid` is False when the machine was disturbed or drifted: then the milliseconds stand for nothing, but the paired
    ratios still compare, as long as `comparable` says that the reference against itself came out as 1.
    """

    protocol: str
    threads: int
    model: Clock
    e2e: Clock
    load_ms: float | None = None
    first_ms: float | None = None
    reference: str | None = None
    ratio: Estimate | None = None
    aa_spread: float | None = None
    comparable: bool = True
    valid: bool = True
    invalid_reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a fresh process that classifies, and of one that only imports the runtime."""

    peak_rss_bytes: int
    baseline_rss_bytes: int


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the torch model it came from, on `n` real images.

    `tolerance` is the largest logit difference allowed (None for int8, which is judged by its measured drop);
    `edgewise.export.verify` holds the limits.
    """

    n: int
    max_abs_logit_delta: float
    top1_agreement: float
    tolerance: float | None
    passed: bool


@dataclass(frozen=True)
class Candidate:
    """One int8 scheme that was tried for a variant, judged on validation images."""

    variant: str
    scheme: str
    accuracy: float
    macro_f1: float
    drop: float
    ratio_to_fp32: float
    file_bytes: int
    max_abs_logit_delta: float
    top1_agreement: float
    passed: bool
    kept: bool
    note: str = ""
    format: str = "onnx"


@dataclass(frozen=True)
class Measurement:
    """All that was measured of one bundle on one device; a row of the comparison table.

    `role` is "base" (the uncompressed model in fp32), "variant" (what may be shipped instead), or "control" (the same
    structure trained from scratch without the technique, which tells what the technique itself was worth).
    `validation` chooses, `test` reports; `test` is never used to choose. `validation_clean` and `test_clean` are the
    same without the images that are copies of training images; None where there are no such images, or no others.
    """

    name: str
    variant: str
    role: Literal["base", "variant", "control"]
    plan: str
    format: str
    precision: str
    scheme: str
    bundle: str
    sha256: str
    cost: Cost
    validation: Quality
    test: Quality
    difference: Difference | None
    parity: Parity
    latency: Latency | None
    memory: Memory | None
    notes: list[str] = field(default_factory=list)
    calibration: Calibration | None = None
    validation_clean: Quality | None = None
    test_clean: Quality | None = None
    decision: Decision | None = None


@dataclass(frozen=True)
class Failure:
    """Something that was asked for and could not be made, with the reason shown to the user."""

    name: str
    stage: str
    reason: str


State = Literal["written", "refused", "failed", "missing", "not written"]


@dataclass(frozen=True)
class Attempt:
    """One (format, precision) of a model that was asked for, and what came of it.

    `state`: "written" passed all checks; "refused" was written and is not handed out, because it does not decide as its
    model or loses too much; "failed" could not be written; "missing" needs something that is not installed here; "not
    written" is a precision that the format does not have.
    `ratio` compares the `model` clock with `reference` (a file of this table) by paired interleaved blocks; below 1 is
    faster. `kept` is False for what passed and was left aside by `--to auto`. `reason` says why not, or what else is to
    be known. `bundle` is the name of its bundle, which stands in the folder of the table when it was `kept`; "" where
    none was written.
    """

    model: str
    format: str
    precision: str
    state: State
    scheme: str = ""
    bundle: str = ""
    kept: bool = False
    parity: Parity | None = None
    validation: Quality | None = None
    test: Quality | None = None
    file_bytes: int | None = None
    runtime: str = ""
    reference: str = ""
    ratio: Estimate | None = None
    p50_ms: float | None = None
    reason: str = ""
    decision: Decision | None = None


@dataclass(frozen=True)
class ExportResult:
    """The status table of one export, stored as `export.json`; one of its models stands in `formats.json` of a bundle.

    `to` is "auto" or the formats asked for. `noise` is, for each model, the difference of ratios that its timing
    session shows where there is none.
    """

    run: str
    created: str
    command: str
    to: list[str]
    threads: int
    attempts: list[Attempt]
    candidates: list[Candidate]
    noise: dict[str, float]
    machine: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    schema: int = SCHEMA


@dataclass(frozen=True)
class RunResult:
    """Everything a report shows; stored as `results.json` in the run folder.

    `chosen` names the measurement that meets the goal at the lowest cost, None when none does.
    `source` tells where the base comes from when the run did not train it: run, model, the plan that made it, the
    sha256 of its weights, and what this run's recipe changed of its training; empty otherwise.
    `data`, `machine`, `versions` and `goal` are flat facts for display.
    """

    name: str
    created: str
    command: str
    seed: int
    classes: list[str]
    data: dict[str, Any]
    goal: dict[str, Any]
    chosen: str | None
    machine: dict[str, Any]
    versions: dict[str, str]
    measurements: list[Measurement]
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


def to_json(result: RunResult | ExportResult) -> str:
    """The record as JSON text."""
    return json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_result(path: Path) -> RunResult:
    """Read a `results.json`.

    Raises:
        ConfigError: there is no such file.
        UntrustedError: the file is not JSON, lacks keys, has values of another type, or another layout version.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise ConfigError(
            "no results here",
            code="C22",
            where={"file": path},
            why="the folder is not there, is not a run, or its run did not finish",
            fix="give a run folder that holds results.json; `run.json` beside it tells how the run ended",
        ) from problem
    except (OSError, ValueError) as problem:
        raise UntrustedError(
            "cannot read results", code="U01", where={"file": path}, why=str(problem), fix="run the recipe again"
        ) from problem
    version = raw.get("schema") if isinstance(raw, dict) else None
    if version != SCHEMA:
        raise UntrustedError(
            f"results of layout version {version!r}; this edgewise reads {SCHEMA}",
            code="U01",
            where={"file": path},
            fix="read it with the edgewise that wrote it, or run the recipe again",
        )
    return parse(RunResult, raw, path)


def parse(kind: type[T], raw: object, path: Path) -> T:
    """Check plain JSON data against a record type and build the record."""
    import pydantic

    try:
        built: T = _adapter(cast(Hashable, kind)).validate_python(raw)
    except pydantic.ValidationError as problem:
        first = problem.errors()[0]
        raise UntrustedError(
            f"not a valid {kind.__name__}",
            code="U01",
            where={"file": path, "key": ".".join(str(part) for part in first["loc"])},
            why=first["msg"],
            fix="the file was changed or damaged after it was written; make it again",
        ) from problem
    return built


@cache
def _adapter(kind: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(kind)
