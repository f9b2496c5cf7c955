"""What can be written here, format by format and precision by precision."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import get_args

import pytest

from edgewise.device import RUNTIMES
from edgewise.doctor import _converter
from edgewise.export import FORMATS
from edgewise.export.offers import Offer, offer
from edgewise.recipe import Precision, every, load_recipe
from edgewise.report.status import status_rows
from edgewise.results import Attempt, ExportResult


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_precision_that_a_format_does_not_have_is_not_written(format_: str, precision: str) -> None:
    found = offer(format_, precision)
    assert (found.state == "not written") == (precision not in FORMATS[format_].precisions)
    if found.state == "not written":
        assert found.reason.startswith(f"{format_} has no {precision} files, only fp32")


def test_a_format_that_nothing_writes_is_not_written() -> None:
    assert offer("tflite", "fp32") == Offer("not written", "this edgewise does not write tflite")


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    found = importlib.util.find_spec

    def hidden(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hidden)


def test_openvino_needs_nncf_for_int8_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {offer("openvino", precision).state for precision in ("fp32", "fp16", "int8")} == {"ready"}
    hide(monkeypatch, "nncf")
    assert [offer("openvino", precision).state for precision in ("fp32", "fp16", "int8")] == [
        "ready",
        "ready",
        "missing",
    ]
    assert offer("openvino", "int8").reason == 'its converter is not installed: pip install "edgewise[openvino]"'
    check = _converter("openvino")
    assert (check["ok"], check["detail"]) == (True, 'fp32, fp16, int8 (pip install "edgewise[openvino]")')


def test_without_its_runtime_everything_a_format_has_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "version", lambda self: None)
    for precision in FORMATS["openvino"].precisions:
        assert offer("openvino", precision) == Offer(
            "missing", f"its runtime is not installed: {RUNTIMES['openvino'].install}"
        )


def test_auto_asks_for_all_and_the_table_says_not_written() -> None:
    options = every(load_recipe(None, {"data.source": "digits"}).export)
    rows = [
        Attempt("base", format_, precision, offer(format_, precision).state)  # type: ignore[arg-type]
        for format_ in options.formats
        for precision in options.precisions
        if offer(format_, precision).state == "not written"
    ]
    assert {(row.format, row.precision) for row in rows} == {("packed", "fp16"), ("packed", "int8"), ("litert", "fp16")}
    result = ExportResult("run", "", "", ["auto"], 1, rows, [], {"base": 0.0}, {}, {})
    assert {row[2] for row in status_rows(result, "base")} == {"not written"}
