"""What several tests of the report look at: the printed table, one row, gold files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from edgewise.report import comparison, print_table
from edgewise.results import RunResult

GOLD = Path(__file__).parent / "gold"


def check_gold(name: str, text: str) -> None:
    """Compare with a gold file; ``EDGEWISE_ACCEPT=1 pytest`` writes it anew."""
    path = GOLD / name
    if os.environ.get("EDGEWISE_ACCEPT") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def printed(results: list[RunResult], width: int = 100, **options: Any) -> str:
    """What the table prints; trailing blanks are cut."""
    stream = io.StringIO()
    print_table(results, Console(file=stream, width=width, legacy_windows=False, **options))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def named(result: RunResult, name: str) -> dict[str, Any]:
    return next(row for row in comparison([result]) if row["name"] == name)
