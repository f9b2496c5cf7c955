"""Checking a bundle, an archive of one or a bare model before it is trusted: files, manifest, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.archive import unpacked
from edgewise.bundle import Manifest, verify_bundle
from edgewise.device import RUNTIMES
from edgewise.device.onnxfile import check_model
from edgewise.errors import DataError, EdgewiseError, UntrustedError, nearest


def check(path: Path, labels: Path | None = None) -> dict[str, Any]:
    """`check_bundle`, `check_archive` or `check_file`, whichever `path` is."""
    if path.suffix == ".onnx":
        return check_file(path, labels)
    return check_archive(path) if path.is_file() else check_bundle(path)


def check_archive(path: Path) -> dict[str, Any]:
    """`check_bundle` of an archive, unpacked into a temporary folder."""
    with unpacked(path) as (folder, _):
        return {**check_bundle(folder), "bundle": str(path)}


def check_bundle(folder: Path) -> dict[str, Any]:
    """Verify hashes, then load the model in its runtime and classify one black image.

    Returns:
        bundle, name, files, classes, precision, and the runtime's own facts.

    Raises:
        UntrustedError: a file is changed, missing or added, or the model does not answer as its manifest says.
        UnavailableError: the runtime is not installed here.
    """
    manifest = verify_bundle(folder)
    return {
        "bundle": str(folder),
        "name": manifest.name,
        "files": len(manifest.files) + 1,
        "classes": len(manifest.labels),
        "precision": manifest.precision,
        **_run(manifest, folder / manifest.model_file, {"bundle": folder}),
    }


def _run(manifest: Manifest, model: Path, where: dict[str, Path]) -> dict[str, str]:
    """Classify one black image; the runtime's facts."""
    runtime = RUNTIMES.get(manifest.format)
    if runtime is None:
        raise UntrustedError(
            f'no runtime for format "{manifest.format}"',
            code="U06",
            where=where,
            fix=nearest(manifest.format, RUNTIMES),
        )
    session = runtime.load(model)
    why = ""
    try:
        answer = session.scores(np.zeros((1, *manifest.input.shape), np.uint8))
        if answer.shape != (1, len(manifest.labels)) or not np.isfinite(answer).all():
            why = f"answer of shape {answer.shape} for {len(manifest.labels)} labels"
    except EdgewiseError:
        raise
    except Exception as problem:  # noqa: BLE001 - the runtimes' errors share no other base class
        why = (str(problem) or type(problem).__name__).splitlines()[0]
    if why:
        raise UntrustedError(
            "the model does not answer as its manifest says",
            code="U06",
            where=where,
            why=why,
            fix="export it again",
        )
    return session.describe()


def check_file(path: Path, labels: Path | None = None) -> dict[str, Any]:
    """Check an ONNX file that comes without a bundle: what is in it, that it runs, and that its classes have names.

    Args:
        path: the model.
        labels: a text file with one label a line; default: those in the file's own metadata.

    Raises:
        UntrustedError: the file is refused (see `edgewise.device.onnxfile`).
        DataError: no labels, or not as many as the model gives scores.
    """
    session = RUNTIMES["onnx"].load(path)
    facts = check_model(path.read_bytes())
    names = _labels(path, facts["metadata"], labels)
    _, *shape = facts["input"][2]
    answer = session.scores(np.zeros((1, *(dim or 3 for dim in shape[:2]), shape[2] or 3), np.uint8))
    if answer.shape != (1, len(names)):
        raise DataError(
            "the labels do not fit the model",
            code="D37",
            where={"file": path, **({"labels": labels} if labels else {})},
            why=f"{len(names)} labels, {answer.shape[-1]} scores",
            fix="give the labels in the order of the model's classes: --labels FILE, one a line",
        )
    return {"model": str(path), "classes": len(names), "input": shape, "opsets": facts["opsets"], **session.describe()}


def _labels(path: Path, metadata: dict[str, str], labels: Path | None) -> list[str]:
    problem = "its metadata names none, and no --labels were given"
    try:
        if labels is not None:
            return [line for line in labels.read_text(encoding="utf-8").splitlines() if line]
        if "edgewise.labels" in metadata:
            return [str(label) for label in json.loads(metadata["edgewise.labels"])]
    except (OSError, ValueError, TypeError) as why:
        problem = str(why)
    raise DataError(
        "the model's classes have no names",
        code="D36",
        where={"file": path},
        why=problem,
        fix="give a text file with one label a line, in the order of the model's classes: --labels labels.txt",
    )
