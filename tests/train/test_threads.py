"""The choice of threads and precision, with a clock of our own; and a training that took bf16 resumes bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgewise.data import Dataset
from edgewise.measure.machine import cpu_flags
from edgewise.models import Model
from edgewise.progress import Silent
from edgewise.recipe import TrainOptions
from edgewise.train import Fitted, Setup, fit
from edgewise.train.threads import LEAST_STEP_S, choose_mode, has_fast_bf16
from tests.train.test_resume import Counted, Killed, facts, net, weights

IMAGES = torch.zeros(8, 1, 12, 12)


class Clock:
    """Tells made-up times by precision, and which steps were asked for."""

    def __init__(self, off: float, bf16: float) -> None:
        self.seconds = {"off": off, "bf16": bf16}
        self.asked: list[str] = []

    def __call__(self, module: torch.nn.Module, batch: torch.Tensor, precision: str) -> float:
        self.asked.append(precision)
        return self.seconds[precision] * (1 if torch.get_num_threads() == 1 else 1.5)


@pytest.mark.parametrize(
    ("off", "bf16", "chosen"),
    [(1.0, 0.5, "bf16"), (1.0, 0.9, "off"), (1.0, 7.0, "off"), (LEAST_STEP_S / 2, 0.001, "off")],
)
def test_bf16_is_taken_where_it_is_much_faster(model: Model, off: float, bf16: float, chosen: str) -> None:
    clock = Clock(off, bf16)
    assert choose_mode(model.module, IMAGES, 1, ("off", "bf16"), clock) == (1, chosen)
    assert ("bf16" in clock.asked) == (off >= LEAST_STEP_S)


def test_one_quick_step_on_a_busy_machine_proves_nothing(model: Model) -> None:
    times = {"off": iter([9.0, 1.0, 9.0, 1.0]), "bf16": iter([9.0, 0.2, 9.0, 0.9])}  # every other one is not counted
    assert choose_mode(model.module, IMAGES, 1, ("off", "bf16"), lambda _, __, name: next(times[name])) == (1, "off")


@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_a_settled_precision_is_not_tried_against_another(model: Model, precision: str) -> None:
    clock = Clock(1.0, 1.0)
    assert choose_mode(model.module, IMAGES, None, (precision,), clock)[1] == precision
    assert set(clock.asked) <= {precision}
    assert choose_mode(model.module, IMAGES, 2, (precision,), clock) == (2, precision)


def test_a_trial_leaves_the_net_as_it_was(model: Model) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    threads, precision = choose_mode(model.module, torch.randn(8, 1, 12, 12), None, ("off", "bf16"))
    assert threads in (1, torch.get_num_threads())
    assert precision in ("off", "bf16")
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_the_flags_of_the_cpu_decide_what_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n")
    assert {"amx_bf16", "avx2"} <= cpu_flags(tmp_path)
    for flags, fast in ((frozenset({"avx2"}), False), (frozenset({"amx_bf16"}), True)):
        monkeypatch.setattr("edgewise.train.threads.cpu_flags", lambda flags=flags: flags)
        assert has_fast_bf16() is fast


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def say(self, text: str) -> None:
        self.words.append(text)


def train(folder: Path, dataset: Dataset, progress: Silent, stop_at: int = -1, resume: bool = False) -> Fitted:
    options = TrainOptions(epochs=3, batch_size=16, lr=0.01, threads=1, ema=0.9)
    return fit(net(), dataset, Setup(options, 3, folder, augment=Counted(stop_at), resume=resume), progress=progress)


def test_auto_takes_bf16_says_so_and_resumes_in_it(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewise.train.trainer.has_fast_bf16", lambda: True)
    monkeypatch.setattr("edgewise.train.threads._step_seconds", Clock(1.0, 0.1))
    told = Told()
    whole = train(tmp_path / "whole", dataset, told)
    assert (whole.amp, whole.threads) == ("bf16", 1)
    assert any("bf16" in words and "train.amp=off" in words for words in told.words)
    with pytest.raises(Killed):
        train(tmp_path / "cut", dataset, Silent(), stop_at=13)
    monkeypatch.setattr("edgewise.train.threads._step_seconds", Clock(1.0, 10.0))  # another mood of the machine
    resumed = train(tmp_path / "cut", dataset, Silent(), resume=True)
    assert resumed.amp == "bf16"
    assert weights(resumed) == weights(whole)
    assert facts(resumed) == facts(whole)


def test_the_run_keeps_what_was_chosen(tmp_path: Path) -> None:
    from edgewise import load_recipe, train_model

    changes = {"data.source": "digits", "data.size": 12, "model": "convnet(4)", "train.epochs": 1, "train.threads": 1}
    train_model(load_recipe(None, changes | {"explain": False, "train.amp": "bf16"}), tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["train_amp"] == {"base": "bf16"}
