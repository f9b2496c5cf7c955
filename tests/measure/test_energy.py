"""Energy per inference from planted readings."""

from __future__ import annotations

from typing import Any

import pytest

from edgewise.measure.energy import mean_watts, per_inference


def readings(watts: float, start: float, end: float, every: float = 0.1) -> list[tuple[float, float]]:
    steps = round((end - start) / every)
    return [(start + step * every, watts * step * every) for step in range(steps + 1)]


def raw(**changes: Any) -> dict[str, Any]:
    """Idle at 2 W; 5 W at full pace, 3 W when 5 pictures a second are looked at."""
    return {
        "source": "INA3221 (hwmon)",
        "boundary": "whole module (VDD_IN)",
        "idle": [readings(2.0, 0, 10), readings(2.0, 100, 110)],
        "full": {
            "energy": readings(5.0, 20, 60),
            "blocks": [[20.5, 30.5, 1000], [31.0, 41.0, 1000], [41.0, 51.0, 800]],
        },
        "paced": {"energy": readings(3.0, 70, 90), "blocks": [[70.0, 90.0, 100]]},
        "per_second": 5.0,
        **changes,
    }


def test_gross_and_net_are_told_apart() -> None:
    found = per_inference(raw())
    assert found["source"] == "INA3221 (hwmon)"
    assert found["idle_w"] == pytest.approx(2.0)
    assert found["active_w"] == pytest.approx(5.0)
    assert found["mj_gross"] == pytest.approx(50.0)  # 5 W for 10 ms; the median of three blocks
    assert found["mj_net"] == pytest.approx(30.0)
    assert found["rate"] == pytest.approx(100.0)
    assert found["paced"]["mj_gross"] == pytest.approx(600.0)
    assert found["paced"]["mj_net"] == pytest.approx(200.0)
    assert found["paced"]["rate"] == pytest.approx(5.0)
    assert not any("coarse" in note or "idle power" in note for note in found["notes"])


def test_few_readings_and_a_changing_idle_are_noted() -> None:
    found = per_inference(
        raw(
            idle=[readings(2.0, 0, 10), readings(2.5, 0, 10)],
            full={"energy": readings(5.0, 20, 60, every=1.0), "blocks": [[20.0, 30.0, 1000]]},
        )
    )
    assert any(note.startswith("coarse: 11 readings") for note in found["notes"])
    assert any("2.00 -> 2.50 W" in note for note in found["notes"])


def test_without_a_source_it_says_why() -> None:
    assert per_inference({"source": None, "why": "no sensor"}) == {"source": None, "why": "no sensor"}
    assert per_inference({})["why"] == "not measured by this protocol"


def test_a_sensor_that_fell_silent_gives_no_figure() -> None:
    found = per_inference(
        raw(idle=[[], []], full={"energy": [], "blocks": [[0.0, 1.0, 5]]}, paced={"energy": [], "blocks": []})
    )
    assert (found["idle_w"], found["active_w"], found["mj_net"], found["paced"]) == (None, None, None, None)
    assert mean_watts([(0.0, 1.0)]) is None
