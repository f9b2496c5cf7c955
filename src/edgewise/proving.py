"""From trained models to files that have been run: export, check, measure, choose, and write the report."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from PIL.Image import Image

from edgewise import runs
from edgewise.bundle import update_measured
from edgewise.data import Dataset
from edgewise.device.preprocess import BadImage, open_image
from edgewise.errors import ExportError
from edgewise.export.deliver import deliver
from edgewise.export.desk import Exported, Order
from edgewise.export.offers import Offer, offer
from edgewise.jobs import Built, Job
from edgewise.judge import choose, times_as_long
from edgewise.measure import latency, machine, memory
from edgewise.measure.accuracy import difference
from edgewise.models.cost import cost
from edgewise.recipe import Recipe
from edgewise.report import write_csv, write_html
from edgewise.report.explanation import RECORD
from edgewise.results import Cost, Failure, Latency, Measurement, RunResult, to_json
from edgewise.variants import BASE

_MEASURED = (
    *("cost", "validation", "test", "validation_clean", "test_clean"),
    *("difference", "parity", "calibration", "decision", "latency", "memory"),
)
"""What of a measurement goes into the manifest of its bundle."""
_SOURCE = ("run", "model", "plan", "weights_sha256", "changed")
"""What of a run's source goes into its result and into manifests."""
PICTURE_PIXELS = 50_000_000
"""About how many decoded pixels of full-size pictures are held for the end-to-end clock."""


def export_all(job: Job, built: Sequence[Built]) -> list[tuple[Built, Exported]]:
    """Write every model in every precision and check each file; a file that fails is recorded and the others go on.

    Controls are written in fp32 only: they answer what a technique was worth, nobody ships them.

    Raises:
        ExportError: the base model could not be written in fp32, so that there is nothing to compare with.
    """
    exported: list[tuple[Built, Exported]] = []
    options = job.recipe.export
    scratch = job.run.path / "work"
    ready = _ready(job)
    if job.run.resumed:
        shutil.rmtree(job.run.bundles_dir, ignore_errors=True)  # of a run that was killed here; all are written again
    with job.progress.task("export", len(built)) as advance:
        for one in built:
            precisions = {"base": ("fp32", *options.precisions), "variant": options.precisions, "control": ("fp32",)}
            order = Order(
                name=one.name,
                model=one.model,
                precisions=precisions[one.role],
                folder=job.run.bundles_dir,
                workspace=scratch / one.name,
                lineage=lineage(one, job.recipe, job.dataset, job.source),
            )
            for format_ in options.formats:
                here = tuple(precision for precision in order.precisions if (format_, precision) in ready)
                place = dataclasses.replace(order, precisions=here)
                outcome = deliver(place, format_, job.dataset, options, seed=job.recipe.seed, progress=job.progress)
                job.candidates += outcome.candidates
                job.failures += outcome.failures
                exported += [(one, file) for file in outcome.exported]
            advance(1, f"{len(exported)} files")
    shutil.rmtree(scratch, ignore_errors=True)
    if not any(one.role == "base" and file.manifest.precision == "fp32" for one, file in exported):
        raise ExportError(
            "the base model could not be exported",
            code="X06",
            where={"model": job.recipe.model},
            why="; ".join(failure.reason for failure in job.failures),
            fix="choose another model",
        )
    return exported


def _ready(job: Job) -> set[tuple[str, str]]:
    """The formats and precisions that can be written here; what else was asked for is told once, not for each model."""
    options = job.recipe.export
    asked = [(format_, precision) for format_ in options.formats for precision in ("fp32", *options.precisions)]
    offers = {one: offer(*one) for one in asked}
    reasons: dict[tuple[str, Offer], list[str]] = {}
    for (format_, precision), found in offers.items():
        reasons.setdefault((str(format_), found), []).append(precision)
    for (name, found), precisions in reasons.items():
        if found.state == "missing":
            job.failures.append(Failure(f"{name} {', '.join(precisions)}", "export", found.reason))
        elif found.state == "not written":
            job.warnings.append(found.reason)
            job.progress.say(f"warning: {found.reason}")
    return {one for one, found in offers.items() if found.state == "ready"}


def measure_all(job: Job, exported: Sequence[tuple[Built, Exported]]) -> list[Measurement]:
    """Time all files interleaved with each other, then each in fresh processes, and put the records together."""
    recipe = job.recipe
    reference = next(file for one, file in exported if one.role == "base" and file.manifest.precision == "fp32")
    subjects = [latency.Subject(file.name, file.model_file, file.manifest.format) for _, file in exported]
    timed = latency.measure(
        subjects,
        job.dataset.test.images[:256],
        reference=reference.name,
        spec=reference.manifest.input,
        pictures=_pictures(job),
        threads=recipe.measure.threads,
        seconds=recipe.measure.seconds,
        seed=recipe.seed,
        progress=job.progress,
    )
    with job.progress.task("cold starts", len(exported)) as advance:
        measurements = []
        for one, file in exported:
            measurements.append(_measurement(job, one, file, reference, timed[file.name]))
            advance(1, f"{len(measurements)} files")
    return [_says_whether_int8_pays(measurements, one) for one in measurements]


def _says_whether_int8_pays(measurements: Sequence[Measurement], one: Measurement) -> Measurement:
    """An int8 file that takes longer than the fp32 file of its model says so."""
    times = times_as_long(measurements, one)
    if times is None or times <= 1:
        return one
    note = f"int8 does not pay here: {times:.2f} times as long as fp32"
    return dataclasses.replace(one, notes=[*one.notes, note])


def conclude(job: Job, measurements: list[Measurement], argv: list[str] | None) -> RunResult:
    """Choose, and write results.json, results.csv and report.html."""
    recipe = job.recipe
    chosen, warning = choose(measurements, recipe.goal)
    job.warnings += [warning] if warning else []
    result = RunResult(
        name=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(argv) if argv else f"edgewise.{'compress_run' if job.source else 'run'}(recipe, out)",
        seed=recipe.seed,
        classes=list(job.dataset.classes),
        data=job.dataset.summary,
        goal=recipe.goal.model_dump(),
        chosen=chosen,
        machine=machine.describe(),
        versions=runs.versions(),
        measurements=measurements,
        candidates=job.candidates,
        failures=job.failures,
        warnings=job.warnings,
        seconds=job.seconds,
        source={key: job.source[key] for key in _SOURCE} if job.source else {},
    )
    out = job.run.path
    runs.write_text(out / "results.json", to_json(result))
    write_csv([result], out / "results.csv")
    explained = job.run.explain_dir / BASE
    shown = explained if job.recipe.explain and (explained / RECORD).exists() else None
    write_html(result, out / "report.html", history=job.history, explained=shown)
    figures = {row.name: {"validation": row.validation, "test": row.test} for row in measurements}
    job.mirror.figures(
        {name: {split: dataclasses.asdict(found) for split, found in both.items()} for name, both in figures.items()}
    )
    return result


def _pictures(job: Job) -> list[Image] | None:
    """Test images at the size they are stored in, for the end-to-end clock; None for built-in sets.

    An image that was deleted or damaged since it was read is named in a warning and left out.
    """
    pictures: list[Image] = []
    for name, path in zip(job.dataset.test.names, job.dataset.test.paths[:64], strict=False):
        try:
            pictures.append(open_image(path))
        except BadImage as problem:
            job.warnings.append(f"{name} cannot be read any more ({problem}); it is left out of the end-to-end clock")
            continue
        if sum(picture.width * picture.height for picture in pictures) > PICTURE_PIXELS:
            break
    return pictures or None


def _measurement(job: Job, one: Built, file: Exported, reference: Exported, timed: Latency) -> Measurement:
    """The record of one bundle; its figures also go into the bundle's manifest."""
    cold = memory.probe(file.bundle)
    weights = cost(one.model.module, one.model.input)
    is_reference = file is reference
    measurement = Measurement(
        name=file.name,
        variant=one.name,
        role=one.role if is_reference or one.role != "base" else "variant",
        plan=one.plan,
        format=file.manifest.format,
        precision=file.manifest.precision,
        scheme=file.manifest.scheme,
        bundle=str(file.bundle.relative_to(job.run.path)),
        sha256=file.manifest.files[file.manifest.model_file],
        cost=Cost(
            params_total=weights.params_total,
            params_nonzero=weights.params_nonzero,
            params_zero=weights.params_zero,
            macs=weights.macs,
            file_bytes=file.file_bytes,
        ),
        validation=file.validation,
        test=file.test,
        difference=None
        if is_reference
        else difference(
            file.predictions,
            reference.predictions,
            job.dataset.test.labels,
            job.dataset.classes,
            reference=reference.name,
            seed=job.recipe.seed,
        ),
        parity=file.parity,
        latency=dataclasses.replace(timed, load_ms=cold.load_ms, first_ms=cold.first_ms),
        memory=cold.memory,
        notes=file.notes,
        calibration=file.calibration,
        validation_clean=file.validation_clean,
        test_clean=file.test_clean,
        decision=file.decision,
    )
    record = dataclasses.asdict(measurement)
    update_measured(
        file.bundle,
        {key: record[key] for key in _MEASURED},
    )
    return measurement


def lineage(one: Built, recipe: Recipe, dataset: Dataset, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a model comes from, for the manifests of its bundles; `source` where the run did not train its base."""
    return {
        "run": recipe.name,
        "architecture": one.model.architecture,
        "structure": [edit["edit"] for edit in one.model.structure],
        "plan": one.plan,
        "role": one.role,
        "data": dataset.summary["data_hash"],
        "seed": recipe.seed,
        "versions": runs.versions(),
        **({"source": {key: source[key] for key in _SOURCE}} if source else {}),
    }
