"""Further plans for a model that a finished run trained: a run of its own, whose base is given and not trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.errors import ConfigError
from edgewise.jobs import Built, Given, Job, Opening, open_job
from edgewise.models import open_model
from edgewise.models.store import CONFIG, WEIGHTS
from edgewise.pipeline import compare_variants, judged, keep, one_process
from edgewise.progress import Progress
from edgewise.recipe import Recipe
from edgewise.results import RunResult
from edgewise.source import Source, check_apart, check_further, check_kind, check_one_model, check_plans, find_source
from edgewise.variants import BASE, resolve_variants

HISTORY = "base.jsonl"
"""The lines of the other run's metrics.jsonl that tell how the base was trained."""


def compress_run(
    run: Path | None,
    recipe: Recipe,
    out: Path,
    *,
    model: str | None = None,
    opening: Opening = Opening(),
    progress: Progress | None = None,
) -> RunResult:
    """Apply plans to a model that a finished run trained, and do with them all that `edgewise.run` does.

    The run is only read. Leaves in `out` what `edgewise.run` leaves, with `source` in run.json, and base.jsonl.

    Args:
        run: a finished run, or one of its models; with `opening.resume` None, as the run in `out` knows it.
        recipe: that of the run with other `variants`, and other settings of training, export, measuring and the goal.
        out: where the new run goes.
        model: which model of the run is the base of the new one; default: its base.
        opening: how `out` is opened. Images that were changed since are never accepted.
        progress: where to show how far it is.

    Raises:
        ConfigError: as `edgewise.run`; and C71 to C75, what is asked does not fit the run.
        DataError: D32, the images are not those of the run.
        UntrustedError: U10 to U13, the model of the run is damaged.
        GateError: `goal.min` was asked for and nothing meets it; all files are written all the same.
    """
    variants = resolve_variants(recipe)
    world = one_process()
    check_one_model(recipe)
    opening = dataclasses.replace(opening, accept_changes=False)
    if opening.resume:
        given = _given_again(out, recipe)
    elif run is None:
        raise ValueError("a new run needs the run it starts from")
    else:
        source = find_source(run, model)
        check_further(source, recipe, out)
        given = _given(source, source.facts(recipe))
    with open_job(recipe, out, opening, progress, world, given) as job:
        base = _take(job, given)
        result = compare_variants(job, base, variants, opening.argv)
    return judged(result, recipe.goal, out)


def _given(source: Source, facts: dict[str, Any]) -> Given:
    model = open_model(source.folder)
    explained = source.explained if source.explained.is_dir() else None
    history = _records(source.run / "metrics.jsonl", source.model)
    return Given(model, facts, source.splits, history, explained)


def _given_again(out: Path, recipe: Recipe) -> Given:
    """The base of a run that is resumed: its own copy, or that of the run it began with where it has none yet.

    Raises:
        ConfigError: C73 the run trains its base itself, C75 there is another model now where it began.
    """
    known = runs.read_run(out)
    check_kind(known, out, compresses=True)
    facts = known["source"]
    folder = runs.Run(out).model_dir / BASE
    if (folder / CONFIG).is_file() and runs.file_sha256(folder / WEIGHTS) == facts["weights_sha256"]:
        check_plans(recipe.variants or (), folder)
        history = _records(out / HISTORY, BASE)
        return Given(open_model(folder), facts, out / "splits.csv", history, kept=True)
    source = find_source(Path(facts["run"]), facts["model"])
    check_apart(source.run, out)
    check_plans(recipe.variants or (), source.folder)
    found = runs.file_sha256(source.folder / WEIGHTS)
    if found != facts["weights_sha256"]:
        raise ConfigError(
            "the model that this run began with is another one now",
            code="C75",
            where={"model": source.folder},
            why=f"sha256 {found}, and it was {facts['weights_sha256']}",
            fix=f"start again: edgewise compress {source.run} --plan ... --out {out} --force",
        )
    return _given(source, facts)


def _take(job: Job, given: Given) -> Built:
    """Keep the base in the run, with the records of its training and its explanation; the weights last, as the sign
    that all of it is there."""
    source = f"{given.facts['model']} of {given.facts['run']}"
    job.progress.say(f"base: {source}, trained there and not again")
    base = Built(BASE, "base", "", given.model)
    if not given.kept:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in given.history]
        runs.write_text(job.run.path / HISTORY, "".join(lines))
        _take_explanation(job, given.explained if job.recipe.explain else None)
        keep(job, base)
    for record in given.history:
        job.record(BASE, {key: value for key, value in record.items() if key != "variant"})
    return base


def _take_explanation(job: Job, folder: Path | None) -> None:
    """Copy the explanation of the base into the run; where that fails the run goes on without it."""
    place = job.run.explain_dir / BASE
    shutil.rmtree(place, ignore_errors=True)  # half of it, of a run that was killed here
    if folder is None:
        return
    try:
        shutil.copytree(folder, place)
    except OSError as problem:
        shutil.rmtree(place, ignore_errors=True)
        job.warnings.append(f"the explanation of the base could not be copied: {problem}")
        job.progress.say(f"warning: {job.warnings[-1]}")


def _records(path: Path, name: str) -> tuple[dict[str, Any], ...]:
    """The epochs of one training in a metrics.jsonl, as those of a base; none where the file is gone or damaged."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        records = [line for line in lines if line["variant"] == name and "epoch" in line]
    except (OSError, ValueError, TypeError, KeyError):
        return ()
    return tuple({**record, "variant": BASE} for record in records)
