"""The budget: shares, percentiles, the bottleneck and the advice, on scripted time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgewise.live.base import Frame, View
from edgewise.live.profile import Profile, Settings, lines

SETTINGS = Settings("haar", every=10, detector_width=320, format="onnx", threads=1, live=True, window=False)
PIXELS = np.zeros((2, 2, 3), np.uint8)


class Clock:
    now = cpu = 0.0

    def __call__(self) -> float:
        return self.now


def profiled(stages: list[dict[str, float]], period: float, settings: Settings = SETTINGS) -> Profile:
    """A profile of frames with these stages, one a `period`, on a CPU that is half busy; a first frame goes before."""
    clock = Clock()
    profile = Profile(settings, clock, lambda: clock.now / 2)
    for number, one in enumerate([{}, *stages]):
        frame = Frame(number, clock.now, PIXELS)
        profile.add(View("live", frame, (), one, age_ms=10 + number, dropped=1, detected="detect" in one))
        clock.now += period
    return profile


def test_a_stage_that_seldom_runs_counts_by_its_time_over_all_frames() -> None:
    usual = {"grab": 5.0, "track": 1.0, "classify": 2.0}
    stages = [{**usual, "detect": 40.0} if number % 10 == 0 else usual for number in range(100)]
    budget = profiled(stages, 0.007).budget()
    assert budget is not None
    by_name = {stage.name: stage for stage in budget.stages}
    assert [stage.name for stage in budget.stages] == ["grab", "detect", "track", "classify"]
    assert by_name["detect"].n == 10
    assert by_name["detect"].p50_ms == 40
    assert by_name["detect"].p90_ms is None  # ten samples hold no p90
    assert by_name["track"].p90_ms == 1
    assert by_name["detect"].ms_per_frame == pytest.approx(4)
    assert by_name["detect"].share == pytest.approx(4 / 7)
    assert by_name["grab"].share is None
    assert sum(stage.share for stage in budget.stages if stage.share is not None) == pytest.approx(1)
    assert budget.frames == 100
    assert budget.fps == pytest.approx(1 / 0.007)
    assert budget.dropped == 100
    assert budget.detections == 10
    assert budget.cpu == pytest.approx(50)
    assert budget.idle == pytest.approx(0)
    assert budget.bottleneck == "detect"
    assert "--every 20 saves about 2.0 ms a frame" in budget.advice[0]
    assert any("--detector-width 160" in words for words in budget.advice)
    table = "\n".join(lines(budget))
    assert "(n<44)" in table
    assert "bottleneck: detect" in table


def test_ages_are_those_at_showing() -> None:
    profile = profiled([{"classify": 1.0}] * 99, 0.001)
    budget = profile.budget()
    assert budget is not None
    assert budget.age_p50_ms == pytest.approx(60)
    assert budget.age_p90_ms == 100
    shown = Profile(SETTINGS, Clock(), Clock())
    for number in range(3):
        shown.add(View("live", Frame(number, 0, PIXELS), age_ms=10), draw_ms=5)
    budget = shown.budget()
    assert budget is not None
    assert budget.age_p50_ms == 15
    assert budget.age_p90_ms is None
    assert [stage.name for stage in budget.stages] == ["draw"]


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("classify", "edgewise export RUN --to auto"),
        ("track", "fewer false alarms"),
        ("crop", "--camera 640x480"),
        ("draw", "--headless"),
    ],
)
def test_the_largest_stage_is_the_bottleneck_and_says_what_to_change(stage: str, told: str) -> None:
    base = {"grab": 1.0, "detect": 1.0, "track": 1.0, "crop": 1.0, "classify": 1.0, "draw": 1.0}
    budget = profiled([{**base, stage: 10.0}] * 50, 0.015).budget()
    assert budget is not None
    assert budget.bottleneck == stage
    assert told in " ".join(budget.advice)


@pytest.mark.parametrize(("live", "told"), [(True, "ask the camera for more"), (False, "decoding takes the time")])
def test_a_loop_that_waits_has_its_bottleneck_in_the_source(live: bool, told: str) -> None:
    settings = dataclasses.replace(SETTINGS, live=live)
    budget = profiled([{"grab": 33.0, "classify": 3.0}] * 50, 1 / 30, settings).budget()
    assert budget is not None
    assert budget.bottleneck == "source"
    assert budget.idle == pytest.approx(0.91)
    assert "333 frames a second" in budget.advice[0]
    assert told in budget.advice[1]


def test_no_signal_is_not_counted_and_nothing_is_no_budget() -> None:
    profile = Profile(SETTINGS, Clock(), Clock())
    assert profile.budget() is None
    profile.add(View("no signal"))
    profile.add(View("live", Frame(0, 0, PIXELS)))
    assert profile.budget() is None


def test_samples_do_not_grow_for_ever() -> None:
    from edgewise.live import profile as module

    profile = profiled([{"classify": 1.0}] * (module.KEPT + 500), 0.001)
    assert len(profile._samples["classify"]) == module.KEPT
    budget = profile.budget()
    assert budget is not None
    assert budget.stages[0].n == module.KEPT + 500
