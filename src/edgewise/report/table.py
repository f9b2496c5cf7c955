"""The comparison of measurements: one row each, as data, on a terminal, as CSV and as JSON.

A row is a flat JSON-able object; `comparison` names its keys, and docs/report.md defines each. Rows come base first,
then variant by variant, a control directly after what it controls.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgewise import runs
from edgewise.errors import UnavailableError, UntrustedError
from edgewise.results import Estimate, Latency, Measurement, RunResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

Row = dict[str, Any]

METRICS = {"macro_f1": "macro F1", "accuracy": "accuracy"}
"""Quality figures a goal can be set on, and how they are written."""


# ---------------------------------------------------------------------------------------------------------------
# Rows.


def comparison(results: Sequence[RunResult]) -> list[Row]:
    """One flat, JSON-able row per measurement of one or several runs; a figure that is not known is None.

    Quality figures are those of the test images. Names are written ``run/name`` only where two runs share a name.
    `pareto` is True when no row of the same group is at least as good in macro F1, model latency p50 and file size and
    better in one of them. A group is what was timed on one machine (same fingerprint) on one day; a row without a valid
    latency is not ranked and has `pareto` False.

    Raises:
        UntrustedError: a run's `chosen` names none of its measurements.

    Warns:
        UserWarning: the runs were timed on different machines or days, so that their latencies cannot be compared.
    """
    for message in incomparable(results):
        warnings.warn(message, UserWarning, stacklevel=2)
    return rows_of(results)


def incomparable(results: Sequence[RunResult]) -> list[str]:
    """Why latencies of these runs must not be ranked together, in sentences; empty when they may be."""
    if len(results) < 2:
        return []
    fingerprints = {_fingerprint(result) for result in results}
    if None in fingerprints:
        return ["A run does not say which machine it was timed on: latencies are not ranked across runs."]
    if len(fingerprints) > 1:
        return [
            "The runs were timed on different machines (fingerprints differ): latencies are not ranked across them."
        ]
    if len({result.created[:10] for result in results}) > 1:
        return ["The runs were timed on different days: latencies are not ranked across them."]
    return []


def pareto_front(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other point dominates. Every coordinate is better when smaller.

    A point dominates another when it is nowhere worse and somewhere better; equal points do not dominate each other.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def pace(latency: Latency | None) -> Literal["faster", "slower", "same"] | None:
    """What may be claimed of a latency against its reference; None when it was not validly compared.

    "faster" and "slower" need an interval of the paired ratio that excludes 1 and an effect larger than twice the A/A
    spread of the session; anything less is "same".
    """
    if latency is None or latency.ratio is None or latency.aa_spread is None or not latency.valid:
        return None
    ratio = latency.ratio
    if abs(ratio.value - 1) <= 2 * latency.aa_spread or ratio.low <= 1 <= ratio.high:
        return "same"
    return "faster" if ratio.value < 1 else "slower"


def base_of(result: RunResult) -> Measurement | None:
    """What a run's models are compared with: the uncompressed model in fp32; None when it was not measured."""
    return _base(result.measurements)


def _base(measurements: Sequence[Measurement]) -> Measurement | None:
    bases = [one for one in measurements if one.role == "base"]
    return next((one for one in bases if one.precision == "fp32"), bases[0] if bases else None)


def goal_shortfall(result: RunResult, measurement: Measurement) -> float | None:
    """By how much a measurement misses the run's goal on validation images, as a share; 0 or less when it meets it.

    None when the goal sets no limit, or sets one relative to a base that was not measured.
    """
    metric = result.goal.get("metric", "macro_f1")
    limits = [] if result.goal.get("min") is None else [float(result.goal["min"])]
    base = base_of(result)
    if result.goal.get("max_drop") is not None:
        if base is None:
            return None
        limits.append(_metric(base, metric) - float(result.goal["max_drop"]))
    return max(limits) - _metric(measurement, metric) if limits else None


def meets_goal(result: RunResult, measurement: Measurement) -> bool | None:
    """Whether a measurement meets the run's goal on validation images; None when there is no limit to meet."""
    shortfall = goal_shortfall(result, measurement)
    return None if shortfall is None else shortfall <= 1e-9


def _metric(measurement: Measurement, metric: str) -> float:
    estimate: Estimate = getattr(measurement.validation, metric)
    return estimate.value


def ordered(measurements: Sequence[Measurement]) -> list[tuple[Measurement, Measurement | None]]:
    """Measurements in the order they are shown, each control with what it controls.

    Base first, then by variant in order of appearance. A control follows the measurement of its variant that has the
    same precision, or stands at the end of its variant (with None) when there is none.
    """
    base = _base(measurements)
    leads = [one for one in measurements if one.role != "control"]
    leads.sort(key=lambda one: (one is not base, one.role != "base"))
    variants = [one.variant for one in leads]
    families: dict[str, list[Measurement]] = {}
    for one in (*leads, *(one for one in measurements if one.role == "control")):
        families.setdefault(family(one.variant, variants), []).append(one)
    shown: list[tuple[Measurement, Measurement | None]] = []
    for members in families.values():
        controls = [one for one in members if one.role == "control"]
        for lead in (one for one in members if one.role != "control"):
            shown.append((lead, None))
            shown += [(one, lead) for one in controls if one.precision == lead.precision]
            controls = [one for one in controls if one.precision != lead.precision]
        shown += [(one, None) for one in controls]
    return shown


def family(variant: str, variants: Sequence[str]) -> str:
    """The variant a row belongs to: a control may be named after its variant, as in ``prune50-control``."""
    if variant in variants:
        return variant
    named = [known for known in variants if re.match(re.escape(known) + r"[^A-Za-z0-9]", variant)]
    return max(named, key=len, default=variant)


def rows_of(results: Sequence[RunResult]) -> list[Row]:
    """The rows of `comparison`, without its warnings."""
    labels = run_labels(results)
    rows: list[Row] = []
    for result, label in zip(results, labels, strict=True):
        if result.chosen is not None and result.chosen not in {one.name for one in result.measurements}:
            raise UntrustedError(
                "the results choose a model that they do not hold",
                code="U01",
                where={"run": label, "chosen": result.chosen},
                fix="the file was changed or damaged after it was written; make it again",
            )
        rows += [_row(result, label, one, lead) for one, lead in ordered(result.measurements)]
    counts = Counter(name for result in results for name in {one.name for one in result.measurements})
    for row in rows:
        for key in ("name", "control_of"):
            if row[key] is not None and counts[row[key]] > 1:
                row[key] = f"{row['run']}/{row[key]}"
    _mark_pareto(rows)
    return [{key: clean(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows]


def run_labels(results: Sequence[RunResult]) -> list[str]:
    """The runs' names; runs that share a name are numbered in the order given, ``name#1``, ``name#2``."""
    shared = Counter(result.name for result in results)
    seen: Counter[str] = Counter()
    labels = []
    for result in results:
        seen[result.name] += 1
        labels.append(f"{result.name}#{seen[result.name]}" if shared[result.name] > 1 else result.name)
    return labels


def _row(result: RunResult, label: str, one: Measurement, lead: Measurement | None) -> Row:
    return {
        "name": one.name,
        "run": label,
        "variant": one.variant,
        "role": one.role,
        "is_base": one is base_of(result),
        "control_of": lead.name if lead else None,
        "plan": one.plan,
        "format": one.format,
        "precision": one.precision,
        "scheme": one.scheme,
        "chosen": one.name == result.chosen,
        "pareto": False,
        "meets_goal": meets_goal(result, one),
        **_quality(one),
        **_cost(one),
        **_latency(one),
        "parity_n": one.parity.n,
        "parity_max_abs_logit_delta": one.parity.max_abs_logit_delta,
        "parity_top1_agreement": one.parity.top1_agreement,
        "parity_tolerance": one.parity.tolerance,
        "parity_passed": one.parity.passed,
        "bundle": one.bundle,
        "sha256": one.sha256,
        "fingerprint": _fingerprint(result),
        "created": result.created,
        "notes": "; ".join(one.notes),
    }


def _quality(one: Measurement) -> Row:
    difference = one.difference
    return {
        "test_images": one.test.n,
        **_spread("accuracy", one.test.accuracy),
        **_spread("macro_f1", one.test.macro_f1),
        "difference_reference": difference.reference if difference else None,
        **_spread("difference_accuracy", difference.accuracy if difference else None),
        **_spread("difference_macro_f1", difference.macro_f1 if difference else None),
        "validation_images": one.validation.n,
        "validation_accuracy": one.validation.accuracy.value,
        "validation_macro_f1": one.validation.macro_f1.value,
    }


def _cost(one: Measurement) -> Row:
    cost = one.cost
    return {
        "params_total": cost.params_total,
        "params_nonzero": cost.params_nonzero,
        "params_zero": cost.params_zero,
        "macs": cost.macs,
        "flops": cost.flops,
        "file_bytes": cost.file_bytes,
        "peak_rss_bytes": one.memory.peak_rss_bytes if one.memory else None,
        "baseline_rss_bytes": one.memory.baseline_rss_bytes if one.memory else None,
    }


def _latency(one: Measurement) -> Row:
    latency = one.latency
    model, e2e = (latency.model, latency.e2e) if latency else (None, None)
    return {
        **_spread("latency_p50_ms", model.p50_ms if model else None),
        "latency_p90_ms": model.p90_ms if model else None,
        "latency_p99_ms": model.p99_ms if model else None,
        "latency_mean_ms": model.mean_ms if model else None,
        "latency_sd_ms": model.sd_ms if model else None,
        "latency_min_ms": model.min_ms if model else None,
        "latency_runs": model.n if model else None,
        **_spread("latency_ratio", latency.ratio if latency else None),
        "latency_reference": latency.reference if latency else None,
        "latency_aa_spread": latency.aa_spread if latency else None,
        "pace": pace(latency),
        **_spread("e2e_p50_ms", e2e.p50_ms if e2e else None),
        "e2e_p90_ms": e2e.p90_ms if e2e else None,
        "load_ms": latency.load_ms if latency else None,
        "first_ms": latency.first_ms if latency else None,
        "protocol": latency.protocol if latency else None,
        "threads": latency.threads if latency else None,
        "valid": latency.valid if latency else None,
        "invalid_reasons": "; ".join(latency.invalid_reasons) if latency else None,
    }


def _spread(key: str, estimate: Estimate | None) -> Row:
    return {
        key: estimate.value if estimate else None,
        f"{key}_low": estimate.low if estimate else None,
        f"{key}_high": estimate.high if estimate else None,
    }


def _mark_pareto(rows: list[Row]) -> None:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["valid"]:
            machine = row["fingerprint"] or f"unknown machine of {row['run']}"
            groups.setdefault((machine, row["created"][:10]), []).append(row)
    for group in groups.values():
        front = pareto_front([(-row["macro_f1"], row["latency_p50_ms"], row["file_bytes"]) for row in group])
        for row, optimal in zip(group, front, strict=True):
            row["pareto"] = optimal


def _fingerprint(result: RunResult) -> str | None:
    found = result.machine.get("fingerprint")
    return None if found is None else str(found)


# ---------------------------------------------------------------------------------------------------------------
# Files.


def write_json(results: Sequence[RunResult], path: Path) -> None:
    """Write the rows of `comparison` as a JSON list, atomically.

    Raises:
        UnavailableError: the file cannot be written.
    """
    write_file(path, json.dumps(comparison(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(results: Sequence[RunResult], path: Path) -> None:
    """Write the rows of `comparison` as CSV (RFC 4180 quoting, UTF-8, LF), atomically.

    A text that a spreadsheet would take for a formula (it starts with = + - @, a tab or a carriage return) gets a
    leading apostrophe; numbers, negative ones too, stay numbers. None is an empty cell, booleans are true and false.

    Raises:
        UnavailableError: the file cannot be written.
    """
    rows = comparison(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    write_file(path, stream.getvalue())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value


def write_file(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        UnavailableError: the folder is missing or read-only, the disk is full, or the path is a folder.
    """
    try:
        runs.write_text(path, text)
    except OSError as problem:
        raise UnavailableError(
            "cannot write this file",
            code="E41",
            where={"file": path},
            why=problem.strerror or str(problem),
            fix="choose a folder that can be written and has free space",
        ) from problem


# ---------------------------------------------------------------------------------------------------------------
# Words and figures. Missing figures are an en dash.

NONE = "–"

# Control characters (but tab and line feed), bidirectional overrides and lone surrogates: they could rewrite a
# terminal, turn a name around on the page, or make the text impossible to encode.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""The text with unprintable and direction-changing characters written out, e.g. ESC as ``\x1b``."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def half_width(value: float, low: float, high: float) -> float:
    """The ± of an interval: its wider side, so that value ± half-width covers it."""
    return max(value - low, high - value)


def _figure(value: float, low: float | None, high: float | None, decimals: int, sign: bool = False) -> str:
    """``4.31 ±0.05``: the ± has as many decimals as the value and is rounded up, so that it is never a false zero."""
    text = f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−")
    if not text.strip("+−0."):
        text = text.lstrip("+−")
    if low is None or high is None:
        return text
    step = 10.0**decimals
    return f"{text} ±{math.ceil(half_width(value, low, high) * step - 1e-6) / step:.{decimals}f}"


def show_share(value: float | None, low: float | None = None, high: float | None = None, *, sign: bool = False) -> str:
    """A share in percent, ``97.8`` or ``97.8 ±1.0``; with `sign`, a difference in points, ``+0.4`` or ``−0.4``."""
    if value is None:
        return NONE
    scaled = [None if end is None else 100 * end for end in (low, high)]
    return _figure(100 * value, scaled[0], scaled[1], 1, sign)


def show_ms(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Milliseconds to three significant digits, ``4.31 ±0.05``."""
    if value is None:
        return NONE
    return _figure(value, low, high, 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0)


def show_ratio(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A ratio to two decimals, ``0.31 ±0.02``, or three below a fifth, ``0.141 ±0.005``."""
    return NONE if value is None else _figure(value, low, high, 2 if value >= 0.2 else 3)


def show_scaled(value: float | None, unit: str = "") -> str:
    """Three significant digits with a decimal prefix: ``165 M``, ``376 kB`` (k = 1,000)."""
    if value is None:
        return NONE
    factor, prefix = next((step for step in _PREFIXES if value >= 0.9995 * step[0]), (1.0, ""))
    scaled = value / factor
    decimals = 0 if factor == 1 or scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{decimals}f} {prefix}{unit}".rstrip()


_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def method_line(result: RunResult) -> str:
    """How the figures were taken, in one line: machine, runtime, threads, batch, runs, statistic, validity."""
    machine = result.machine
    shown = [form(machine[key]) for key, form in _MACHINE_FACTS.items() if machine.get(key) not in (None, "")]
    if "onnxruntime" in result.versions:
        shown.append(f"onnxruntime {result.versions['onnxruntime']}")
    shown += _timing_words([one.latency for one in result.measurements if one.latency])
    if result.measurements:
        shown.append(f"quality on {_range(one.test.n for one in result.measurements)} test images")
    return clean(", ".join(shown)).replace("\n", " ")


_MACHINE_FACTS: dict[str, Callable[[Any], str]] = {
    "model": str,
    "cpu": str,
    "cores_physical": lambda cores: _plural(f"{cores}", "core"),
    "ram_bytes": lambda size: f"{show_scaled(size, 'B')} RAM",
    "os": str,
    "kernel": lambda kernel: f"kernel {kernel}",
    "governor": lambda governor: f"governor {governor}",
}


def _timing_words(timed: Sequence[Latency]) -> list[str]:
    if not timed:
        return ["no latency measured"]
    protocols = ", ".join(dict.fromkeys(latency.protocol for latency in timed))
    invalid = sum(not latency.valid for latency in timed)
    return [
        _plural(_range(latency.threads for latency in timed), "thread"),
        f"batch 1, n={_range(latency.model.n for latency in timed)}, p50 [95 % CI]",
        f"{protocols} protocol" + (" (not comparable with other sessions)" if "quick" in protocols else ""),
        f"{invalid} of {len(timed)} latencies not valid" if invalid else "all latencies valid",
    ]


def relative_only(result: RunResult) -> str | None:
    """Why absolute times of this machine mean little (a shared or virtual one), None when they can be trusted."""
    if not result.machine.get("relative_only"):
        return None
    return clean(str(result.machine.get("relative_only_reason") or "a shared or virtual machine"))


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,}-{found[-1]:,}"


def _plural(count: str, noun: str) -> str:
    return f"{count} {noun}" if count == "1" else f"{count} {noun}s"


# ---------------------------------------------------------------------------------------------------------------
# Terminal.


@dataclass(frozen=True)
class _Column:
    """A column of the terminal table. `keep` orders the dropping: the lowest goes first, 9 never goes."""

    title: str
    cell: Callable[[Row], str]
    keep: int


def _spread_cell(show: Callable[..., str], key: str, **options: Any) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        shown: str = show(row[key], row[f"{key}_low"], row[f"{key}_high"], **options)
        return shown

    return cell


def _name_cell(row: Row) -> str:
    name: str = row["name"].removeprefix(f"{row['run']}/").replace("\n", " ")  # the run stands above its rows
    return ("★ " if row["chosen"] else "") + ("└ " + name if row["role"] == "control" else name)


def _ratio_cell(row: Row) -> str:
    shown = show_ratio(row["latency_ratio"], row["latency_ratio_low"], row["latency_ratio_high"])
    return shown + (" ▲" if row["pace"] == "slower" else "")


def _p50_cell(row: Row) -> str:
    shown = show_ms(row["latency_p50_ms"], row["latency_p50_ms_low"], row["latency_p50_ms_high"])
    return shown + (" ✗" if row["valid"] is False else "")


_NAME, _P50, _RATIO, _E2E = "model", "p50 ms", "x base", "e2e ms"
_COLUMNS = (
    _Column(_NAME, _name_cell, 9),
    _Column("macro F1 %", _spread_cell(show_share, "macro_f1"), 9),
    _Column("vs base", _spread_cell(show_share, "difference_macro_f1", sign=True), 5),
    _Column("acc. %", _spread_cell(show_share, "accuracy"), 2),
    _Column(_P50, _p50_cell, 9),
    _Column(_RATIO, _ratio_cell, 9),
    _Column(_E2E, lambda row: show_ms(row["e2e_p50_ms"]), 4),
    _Column("size", lambda row: show_scaled(row["file_bytes"], "B"), 9),
    _Column("MACs", lambda row: show_scaled(row["macs"]), 3),
    _Column("params", lambda row: f"{row['params_total']:,}", 1),
)

_ASCII = str.maketrans({"★": "*", "±": "~", "✗": "!", "▲": "^", "└": "`", "−": "-", "–": "-", "·": "|"})


def print_table(results: Sequence[RunResult], console: Console) -> None:
    """Print the comparison, then failures, warnings and how it was measured.

    When the console is too narrow, columns are left out in this order until it fits: parameters, accuracy, MACs, e2e
    latency, difference to base. What was left out is named. Style is never the only sign of anything.

    Raises:
        UntrustedError: a run's `chosen` names none of its measurements.
    """
    rows = rows_of(results)
    if rows:
        dropped = _print_rows(rows, results, console)
        _print_legend(rows, dropped, console)
    for result, label in zip(results, run_labels(results), strict=True):
        _print_facts(result, f"{clean(label)}: " if len(results) > 1 else "", console)
    for message in incomparable(results):
        _print(console, f"warning: {message}", "yellow")


def _print_rows(rows: list[Row], results: Sequence[RunResult], console: Console) -> list[str]:
    """Print the table; the titles of the columns that did not fit are returned."""
    columns = list(_COLUMNS)
    wide = console.options.update(max_width=10_000)
    while True:
        table = _table(rows, columns, len(results) > 1, console)
        weakest = min(columns, key=lambda column: column.keep)
        if console.measure(table, options=wide).maximum <= console.width or weakest.keep == 9:
            break
        columns.remove(weakest)
    console.print(table)
    return [column.title for column in _COLUMNS if column not in columns]


def _table(rows: list[Row], columns: list[_Column], titled: bool, console: Console) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(
            _text(console, column.title),
            justify="left" if column.title == _NAME else "right",
            no_wrap=True,
            overflow="ellipsis",
        )
    run = None
    for row in rows:
        if titled and row["run"] != run:
            if run is not None:
                table.add_section()
            table.add_row(_text(console, row["run"].replace("\n", " "), "bold"))
            run = row["run"]
        table.add_row(*(_text(console, column.cell(row), _style(row, column.title)) for column in columns))
    return table


def _style(row: Row, title: str) -> str:
    if row["valid"] is False and title in (_P50, _RATIO, _E2E):
        return "strike dim"
    if row["pace"] == "slower" and title == _RATIO:
        return "red"
    if row["chosen"]:
        return "bold green" if row["meets_goal"] is not False else "bold yellow"
    if row["role"] == "control":
        return "dim"
    return "bold" if row["is_base"] and title == _NAME else ""


def _print_legend(rows: list[Row], dropped: list[str], console: Console) -> None:
    signs = [
        ("★ chosen", any(row["chosen"] for row in rows)),
        ("└ control, trained from scratch", any(row["role"] == "control" for row in rows)),
        ("▲ slower than base", any(row["pace"] == "slower" for row in rows)),
        ("✗ latency not valid", any(row["valid"] is False for row in rows)),
        ("± 95 % interval", True),
    ]
    _print(console, " · ".join(sign for sign, shown in signs if shown), "dim")
    if dropped:
        _print(console, f"left out at this width: {', '.join(dropped)}", "dim")
    for row in rows:
        if not row["parity_passed"]:
            _print(
                console, f"warning: {row['name']} did not pass parity: its file is not as good as its model", "yellow"
            )
        if row["chosen"] and row["meets_goal"] is False:
            _print(console, f"warning: {row['name']} was chosen but misses the goal on validation images", "yellow")
        if row["valid"] is False:
            _print(console, f"✗ {row['name']}: {row['invalid_reasons'] or 'no reason given'}", "yellow")


def _print_facts(result: RunResult, prefix: str, console: Console) -> None:
    if result.measurements and result.chosen is None:
        _print(console, f"{prefix}no model met the goal", "yellow")
    for failure in result.failures:
        _print(console, f"{prefix}failed: {failure.name} ({failure.stage}): {failure.reason}", "red")
    for warning in result.warnings:
        _print(console, f"{prefix}warning: {warning}", "yellow")
    stamp = relative_only(result)
    if stamp:
        _print(console, f"{prefix}relative only: {stamp}; compare the ratios, not the milliseconds", "yellow")
    _print(console, f"{prefix}measured: {method_line(result)}", "dim")


def _print(console: Console, text: str, style: str) -> None:
    console.print(_text(console, text, style))


def _text(console: Console, text: str, style: str = "") -> Text:
    """Plain text for the console: nothing in it is markup, and the signs are ASCII where the console is."""
    from rich.text import Text

    return Text(clean(text).translate(_ASCII) if console.options.ascii_only else clean(text), style=style)
