"""The package of a runtime: whether it is installed, and what is said where it is not or refuses a file."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from edgewise.errors import UnavailableError, UntrustedError


def installed(package: str) -> str | None:
    """The version of a package, found without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def not_importable(package: str, code: str, problem: Exception, install: str) -> UnavailableError:
    """The error for a package that is missing or does not work here."""
    return UnavailableError(f"{package} cannot be imported", code=code, why=str(problem), fix=install)


def refused(runtime: str, path: Path, why: str, fix: str) -> UntrustedError:
    """The error for a model file that a runtime does not take."""
    return UntrustedError(f"{runtime} refuses this model file", code="U04", where={"file": path}, why=why, fix=fix)
