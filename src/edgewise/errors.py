"""Every error that edgewise expects, what it means and how the process ends.

::

    EdgewiseError                 exit 1   something failed
    ├── ConfigError               exit 2   a flag, key, name or plan is wrong
    ├── DataError                 exit 3   the images or labels cannot be used
    ├── UnavailableError          exit 4   a device, folder, package or runtime is not there
    ├── GateError                 exit 5   nothing met the quality that was asked for
    ├── UntrustedError            exit 6   a damaged or foreign file was refused
    ├── NoEffect                  exit 1   a technique found nothing to do
    ├── TrainingError             exit 1   training cannot go on (for example a loss that is not finite)
    └── ExportError               exit 1   a model could not be written, or its file does not agree with it

An error says what happened, where, why, and how to mend it. Each has a code (``D07``) that is explained in
``docs/errors.md``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class EdgewiseError(Exception):
    """An expected failure, told in full sentences.

    Args:
        what: one line, what happened.
        code: the letter-and-number code under which ``docs/errors.md`` explains it.
        where: named places, e.g. ``{"file": "data/cat/1.jpg"}`` or ``{"key": "train.lr"}``.
        why: the cause, when it is known.
        fix: what the user can do now.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, code: str, where: Mapping[str, object] | None = None, why: str = "", fix: str = ""
    ) -> None:
        super().__init__(what)
        self.what = what
        self.code = code
        self.where = {key: str(value) for key, value in (where or {}).items()}
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        """The message as printed on a terminal, several lines."""
        lines = [f"error[{self.code}]: {self.what}"]
        lines += [_indent(key, value) for key, value in self.where.items()]
        if self.why:
            lines.append(_indent("why", self.why))
        if self.fix:
            lines.append(_indent("fix", self.fix))
        lines.append(f"  see: docs/errors.md#{self.code.lower()}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same message as an object, for ``--json``."""
        return {
            "error": self.code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class ConfigError(EdgewiseError):
    """A flag, key, name or plan is wrong."""

    exit_code = 2


class DataError(EdgewiseError):
    """The images or labels cannot be used as they are."""

    exit_code = 3


class UnavailableError(EdgewiseError):
    """A device, folder, package or runtime is not there."""

    exit_code = 4


class GateError(EdgewiseError):
    """No candidate met the quality that was asked for."""

    exit_code = 5


class UntrustedError(EdgewiseError):
    """A damaged, changed or foreign file was refused."""

    exit_code = 6


class NoEffect(EdgewiseError):
    """A technique found nothing to do; running it on is never silent."""


class TrainingError(EdgewiseError):
    """Training cannot go on."""


class ExportError(EdgewiseError):
    """A model could not be written, or the written file does not agree with it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A half-sentence that offers the known names nearest to `name`.

    >>> nearest("epohcs", ["epochs", "lr"])
    'did you mean "epochs"?'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f'"{match}"' for match in close) + "?"
    if len(names) <= 12:
        return "known: " + ", ".join(names)
    return ""


def _indent(key: str, text: str) -> str:
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"  {key}: {first}", *("    " + line for line in rest)])
