"""Stopping on a signal: at once, or at the next safe place while something is being done that wants to end well.

Ctrl-C, SIGTERM and SIGHUP raise `Interrupted`. Inside `deferred` the first one is only noted, so that a training step
is finished and its state saved; the second one raises at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from edgewise import ranks

RESUMABLE = 75
"""Exit code after a hang-up: EX_TEMPFAIL, worth trying again."""

_deferring = 0
_noted: int | None = None


class Interrupted(BaseException):
    """A signal asked to stop. Not a KeyboardInterrupt, which typer would turn into an exit code of its own.

    Attributes:
        number: the signal.
        saved: the run folder whose state was saved and can be resumed, None when there is none.
    """

    def __init__(self, number: int, saved: Path | None = None) -> None:
        super().__init__(number)
        self.number = number
        self.saved = saved

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 75 after a hang-up."""
        return RESUMABLE if self.number == signal.SIGHUP else 128 + self.number


def listen() -> None:
    """Take over SIGINT, SIGTERM and SIGHUP; those that are ignored (as under nohup) stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Inside the block, the first signal is noted instead of raised; yields what tells it (None when there is none)."""
    global _deferring, _noted
    _deferring += 1
    try:
        yield lambda: _noted
    finally:
        _deferring -= 1
        if not _deferring:
            _noted = None


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _noted
    if _deferring and _noted is None:
        _noted = number
        if not ranks.rank():
            print("stopping after this step; once more stops at once", file=sys.stderr, flush=True)
    else:
        raise Interrupted(number)
