"""When each file says `unknown`, and what its answers are worth: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgewise.report.rows import Row, interval
from edgewise.report.words import NONE, show_share

WORDS = {"holds": "as asked", "below": "fewer than asked", "none": "no threshold"}


def show_threshold(value: float | None) -> str:
    """A confidence to four decimals, more where it would look like 1; 0 answers everything."""
    if value is None:
        return NONE
    return "0" if value == 0 else f"{value:.4f}" if value < 0.99995 else f"{value:.8f}"


def answers_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The table of thresholds; controls, which nobody ships, and rows without the figures are left out."""
    return [
        {
            "name": row["name"],
            "asked": show_share(row["precision_asked"]),
            "below": show_threshold(row["unknown_below"]),
            "answered": show_share(*interval(row, "answered")),
            "right": show_share(*interval(row, "answered_rightly")),
            "n": NONE if row["answers"] is None else f"{row['answers']:,}",
            "verdict": row["answers_verdict"],
            "words": WORDS[row["answers_verdict"]],
            "note": row["no_threshold"],
        }
        for row in rows
        if row["precision_asked"] is not None and row["role"] != "control"
    ]


def answer_lines(rows: Sequence[Row]) -> list[str]:
    """The same as lines of text, the columns aligned; none where no row has the figures."""
    shown = answers_of(rows)
    if not shown:
        return []
    cells = [("", "unknown below", "answered %", "right %", "of answers")]
    cells += [(one["name"].replace("\n", " "), one["below"], one["answered"], one["right"], one["n"]) for one in shown]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    asked = ", ".join(dict.fromkeys(one["asked"] for one in shown))
    lines = [f"answers, on test images; the threshold was chosen on validation images for {asked} % right:"]
    for row in cells:
        padded = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *padded]).rstrip())
    for verdict, words in (("below", "fewer are right than was asked for, by more than chance"), ("none", "")):
        reasons: dict[str, list[str]] = {}
        for one in shown:
            if one["verdict"] == verdict:
                reasons.setdefault(words or one["note"], []).append(one["name"])
        lines += [f"  {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return lines
