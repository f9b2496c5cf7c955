"""How results are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.errors import GateError

if TYPE_CHECKING:
    from edgewise.results import RunResult


def show_results(results: list[Any], as_json: bool) -> None:
    """The comparison table, or its rows as JSON."""
    from edgewise.report import comparison, print_table

    if as_json:
        print(json.dumps(comparison(results), indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    print_table(results, Console())


def show_run(call: Callable[[], RunResult], folder: Path, as_json: bool) -> RunResult:
    """Carry out a run and show its table; on the terminal also where nothing meets the goal."""
    try:
        result = call()
    except GateError:
        if not as_json:
            from edgewise.results import read_result

            show_results([read_result(folder / "results.json")], as_json=False)
        raise
    show_results([result], as_json)
    return result


def files_of(result: RunResult, folder: Path) -> tuple[str, ...]:
    """Where the report and the bundles are, and the next thing to do with the chosen one; the runner runs onnx ones."""
    bundle = folder / "bundles" / str(result.chosen)
    runs_it = all(row.format == "onnx" for row in result.measurements if row.name == result.chosen)
    return (
        f"report:  {folder / 'report.html'}",
        f"bundles: {folder / 'bundles'}",
        f"try:     python {bundle / 'runner.py'} classify IMAGE"
        if runs_it
        else f"try:     {bundle / 'README.md'} tells how to run it",
    )


def show_figures(summary: dict[str, Any]) -> None:
    """Accuracy and macro F1 of one training, with and without copies."""
    for split in ("validation", "test"):
        accuracy, f1 = summary[split]["accuracy"], summary[split]["macro_f1"]
        print(f"{split:10}  accuracy {_interval(accuracy)}  macro F1 {_interval(f1)}  n {accuracy['n']}")
        clean = summary[f"{split}_clean"]
        if clean:
            accuracy, f1 = clean["accuracy"], clean["macro_f1"]
            copies = f"n {accuracy['n']}, without copies of training images"
            print(f"{'':10}  accuracy {_interval(accuracy)}  macro F1 {_interval(f1)}  {copies}")


def show_folds(summary: dict[str, Any]) -> None:
    """A line per fold, then mean, standard deviation and 95 % interval."""
    keys = [(split, key) for split in ("validation", "test") for key in ("macro_f1", "accuracy")]
    titles = [f"{split} {'macro F1' if key == 'macro_f1' else key}" for split, key in keys]
    print("fold".ljust(8) + "".join(title.rjust(22) for title in titles))
    for number, fold in enumerate(summary["folds"], 1):
        cells = (f"{fold[split][key]['value']:.2%}" for split, key in keys)
        print(str(number).ljust(8) + "".join(cell.rjust(22) for cell in cells))
    spreads = [summary[split][key] for split, key in keys]
    print("mean ±sd" + "".join(f"{found['mean']:.2%} ±{found['sd']:.2%}".rjust(22) for found in spreads))
    print("95 %".ljust(8) + "".join(f"[{found['low']:.2%}, {found['high']:.2%}]".rjust(22) for found in spreads))


def _interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.2%} [{estimate['low']:.2%}, {estimate['high']:.2%}]"
