"""Records go to JSON and back unchanged; what is not such a record is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewise.errors import ConfigError, UntrustedError
from edgewise.results import Cost, read_result, to_json
from tests.report.builders import run_result


def write(folder: Path, text: str) -> Path:
    path = folder / "results.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_round_trip(tmp_path: Path) -> None:
    result = run_result(classes=("dög", "<script>", "=1+1"))
    assert read_result(write(tmp_path, to_json(result))) == result


def test_results_from_before_there_were_calibrations_are_read(tmp_path: Path) -> None:
    raw = json.loads(to_json(run_result()))
    for measurement in raw["measurements"]:
        del measurement["calibration"]
    assert {one.calibration for one in read_result(write(tmp_path, json.dumps(raw))).measurements} == {None}


def test_flops_are_twice_the_macs() -> None:
    assert Cost(1, 1, 0, 21, 4).flops == 42


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 99}, "results of layout version 99; this edgewise reads 1"),
        ({"measurements": [{"name": "x"}]}, r"not a valid RunResult[\s\S]*key: measurements\.0\.variant"),
        ({"seed": "seven"}, r"key: seed"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    raw = json.loads(to_json(run_result())) | change
    with pytest.raises(UntrustedError, match=told):
        read_result(write(tmp_path, json.dumps(raw)))


def test_damage_is_refused_and_absence_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results here"):
        read_result(tmp_path / "results.json")
    with pytest.raises(UntrustedError, match="cannot read results"):
        read_result(write(tmp_path, to_json(run_result())[:-20]))
