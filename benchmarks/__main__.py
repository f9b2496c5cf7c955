"""Run the recipes that docs/results.md reports and print its table: ``make bench`` or ``python -m benchmarks NAME``.

Each benchmark is a recipe and a run; the table holds what `edgewise compare` says of it, rows that lose included.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgewise import Opening, load_recipe, read_result, run
from edgewise.progress import for_terminal
from edgewise.report import comparison

ROOT = Path(__file__).parents[1]
RECIPES = ("fashion-mnist", "demo")


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; shares in percent with their intervals, latency as a ratio to the base."""
    lines = [
        "| file | test accuracy % | macro F1 % | against base, points | parameters | MACs | bytes | latency / base |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            ("" if row["role"] != "control" else "(control) ") + row["name"],
            _interval(row, "accuracy", 100, 2),
            _interval(row, "macro_f1", 100, 2),
            _interval(row, "difference_accuracy", 100, 2) if row["difference_accuracy"] is not None else "",
            f"{row['params_total']:,}",
            f"{row['macs']:,}",
            f"{row['file_bytes']:,}",
            _interval(row, "latency_ratio", 1, 3) if not row["is_base"] else "1",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all."""
    for name in names or RECIPES:
        out = ROOT / "runs" / f"bench-{name}"
        argv = ["edgewise", "run", f"recipes/{name}.yaml", "--out", f"runs/bench-{name}", "--force"]
        run(
            load_recipe(ROOT / "recipes" / f"{name}.yaml"),
            out,
            opening=Opening(force=True, argv=argv),
            progress=for_terminal(),
        )
        result = read_result(out / "results.json")
        print(f"\n## {name}\n\n`{result.command}`\n\n{markdown(comparison([result]))}\n")
        print(f"chosen: {result.chosen}; seconds: {json.dumps(result.seconds)}; machine: {result.machine.get('cpu')}")


def _interval(row: dict[str, Any], key: str, scale: float, digits: int) -> str:
    value, low, high = (scale * row[k] for k in (key, f"{key}_low", f"{key}_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
