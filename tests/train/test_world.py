"""Several real processes train one net: same figures, one writer, one voice; they stop together and notice a death."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import pipeline, ranks
from edgewise.errors import ConfigError
from edgewise.interrupt import Interrupted, listen
from edgewise.models import Model
from edgewise.recipe import Recipe, TrainOptions, load_recipe
from edgewise.train import Setup, World, fit
from edgewise.train.checkpoint import load_checkpoint
from tests.train.conftest import make_dataset
from tests.train.parted import OPTIONS, plain_net

ROOT = Path(__file__).parents[2]
LIMIT = 100
"""Seconds any of these processes may take on a busy machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One thread for each process, and no configuration of the user's accelerate."""
    known = {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "no-config")}
    return os.environ | known | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def torchrun(*words: str) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    return [sys.executable, *launch, *words]


def accelerate(*words: str, how: str = "--multi_gpu") -> list[str]:
    given = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch = ["-m", "accelerate.commands.launch", how, "--num_processes", "2", *given]
    return [sys.executable, *launch, "--main_process_port", str(free_port()), *words]


def call(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)


def training(source: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--set", "train.device=cpu", "--set", "train.lr=0.02", "--batch-size", "16", "--size", "16"]
    return ["-m", "edgewise", "train", str(source), "--out", str(out), "--model", "convnet(8,16)", *fixed, *more]


def lines_of(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.slow
def test_without_norms_two_processes_end_with_the_weights_of_one(tmp_path: Path, environment: dict[str, str]) -> None:
    done = call(torchrun(str(ROOT / "tests/train/parted.py"), str(tmp_path / "two")), environment)
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"rank \d of \d", done.stdout)) == ["rank 0 of 2", "rank 1 of 2"]
    fitted = fit(plain_net(), make_dataset(train=120), Setup(OPTIONS, 3, tmp_path / "one"))
    two, facts = load_checkpoint(tmp_path / "two/last.safetensors")
    one, _ = load_checkpoint(tmp_path / "one/last.safetensors")
    assert two.keys() == one.keys()
    assert any(name.startswith("ema/") for name in two)
    for name, value in two.items():
        assert torch.allclose(value, one[name], atol=1e-5, rtol=0), name
    start = plain_net().module.state_dict()
    assert all((one[f"model/{name}"] - value).abs().max() > 1e-3 for name, value in start.items())
    for mine, theirs in zip(facts["state"]["history"], fitted.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_find_what_one_finds_and_only_one_writes_and_speaks(
    shapes: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    source, run = shapes(per_class=40), tmp_path / "two"
    words = training(source, run, "--epochs", "40", "--patience", "5", "--set", "train.trackers=[tensorboard]")
    done = call(accelerate(*words), environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation  accuracy") == done.stdout.count("model: ") == 1
    assert done.stderr.count("read images") == done.stderr.count("train base") == 1
    lines = lines_of(run)
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) < 40, "it did not stop early"
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "checkpoints", "explain", "metrics.jsonl", "model", "recipe.yaml", "run.json", "splits.csv",
        "tensorboard", "training.json",
    ]  # fmt: skip
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert not list(run.rglob("*.tmp"))
    alone = pipeline.train_model(load_recipe(run / "recipe.yaml", {"train.trackers": []}), tmp_path / "one")
    two = json.loads((run / "training.json").read_text())
    figures = [summary["validation"]["macro_f1"]["value"] for summary in (two, alone)]
    assert min(figures) > 0.8
    assert abs(figures[0] - figures[1]) <= 0.12  # two of the 18 validation images


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process; those that are still there in the end are ended."""
    all_: list[subprocess.Popen[str]] = []

    def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        all_.append(subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True))
        return all_[-1]

    yield start
    for process in all_:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_signal_to_the_launcher_stops_all_at_one_step_and_the_run_goes_on_from_there(
    shapes: Callable[..., Path],
    tmp_path: Path,
    environment: dict[str, str],
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    run = tmp_path / "run"
    words = training(shapes(), run, "--epochs", "5000", "--patience", "0", "--set", "train.schedule=constant")
    launcher = started(torchrun(*words), environment)
    until(lambda: len(lines_of(run)) >= 2 or launcher.poll() is not None, "no epoch was trained")
    launcher.send_signal(signal.SIGTERM)
    _, told = launcher.communicate(timeout=LIMIT)
    assert launcher.returncode == 1, told  # torchrun's own; its words name the processes' 143
    assert told.count("stopping after this step") == 1
    assert told.count(f"the state is saved, go on with: edgewise train --resume {run}") == 1
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
    _, facts = load_checkpoint(run / "checkpoints/base/last.safetensors")
    done = facts["state"]["epoch"] - 1
    assert done == len(lines_of(run)) >= 2
    recipe = load_recipe(run / "recipe.yaml", {"train.epochs": done + 1})
    pipeline.train_model(recipe, run, opening=pipeline.Opening(resume=True))
    assert [line["epoch"] for line in lines_of(run)] == list(range(1, done + 2))


def rank_words(number: int, port: int, environment: dict[str, str]) -> dict[str, str]:
    """The environment in which a launcher starts a process."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return environment | place | {"RANK": str(number), "LOCAL_RANK": str(number)}


@pytest.mark.slow
def test_when_a_process_dies_the_others_end_and_say_so(
    shapes: Callable[..., Path],
    tmp_path: Path,
    environment: dict[str, str],
    started: Callable[..., subprocess.Popen[str]],
) -> None:
    run, port = tmp_path / "run", free_port()
    words = [sys.executable, *training(shapes(), run, "--epochs", "5000", "--patience", "0")]
    first, second = (started(words, rank_words(number, port, environment)) for number in (0, 1))
    until(lambda: bool(lines_of(run)) or first.poll() is not None, "no epoch was trained")
    second.kill()
    out, told = first.communicate(timeout=LIMIT)
    assert first.returncode == 4, told
    assert "error[E70]: another process of this training is gone" in told
    assert out == ""
    assert json.loads((run / "run.json").read_text())["status"] == "failed"
    assert load_checkpoint(run / "checkpoints/base/last.safetensors")


@pytest.mark.slow
def test_what_process_0_cannot_do_is_told_once_and_ends_all(
    tmp_path: Path, environment: dict[str, str], started: Callable[..., subprocess.Popen[str]]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("kept")
    port = free_port()
    words = [sys.executable, *training(Path("digits"), tmp_path / "run")]
    both = [started(words, rank_words(number, port, environment)) for number in (0, 1)]
    (_, first), (_, second) = (process.communicate(timeout=LIMIT) for process in both)
    assert [process.returncode for process in both] == [2, 4]
    assert "error[C20]" in first
    assert "error" not in second
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_of_two_is_told(tmp_path: Path, environment: dict[str, str]) -> None:
    done = call(accelerate(*training(Path("digits"), tmp_path / "run"), how="--cpu"), environment)
    assert done.returncode != 0
    assert "error[C51]: the launcher started one process only" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_whole_run_is_refused_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in rank_words(1, 1, {}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        pipeline.run(Recipe.model_validate({"data": {"source": "digits"}}), tmp_path / "run")
    assert caught.value.code == "C26"


@pytest.mark.parametrize(
    ("given", "rank", "size"),
    [
        ({}, 0, 1),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host"}, 1, 2),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "host"}, 0, 1),
        ({"RANK": "3"}, 0, 1),  # left behind by something else: nobody to meet
        ({"WORLD_SIZE": "4"}, 0, 1),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 0, 1),
    ],
)
def test_the_environment_says_which_process_this_is(
    given: dict[str, str], rank: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (ranks.rank(), ranks.size()) == (rank, size)


def test_a_single_process_agrees_with_itself() -> None:
    world = World()
    world.join("cpu")
    module = torch.nn.Linear(2, 2)
    assert world.main
    assert world.wrap(module) is module
    assert world.gather(1.5, 2) == [[1.5, 2]]
    assert world.largest(3) == 3
    assert world.same("mine") == "mine"
    with world.first():
        world.wait()
    assert world.device(torch.device("cpu")) == torch.device("cpu")


def test_a_signal_during_the_last_validation_is_not_lost(model: Model, tmp_path: Path) -> None:
    options = TrainOptions(epochs=2, batch_size=16, threads=1)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def stop_at_the_end(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    listen()
    try:
        with pytest.raises(Interrupted) as stopped:
            fit(model, make_dataset(), Setup(options, 0, tmp_path), on_epoch=stop_at_the_end)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.exit_code == 143
    resumed = fit(model, make_dataset(), Setup(options, 0, tmp_path, resume=True))
    assert [record["epoch"] for record in resumed.history] == [1, 2]
