"""Checking a bundle before it is trusted: its files, its manifest, and that its runtime opens and runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgewise.bundle import verify_bundle
from edgewise.device import RUNTIMES
from edgewise.errors import UntrustedError, nearest


def check_bundle(folder: Path) -> dict[str, Any]:
    """Verify hashes, then load the model in its runtime and classify one black image.

    Returns:
        bundle, name, files, classes, precision, and the runtime's own facts.

    Raises:
        UntrustedError: a file is changed, missing or added, or the model does not answer as its manifest says.
        UnavailableError: the runtime is not installed here.
    """
    manifest = verify_bundle(folder)
    runtime = RUNTIMES.get(manifest.format)
    if runtime is None:
        raise UntrustedError(
            f'no runtime for format "{manifest.format}"',
            code="U06",
            where={"bundle": folder},
            fix=nearest(manifest.format, RUNTIMES),
        )
    session = runtime.load(folder / manifest.model_file)
    answer = session.scores(np.zeros((1, *manifest.input.shape), np.uint8))
    if answer.shape != (1, len(manifest.labels)) or not np.isfinite(answer).all():
        raise UntrustedError(
            "the model does not answer as its manifest says",
            code="U06",
            where={"bundle": folder},
            why=f"answer of shape {answer.shape} for {len(manifest.labels)} labels",
            fix="export it again",
        )
    return {
        "bundle": str(folder),
        "name": manifest.name,
        "files": len(manifest.files) + 1,
        "classes": len(manifest.labels),
        "precision": manifest.precision,
        **session.describe(),
    }
