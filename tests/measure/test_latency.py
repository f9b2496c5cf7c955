"""The benchmark itself under test: scripted time, so every true figure is known and nothing waits."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drift import IMAGES, NOISY_MS, SPEC, Demonstration, demonstrate, mean
from PIL import Image
from tiny import write_model

from edgewise.bundle import InputSpec
from edgewise.device.fake import FakeClock, FakeRuntime, FakeSession, Script
from edgewise.device.rounds import SETTLE_RUNS, WARM_RUNS
from edgewise.measure import latency, machine
from edgewise.measure.latency import ROUNDS, Subject, clock_of, drift, measure
from edgewise.progress import Advance
from edgewise.results import Latency

MS = 1_000_000


def fake_session(
    folder: Path, scripts: dict[str, tuple[int, ...]], *, clock: FakeClock | None = None, **options: Any
) -> dict[str, Latency]:
    """Measure scripts by name, each with its own seed, on a quiet machine."""
    clock = clock or FakeClock()
    subjects = [
        Subject(name, Script(3, seed, delays).write(folder / f"{name}.json"), "fake")
        for seed, (name, delays) in enumerate(scripts.items())
    ]
    settings: dict[str, Any] = {"reference": None, "spec": SPEC, "seconds": 0.5, "snapshot": machine.State, **options}
    return measure(subjects, IMAGES, runtimes={"fake": FakeRuntime(clock)}, clock=clock, **settings)


# --- Figures ----------------------------------------------------------------------------------------------------


def test_a_constant_delay_is_measured_exactly(tmp_path: Path) -> None:
    found = fake_session(tmp_path, {"one": (2 * MS,)})["one"]
    for clock in (found.model, found.e2e):
        assert clock.p50_ms.value == clock.p50_ms.low == clock.p50_ms.high == 2.0
        assert (clock.mean_ms, clock.min_ms, clock.sd_ms) == pytest.approx((2.0, 2.0, 0.0))
        assert clock.p50_ms.n == clock.n
    assert (found.protocol, found.threads, found.valid, found.invalid_reasons) == ("quick", 1, True, [])
    assert (found.reference, found.ratio, found.aa_spread, found.load_ms, found.first_ms) == (None,) * 5


def test_percentiles_are_nearest_ranks_and_withheld_when_runs_are_few() -> None:
    runs = np.random.default_rng(0).permutation(np.arange(1, 461, dtype=float))
    full = clock_of(runs.reshape(20, 23), np.random.default_rng(0))
    assert (full.p50_ms.value, full.p90_ms, full.p99_ms, full.min_ms) == (230.5, 414.0, 456.0, 1.0)
    assert (full.mean_ms, full.sd_ms) == pytest.approx((runs.mean(), runs.std(ddof=1)))
    for n, p90, p99 in [(42, False, False), (44, True, False), (458, True, False), (460, True, True)]:
        clock = clock_of(np.ones((n, 1)), np.random.default_rng(0))
        assert clock.n == n
        assert (clock.p90_ms is not None, clock.p99_ms is not None) == (p90, p99)


def test_intervals_of_whole_sessions_hold_the_true_median(tmp_path: Path) -> None:
    truth = float(np.median(NOISY_MS)) / MS
    hits = 0
    for seed in range(30):
        clock = fake_session(tmp_path, {"one": (MS,)}, seed=seed, seconds=0.1, clock=_Noisy(seed))["one"].model
        hits += clock.p50_ms.low <= truth <= clock.p50_ms.high
    assert hits >= 26  # fewer than that has a probability below 0.02 at 95 %


class _Noisy(FakeClock):
    """A clock whose sessions differ although their scripts are equal."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def advance(self, ns: float) -> None:
        super().advance(self._random.choice(NOISY_MS))


def test_e2e_adds_preparing_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = FakeClock(), []
    real = latency.prepare

    def slow(image: Image.Image, *arguments: Any, **options: Any) -> Any:
        seen.append(image.size)
        clock.advance(5 * MS)
        return real(image, *arguments, **options)

    monkeypatch.setattr(latency, "prepare", slow)
    found = fake_session(tmp_path, {"one": (2 * MS,)}, clock=clock, pictures=[Image.new("RGB", (31, 17))])["one"]
    assert (found.model.p50_ms.value, found.e2e.p50_ms.value) == (2.0, 7.0)
    assert set(seen) == {(31, 17)}


# --- Protocol ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "limits", "block"),
    [
        (0.001, {}, 4),  # 100 runs are the least: 4 in each of 32 rounds
        (1.28, {}, 20),  # 1.28 s / 32 rounds / (1 + 1) ms
        (100.0, {}, 31),  # 1,000 runs are the most
        (0.001, {"min_runs": 1, "max_runs": 32}, 1),
    ],
)
def test_runs_follow_the_time_and_its_limits(
    tmp_path: Path, seconds: float, limits: dict[str, int], block: int
) -> None:
    found = fake_session(tmp_path, {"one": (MS,)}, seconds=seconds, **limits)["one"]
    assert found.model.n == found.e2e.n == ROUNDS * block


class _Diary:
    """Records which file was run, with what picture and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[tuple[str, bytes]] = []
        real = FakeRuntime.load

        def load(runtime: FakeRuntime, path: Path, threads: int = 1) -> FakeSession:
            session = real(runtime, path, threads)
            scores = session.scores

            def noted(batch: np.ndarray) -> np.ndarray:
                assert batch.shape == (1, 8, 8, 3)
                self.entries.append((path.stem, batch.tobytes()))
                return scores(batch)

            session.scores = noted  # type: ignore[method-assign]
            return session

        monkeypatch.setattr(FakeRuntime, "load", load)

    def blocks(self) -> list[str]:
        """The files in the order of their blocks, warm-up left out; neighbours of the same file merged."""
        names = [name for name, _ in self.entries]
        return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def test_rounds_are_shuffled_by_seed_and_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = dict.fromkeys("abcd", (MS,))
    runs = 4 + SETTLE_RUNS
    orders = []
    for seed in (0, 0, 1):
        diary = _Diary(monkeypatch)
        fake_session(tmp_path, scripts, seconds=0.001, seed=seed)
        names = [name for name, _ in diary.entries][-ROUNDS * 8 * runs :: runs]  # 4 model and 4 e2e blocks a round
        rounds = [names[8 * index : 8 * index + 8] for index in range(ROUNDS)]
        assert all(sorted(one[:4]) == sorted(one[4:]) == list("abcd") for one in rounds)
        assert all(even[:4] == odd[3::-1] for even, odd in zip(rounds[::2], rounds[1::2], strict=True))
        orders.append(["".join(one[:4]) for one in rounds[::2]])
        monkeypatch.undo()
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 5


def test_real_images_are_cycled_and_all_files_see_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diary = _Diary(monkeypatch)
    fake_session(tmp_path, {"a": (MS,), "b": (MS,)}, seconds=0.001)
    seen = {name: {pixels for other, pixels in diary.entries if other == name} for name in "ab"}
    assert seen["a"] == seen["b"] == {image.tobytes() for image in IMAGES}


def test_warming_up_lasts_until_the_medians_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warm_runs(clock: FakeClock, delays: tuple[int, ...] = (MS,)) -> int:
        diary = _Diary(monkeypatch)
        fake_session(tmp_path, {"one": delays}, seconds=0.001, clock=clock)
        monkeypatch.undo()
        return len(diary.entries) - 2 * ROUNDS * (4 + SETTLE_RUNS) - SETTLE_RUNS - WARM_RUNS // 2

    assert warm_runs(FakeClock()) == 40
    assert warm_runs(FakeClock(lambda now: 3 - 2 * min(1, now / (120 * MS)))) in range(90, 120)  # flat after ~66 runs
    assert warm_runs(FakeClock(lambda now: 1 + now / (100 * MS))) in range(200, 260)  # ln(11) / ln(1.01): 1 s is over
    assert warm_runs(FakeClock(), (500 * MS,)) == WARM_RUNS  # ten runs come before the cap


def test_images_may_be_fewer_and_gray(tmp_path: Path) -> None:
    gray = IMAGES[:3, :, :, :1]
    path = Script(3).write(tmp_path / "g.json")
    clock = FakeClock()
    found = measure(
        [Subject("g", path, "fake")],
        gray,
        reference=None,
        spec=InputSpec(8, 8, 1, mean=(0.5,), std=(0.5,)),
        seconds=0.001,
        runtimes={"fake": FakeRuntime(clock)},
        clock=clock,
        snapshot=machine.State,
    )
    assert found["g"].model.p50_ms.value == 1.0


def test_progress_counts_the_rounds(tmp_path: Path) -> None:
    told: list[object] = []

    class Recorder:
        @contextlib.contextmanager
        def task(self, title: str, total: int) -> Iterator[Advance]:
            told.append((title, total))

            def advance(steps: int = 1, note: str = "") -> None:
                told.append(steps)

            yield advance

        def say(self, text: str) -> None:
            raise AssertionError(text)

    fake_session(tmp_path, {"one": (MS,)}, progress=Recorder())
    assert told == [("time the files", ROUNDS), *[1] * ROUNDS]


def test_a_real_model_is_measured_by_the_real_clock(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    found = measure([Subject("tiny", path, "onnx")], IMAGES, reference="tiny", spec=SPEC, seconds=0.01)["tiny"]
    assert found.model.n >= 128  # a short net gets more than the least in a hundredth of a second
    assert found.model.n % ROUNDS == 0
    assert 0 < found.model.min_ms <= found.model.p50_ms.value
    assert found.model.min_ms < found.e2e.mean_ms
    assert found.ratio is not None
    assert found.ratio.low < found.ratio.high


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"names": []}, "at least one name"),
        ({"names": ["a", "a"]}, "each different"),
        ({"reference": "b"}, "'b' is not among"),
        ({"format": "onyx"}, r"no runtime for format \['onyx'\]"),
        ({"images": IMAGES[:0]}, "at least one"),
        ({"images": IMAGES[:, :4]}, r"uint8 \(N, \(8, 8, 3\)\)"),
        ({"images": IMAGES.astype(np.float32)}, "not float32"),
        ({"min_runs": 50, "max_runs": 40}, "min_runs <= max_runs"),
        ({"min_runs": 1, "max_runs": 10}, "max_runs at least 32"),
    ],
)
def test_impossible_requests_are_named(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    given = {"names": ["a"], "reference": None, "format": "fake", "images": IMAGES, **changes}
    subjects = [Subject(name, tmp_path / "a", given.pop("format", "fake")) for name in given.pop("names")]
    given.pop("format", None)
    with pytest.raises(ValueError, match=why):
        measure(subjects, given.pop("images"), spec=SPEC, runtimes={"fake": FakeRuntime(FakeClock())}, **given)


# --- Comparing --------------------------------------------------------------------------------------------------


def test_a_known_ratio_is_found_with_its_interval(tmp_path: Path) -> None:
    faster = tuple(round(0.8 * delay) for delay in NOISY_MS)
    found = fake_session(tmp_path, {"base": NOISY_MS, "small": faster}, reference="base")
    ratio = found["small"].ratio
    assert ratio is not None
    assert ratio.low <= 0.8 <= ratio.high < 0.83
    assert ratio.n == ROUNDS
    spread = found["small"].aa_spread
    assert spread is not None
    assert spread == found["base"].aa_spread
    assert 1 - ratio.value > 2 * spread
    check = found["base"].ratio
    assert check is not None
    assert spread == pytest.approx((check.high - check.low) / 2)


def test_the_reference_against_itself_is_one(tmp_path: Path) -> None:
    """On a sound machine the 95 % interval holds 1 in most sessions, and the wider check all but never fails."""
    hits, failed = 0, 0
    for seed in range(40):
        found = fake_session(tmp_path, {"base": (MS,)}, reference="base", seed=seed, seconds=0.1, clock=_Noisy(seed))
        ratio = found["base"].ratio
        assert ratio is not None
        inside = ratio.low <= 1 <= ratio.high
        hits += inside
        refused = any("A/A check" in reason for reason in found["base"].invalid_reasons)
        assert found["base"].valid != refused
        assert not (inside and refused)
        failed += refused
    assert hits >= 34  # fewer than that has a probability below 0.02 at 95 %
    assert failed <= 3  # more than that has a probability below 0.001 at 99 %


def test_a_failed_check_of_the_reference_spoils_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's second series is made a tenth slower: the kind of fault that the A/A check is there for."""
    monkeypatch.setattr(latency, "_run_rounds", _unfair(latency._run_rounds))
    found = fake_session(tmp_path, {"base": NOISY_MS, "other": NOISY_MS}, reference="base")
    for one in found.values():
        assert not one.valid
        (reason,) = one.invalid_reasons
        assert re.fullmatch(
            r"A/A check: the reference against itself is 1\.(09|10)\d \[1.*\], which excludes 1", reason
        )


def _unfair(real: Any) -> Any:
    def run(series: list[Any], *arguments: Any) -> None:
        real(series, *arguments)
        for one in series:
            if one.again:
                one.model = [[ns * 11 // 10 for ns in block] for block in one.model]

    return run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    return demonstrate(tmp_path_factory.mktemp("drift"))


def test_interleaving_removes_a_drift_of_20_percent_that_naive_timing_shows(shown: Demonstration) -> None:
    assert all(one.low > 1.08 for one in shown.naive)  # of two equal files the second looks surely a tenth slower
    assert mean(shown.interleaved) == pytest.approx(1, abs=0.002)
    inside = sum(one.low <= 1 <= one.high for one in shown.interleaved)
    assert inside >= 17  # fewer has a probability below 0.02 at 95 %
    assert len(shown.flagged) == len(shown.interleaved)  # the ratio is right, the absolute times are not


def test_the_documentation_prints_what_the_demonstration_prints(shown: Demonstration) -> None:
    text = (Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8")
    assert str(shown) in text


# --- Validity ---------------------------------------------------------------------------------------------------


def test_drift_between_the_quarters_is_a_reason() -> None:
    rising = np.linspace(10, 12, 32)[:, None] * np.ones(4)
    assert drift(rising, "model") == ["model drift 10.2 -> 11.8 ms"]
    assert drift(rising[::-1], "e2e") == ["e2e drift 11.8 -> 10.2 ms"]
    assert drift(np.linspace(10, 10.4, 32)[:, None] * np.ones(4), "model") == []


def test_a_disturbed_machine_is_a_reason_for_every_cell(tmp_path: Path) -> None:
    states = iter([machine.State(pi_bits=0), machine.State(pi_bits=0x4)])
    found = fake_session(tmp_path, {"a": (MS,), "b": (MS,)}, snapshot=lambda: next(states))
    for one in found.values():
        assert not one.valid
        assert one.invalid_reasons == ["throttled (vcgencmd throttle bits 0x4)"]


@pytest.mark.parametrize(("passes", "held", "passed"), [(0, 1, True), (2, 3, True), (9, 3, False)])
def test_a_disturbed_session_is_held_again(passes: int, held: int, passed: bool, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    found = measure([Subject("tiny", path, "onnx")], IMAGES, reference="tiny", spec=SPEC, seconds=0.01)
    asked: list[int] = []

    def session(number: int) -> dict[str, Latency]:
        asked.append(number)
        return {"tiny": dataclasses.replace(found["tiny"], comparable=number >= passes)}

    timed, good = latency.until_comparable(session, "tiny")
    assert (asked, good) == (list(range(held)), passed)
    assert timed["tiny"].comparable is passed
