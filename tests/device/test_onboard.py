"""What is sent to a device: Python 3.6, nothing of edgewise, and answers that hold what they should."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_runner import vermin
from tiny import make_bundle

from edgewise.device import jobs, rounds, state
from edgewise.device.sending import PACKAGE, board_files, boot_programs
from edgewise.measure.channel import connect
from edgewise.measure.session import unpack


def everything() -> dict[str, str]:
    first, program = boot_programs()
    return {**board_files(), "first.py": first, "onboard.py": program}


@pytest.mark.parametrize("name", sorted(everything()))
def test_each_file_is_python_36(name: str, tmp_path: Path) -> None:
    text = everything()[name]
    ast.parse(text, feature_version=(3, 6))
    path = tmp_path / "sent.py"
    path.write_text(text)
    told = vermin(path)
    assert told.returncode == 0, told.stdout


def test_nothing_imports_edgewise_at_the_top() -> None:
    for name, text in everything().items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("edgewise."), name
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("edgewise") for alias in node.names), name


def test_all_that_is_needed_is_sent() -> None:
    names = {Path(name).stem for name in board_files()}
    assert {"__init__", "jobs", "rounds", "state", "power", "preprocess"} <= names
    assert all(name.startswith(f"{PACKAGE}/") for name in board_files())
    text = "".join(board_files().values())
    assert f"from {PACKAGE}.rounds import" in text


def test_the_program_itself_needs_the_standard_library_only(tmp_path: Path) -> None:
    """Run without site-packages: neither numpy nor anything else is there."""
    first, program = boot_programs()
    hello = json.dumps({"temp": [str(tmp_path)]})
    given = f"{len(program.encode())}\n{program}{hello}\n" + '{"do": "bye"}\n'
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", first], input=given, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.partition(" ")[2])["ready"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside"])
def test_no_file_is_stored_outside_the_folder(name: str, tmp_path: Path) -> None:
    from edgewise.errors import UnavailableError

    with pytest.raises(UnavailableError, match="E96") as caught, connect(None, temp=[str(tmp_path)]) as channel:
        channel.put(name, b"x")
    assert "leaves the folder" in caught.value.why
    assert list(tmp_path.iterdir()) == []


# --- Jobs, in a process as on a device ---------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> dict[str, object]:
    """A bundle of three colours, one picture of each, and a job that measures it."""
    bundle = make_bundle(tmp_path)
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    for index in range(3):
        pixels[index, :, :, index] = 200
    np.save(tmp_path / "images.npy", pixels)
    subject = {
        "name": "tiny",
        "format": "onnx",
        "file": str(bundle / "model.onnx"),
        "images": str(tmp_path / "images.npy"),
        "pictures": [],
        "distinct": 64,
        "reference": True,
        "preprocessing": {"height": 8, "width": 8, "channels": 3, "fit": "squash", "interpolation": "bilinear"},
    }
    return {
        "subjects": [subject],
        "threads": 1,
        "pin": False,
        "orders": [[0, 1], [1, 0]],
        "block": {"least": 5, "ns": 0, "most": 5},
        "warm": {"least_ns": 0, "cap_ns": 1e7},
        "e2e": True,
        "stream": False,
        "root": "/",
        "runs": 4,
        "seconds": 0.2,
        "blocks": 2,
        "per_second": 50.0,
    }


def done(what: str, job: dict[str, object], tmp_path: Path, *words: str) -> list[dict[str, object]]:
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, "-m", "edgewise.device.jobs", what, str(path), *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in told.stdout.splitlines()]


def test_measure_times_both_clocks_of_every_series(job: dict[str, object], tmp_path: Path) -> None:
    facts: dict[str, object] = {}
    for line in done("measure", job, tmp_path):
        facts.update(line)
    blocks = [(index, clock, unpack(text)) for index, clock, text in facts["blocks"]]  # type: ignore[attr-defined]
    assert [(index, clock) for index, clock, _ in blocks] == [(0, "model")] * 2 + [(0, "e2e")] * 2 + [(1, "model")] * 2
    assert all(len(block) == 5 and block.min() > 0 for _, _, block in blocks)
    assert len(facts["warm"]) == 2  # type: ignore[arg-type]
    assert facts["no_e2e"] == ""
    assert facts["described"]["tiny"]["runtime"] == "onnxruntime"  # type: ignore[index]
    assert facts["ended"] > facts["began"]  # type: ignore[operator]


def test_blocks_come_round_by_round_when_they_are_long(job: dict[str, object], tmp_path: Path) -> None:
    streamed = [line for line in done("measure", {**job, "stream": True}, tmp_path) if "blocks" in line]
    assert [len(line["blocks"]) for line in streamed] == [3, 3, 0]  # type: ignore[arg-type]


def test_answers_are_the_classes(job: dict[str, object], tmp_path: Path) -> None:
    (line,) = done("answers", job, tmp_path)
    assert unpack(str(line["called"])).tolist() == [0, 1, 2]


def test_a_cold_start_counts_from_the_launch(job: dict[str, object], tmp_path: Path) -> None:
    (line,) = done("cold", job, tmp_path, "0")
    assert line["peak_rss_bytes"] >= line["baseline_rss_bytes"] > 10e6  # type: ignore[operator]
    assert line["load_ms"] > 1e3  # type: ignore[operator]  # since the machine was started
    assert line["first_ms"] > 0  # type: ignore[operator]


def test_the_pace_is_kept(job: dict[str, object], tmp_path: Path) -> None:
    (line,) = done("pace", job, tmp_path)
    assert len(line["paced"]) == 2  # type: ignore[arg-type]
    for start, end, count in line["paced"]:  # type: ignore[attr-defined]
        assert end - start >= 0.2
        assert count <= 12
    (free,) = done("pace", {**job, "per_second": None}, tmp_path)
    assert all(count > 12 for _, _, count in free["paced"])  # type: ignore[attr-defined]


def test_a_pinned_process_stays_on_its_cores(job: dict[str, object], tmp_path: Path) -> None:
    last = done("measure", {**job, "pin": True}, tmp_path)[-1]
    assert len(last["affinity"]) == 1  # type: ignore[arg-type]


def test_the_runtime_is_told_with_its_size(tmp_path: Path) -> None:
    last = done("runtime", {}, tmp_path)[-1]["packages"]
    assert last["onnxruntime"]["bytes"] > 10e6  # type: ignore[index]
    assert last["numpy"]["version"] == np.__version__  # type: ignore[index]


def test_a_picture_that_cannot_be_decoded_leaves_the_model_clock_and_says_why(
    job: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "p.png").write_bytes(b"no picture")
    subject: dict[str, object] = {**job["subjects"][0], "pictures": [str(tmp_path / "p.png")]}  # type: ignore[index]
    model = jobs.Model(lambda batch: batch, lambda batch: batch, {})
    (run_model, run_e2e), why = jobs._runs(subject, model, True)
    assert run_e2e is None
    assert why.startswith("no e2e clock: a picture cannot be decoded on this device")
    run_model(7)
    assert jobs._runs(subject, model, False)[1] == "this protocol takes the model clock only"


# --- Parts ------------------------------------------------------------------------------------------------------


def test_blocks_last_as_long_as_asked() -> None:
    now = 0

    def clock() -> int:
        return now

    def run(turn: int) -> None:
        nonlocal now
        now += 10

    lengths = [(3, 0, None, 3), (3, 95, 100, 10), (3, 95, 7, 7), (30, 95, 100, 30)]
    for least, ns, most, expected in lengths:
        assert rounds.time_block(run, clock, 0, rounds.Length(least, ns, most)) == [10] * expected


def test_the_fastest_cores_are_the_big_ones_and_no_twins(tmp_path: Path) -> None:
    for number, (speed, core) in enumerate(
        [(1_800_000, 0), (1_800_000, 1), (2_400_000, 2), (2_400_000, 2), (2_400_000, 3)]
    ):
        cpu = tmp_path / f"sys/devices/system/cpu/cpu{number}"
        (cpu / "cpufreq").mkdir(parents=True)
        (cpu / "topology").mkdir()
        (cpu / "cpufreq/cpuinfo_max_freq").write_text(str(speed))
        (cpu / "topology/core_id").write_text(str(core))
        (cpu / "topology/physical_package_id").write_text("0")
    root = str(tmp_path)
    assert state.fastest_cores(2, root) == [2, 4]
    assert state.fastest_cores(3, root) == [2, 3, 4]
    assert state.fastest_cores(2, root, allowed=[0, 1, 2]) == [0, 2]
    assert state.fastest_cores(9, root) == [0, 1, 2, 3, 4]
