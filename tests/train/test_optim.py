"""Schedules against torch's own, parameter groups, and the moving average by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from edgewise.models import Model
from edgewise.recipe import TrainOptions
from edgewise.train.optim import MovingAverage, make_optimizer, make_schedule, one_cycle, warm_restarts


def torchs(make: Any, steps: int) -> list[float]:
    """The rates that one of torch's schedulers sets, with a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs() -> None:
    schedule = make_schedule(TrainOptions(warmup_epochs=0), 10, 10)
    oracle = torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 100), 100)
    assert [schedule(step) for step in range(100)] == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize("mult", [1, 2, 3])
def test_warm_restarts_are_torchs(mult: int) -> None:
    oracle = torchs(lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7, mult), 100)
    assert [warm_restarts(step, 7, mult) for step in range(100)] == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize("steps", [20, 137, 1000])
def test_one_cycle_is_torchs(steps: int) -> None:
    oracle = torchs(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps), steps - 1)
    assert [one_cycle(step, steps) for step in range(steps - 1)] == pytest.approx(oracle, abs=1e-9)


def test_the_warm_up_rises_to_the_peak_before_the_schedule() -> None:
    for kind in ("cosine", "restarts", "constant"):
        schedule = make_schedule(TrainOptions(schedule=kind, warmup_epochs=1, restart_epochs=3), 10, 10)
        rates = [schedule(step) for step in range(100)]
        assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
        assert max(rates) == 1.0
        assert rates[10] == 1.0
    assert make_schedule(TrainOptions(warmup_epochs=5), 1, 1)(0) == 1.0


def test_cosine_falls_to_zero() -> None:
    schedule = make_schedule(TrainOptions(warmup_epochs=1), 10, 10)
    rates = [schedule(step) for step in range(10, 100)]
    assert all(a >= b for a, b in itertools.pairwise(rates))
    assert rates[-1] < 0.001


def test_groups_have_their_own_rate_and_decay(model: Model) -> None:
    head = ("classifier.weight", "classifier.bias")
    options = TrainOptions(weight_decay=0.3, backbone_lr=0.001)
    for parameter in model.module[0].parameters():
        parameter.requires_grad_(False)
    optimizer = make_optimizer(model.module, options, 0.1, head)
    rate = {id(p): (g["peak"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.module.named_parameters():
        if name.startswith("block1."):
            assert id(parameter) not in rate
        else:
            decay = 0.3 if parameter.ndim > 1 else 0.0
            assert rate[id(parameter)] == (0.1 if name in head else 0.001, decay)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_optimisers_are_torchs(kind: str) -> None:
    ours, theirs = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    mine = make_optimizer(ours, TrainOptions(optimizer=kind, weight_decay=0.0), 0.1)
    plain: torch.optim.Optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.0)
    if kind == "sgd":
        plain = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(4):
        for net, optimizer in ((ours, mine), (theirs, plain)):
            optimizer.zero_grad()
            net(torch.full((2, 3), float(step))).square().sum().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_the_moving_average_by_hand() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    average = MovingAverage(net, 0.9)
    expected = net[0].weight.item()
    for update in range(30):
        with torch.no_grad():
            net[0].weight.fill_(float(update))
            net[1].running_mean.fill_(float(update))
            net[1].num_batches_tracked.fill_(update)
        average.update(net)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
    assert float(average.module[0].weight) == pytest.approx(expected, rel=1e-5)
    assert int(average.module[1].num_batches_tracked) == 29
    assert not average.module.training
