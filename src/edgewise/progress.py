"""How long work tells where it stands: a bar with ETA on a terminal, a line per task elsewhere, or nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol, TextIO

from edgewise import ranks


class Advance(Protocol):
    """Reports `steps` more done; `note` is shown beside the bar."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Say that `steps` more are done."""
        ...


class Progress(Protocol):
    """Where a piece of work shows how far it is."""

    def task(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """A task of `total` steps; used as ``with progress.task("train", 100) as advance: advance()``."""
        ...

    def say(self, text: str) -> None:
        """One line of news."""
        ...


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """A task that is not shown."""
        yield _ignore

    def say(self, text: str) -> None:
        """Says nothing."""


class Lines:
    """One line when a task ends; for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:  # noqa: ARG002
        """A task that prints one line when it is done."""
        last = ""

        def advance(steps: int = 1, note: str = "") -> None:  # noqa: ARG001
            nonlocal last
            last = note or last

        yield advance
        self.say(f"{title}: {last}" if last else title)

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream, flush=True)


class Terminal:
    """A bar with ETA on standard error."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """A task with a bar; it leaves one line behind."""
        from rich import progress as bars

        columns = (
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=30),
            bars.TaskProgressColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[note]}"),
        )
        with bars.Progress(*columns, console=self._console, transient=True) as shown:
            task = shown.add_task(title, total=total, note="")
            last = ""

            def advance(steps: int = 1, note: str = "") -> None:
                nonlocal last
                last = note or last
                shown.update(task, advance=steps, note=last)

            yield advance
        self.say(f"{title}: {last}" if last else title)

    def say(self, text: str) -> None:
        """Print one line, without markup."""
        self._console.print(text, markup=False, highlight=False)


def for_terminal(*, quiet: bool = False) -> Progress:
    """The right one for standard error."""
    if quiet or ranks.rank():
        return Silent()
    return Terminal() if sys.stderr.isatty() else Lines()


def _ignore(steps: int = 1, note: str = "") -> None:
    """Takes a report and does nothing with it."""
