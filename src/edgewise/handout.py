"""From a finished run to files for a device, in the formats asked for or in the one that is fastest here."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgewise import runs
from edgewise.bundle import read_manifest, update_measured, write_bundle
from edgewise.data import Dataset
from edgewise.errors import ConfigError, UnavailableError, UntrustedError
from edgewise.export.desk import Order
from edgewise.export.status import Tried, pick, time_all, try_all
from edgewise.export.web import write_web
from edgewise.export.web.runtime import runtime_files
from edgewise.jobs import Built, open_finished
from edgewise.measure import machine
from edgewise.models import open_model
from edgewise.progress import Progress, Silent
from edgewise.proving import lineage
from edgewise.recipe import ExportOptions, Recipe, every
from edgewise.results import ExportResult, read_result, to_json
from edgewise.variants import BASE, plan_of

AUTO = "auto"
WEB = "web"
"""What is asked for with `--to web`, and the ending of the folder it makes."""
RECORD = "export.json"
TABLE = "formats.json"
"""The whole table, in the bundle that `--to auto` kept."""


@dataclass(frozen=True)
class Page:
    """That a web page is wanted too, and where onnxruntime-web is; see `edgewise.export.web.write_web`."""

    runtime: Path | None = None
    download: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    models: names of models of the run; none means the one that the run chose, or its base.
    options: formats, precisions and limits; None means all formats and precisions that there are.
    auto: measure them all and keep the one that is fastest here.
    page: also write the fastest kept ONNX bundle of each model as a web page, in a folder MODEL-web.
    """

    models: tuple[str, ...] = ()
    options: ExportOptions | None = None
    auto: bool = True
    page: Page | None = None


def export_run(
    run: Path,
    wanted: Wanted = Wanted(),
    *,
    out: Path | None = None,
    force: bool = False,
    argv: list[str] | None = None,
    progress: Progress | None = None,
) -> tuple[ExportResult, Path]:
    """Write bundles of models of a finished run, each checked in its own runtime, with a table of what came of each.

    Args:
        run: the folder of the run; nothing in it is changed but for the new folder.
        wanted: models, formats, precisions.
        out: the folder to make; default: `exports/1` in the run, or the first number that is not there yet.
        force: replace `out` where it is an earlier export.
        argv: the command, for the records.
        progress: where to show it.

    Returns:
        The table, and the folder: the bundles and `export.json`. It is not made where no bundle passed.

    Raises:
        ConfigError: no such run or model (C25, C80, C81), or `out` is taken (C90, C91).
        DataError: the images of the run are not there.
        UnavailableError: the folder cannot be written (E82), or a page is wanted and onnxruntime-web is not there
            (E60-E62).
    """
    progress = progress or Silent()
    out = out or _next_folder(run / "exports")
    _check_out(out, force)
    if wanted.page:
        runtime_files(wanted.page.runtime, download=wanted.page.download)
    names = wanted.models or (_chosen(run),)
    recipe, dataset, folder = open_finished(run, names, progress)
    options = wanted.options or every(recipe.export)
    with _staging(out, force) as staging:
        tries: list[Tried] = []
        with progress.task("export", len(names)) as advance:
            for name in names:
                order = _order(folder, name, recipe, dataset, options, staging)
                tried = try_all(order, dataset, options, seed=recipe.seed, progress=progress)
                time_all(tried, dataset, recipe.measure, seed=recipe.seed, progress=progress)
                tries.append(_decide(tried, auto=wanted.auto))
                advance(1, name)
        result = _result(recipe, options, wanted, tries, argv)
        for tried in tries:
            _hand_out(tried, result, staging, auto=wanted.auto)
            if wanted.page:
                _write_page(tried, staging, wanted.page)
        shutil.rmtree(staging / "work", ignore_errors=True)
        if any(row.kept for row in result.attempts):
            runs.write_text(staging / RECORD, to_json(result))
    return result, out


def _chosen(run: Path) -> str:
    """The model whose file the run chose; its base where it chose none or measured nothing."""
    if not (run / "results.json").exists():
        return BASE
    try:
        result = read_result(run / "results.json")
    except UntrustedError:
        return BASE
    return next((row.variant for row in result.measurements if row.name == result.chosen), BASE)


def _order(
    folder: runs.Run, name: str, recipe: Recipe, dataset: Dataset, options: ExportOptions, staging: Path
) -> Order:
    model = open_model(folder.model_dir / name)
    built = Built(name, "base" if name == BASE else "variant", plan_of(recipe, name), model)
    work = staging / "work"
    told = lineage(built, recipe, dataset, runs.read_run(folder.path).get("source"))
    return Order(name, model, options.precisions, work / "bundles", work / name, told)


def _decide(tried: Tried, *, auto: bool) -> Tried:
    """Mark what is handed out: the best under `--to auto`, else all that passed."""
    best = pick(tried.attempts, tried.noise) if auto else None
    rows = []
    for row in tried.attempts:
        kept = row is best if auto else row.state == "written"
        rows.append(dataclasses.replace(row, kept=kept))
    return dataclasses.replace(tried, attempts=rows)


def _result(
    recipe: Recipe, options: ExportOptions, wanted: Wanted, tries: Sequence[Tried], argv: list[str] | None
) -> ExportResult:
    return ExportResult(
        run=recipe.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(argv) if argv else "edgewise.export_run(run)",
        to=[AUTO] if wanted.auto else list(options.formats),
        threads=recipe.measure.threads,
        attempts=[row for tried in tries for row in tried.attempts],
        candidates=[one for tried in tries for one in tried.candidates],
        noise={tried.attempts[0].model: tried.noise for tried in tries},
        machine=machine.describe(),
        versions=runs.versions(),
        warnings=[tried.warning for tried in tries if tried.warning],
    )


def _hand_out(tried: Tried, result: ExportResult, staging: Path, *, auto: bool) -> None:
    """Bring the kept bundles into place with their figures, and with the table where they were chosen by it."""
    for row in tried.attempts:
        if not row.kept:
            continue
        file = tried.exported[row.bundle]
        manifest = read_manifest(file.bundle)
        texts = set(manifest.files) - {manifest.model_file, *manifest.sidecars, "labels.txt"}
        extra = {name: (file.bundle / name).read_text(encoding="utf-8") for name in sorted(texts)}
        if auto:
            extra[TABLE] = to_json(_of_model(result, row.model))
        sidecars = [file.bundle / name for name in manifest.sidecars]
        write_bundle(staging / row.bundle, manifest, file.model_file, extra, sidecars)
        figures = ("validation", "test", "validation_clean", "test_clean", "parity", "calibration", "decision")
        record = {name: dataclasses.asdict(found) for name in figures if (found := getattr(file, name)) is not None}
        update_measured(staging / row.bundle, {**record, "latency": dataclasses.asdict(tried.timed[row.bundle])})


def _write_page(tried: Tried, staging: Path, page: Page) -> None:
    best = pick([row for row in tried.attempts if row.kept and row.format == "onnx"], tried.noise)
    if best is not None:
        folder = staging / f"{best.model}-{WEB}"
        write_web(staging / best.bundle, folder, runtime=page.runtime, download=page.download)


def _of_model(result: ExportResult, model: str) -> ExportResult:
    return dataclasses.replace(
        result,
        attempts=[row for row in result.attempts if row.model == model],
        candidates=[one for one in result.candidates if one.variant == model],
        noise={model: result.noise[model]},
    )


def _next_folder(parent: Path) -> Path:
    number = 1
    while (parent / str(number)).exists():
        number += 1
    return parent / str(number)


def _check_out(out: Path, force: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / RECORD).is_file():
        raise ConfigError(
            "the folder is not empty and not an earlier export; it is left alone",
            code="C91",
            where={"folder": out},
            fix="choose a new folder with --out",
        )
    if not force:
        raise ConfigError(
            "there is an export in this folder already; exports are never overwritten",
            code="C90",
            where={"folder": out},
            fix="choose a new folder with --out, or add --force to replace it",
        )


@contextlib.contextmanager
def _staging(out: Path, force: bool) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when it holds a table at the end; else nothing is left of it."""
    parent_was_there = out.parent.exists()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as problem:
        raise UnavailableError(
            "cannot write the export folder",
            code="E82",
            where={"folder": out},
            why=problem.strerror or str(problem),
            fix="choose another place with --out",
        ) from problem
    try:
        yield staging
        if (staging / RECORD).is_file():
            _check_out(out, force)
            if out.exists():
                shutil.rmtree(out)
            staging.chmod(0o755)
            staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not parent_was_there:
            with contextlib.suppress(OSError):  # something stands in it
                out.parent.rmdir()
