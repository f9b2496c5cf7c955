"""Targets in time: the largest version that is fast enough is taken, by what a session on this machine says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgewise.bundle import InputSpec
from edgewise.compress.decompose import DecomposeOptions, factorise
from edgewise.compress.intime import MOST, first_in_time
from edgewise.compress.prune import PruneOptions, prune
from edgewise.errors import ConfigError
from edgewise.export.speed import speeds
from edgewise.models import Model, create_model
from edgewise.models.cost import cost


def make(architecture: str) -> Model:
    return create_model(architecture, labels=("a", "b"), input=InputSpec(16, 16), seed=0)


class Stopwatch:
    """Times by multiply-adds, and keeps what it was given."""

    def __init__(self) -> None:
        self.sessions: list[list[Model]] = []

    def __call__(self, models: Sequence[Model]) -> list[float]:
        self.sessions.append(list(models))
        return [self.share(model, models[0]) for model in models]

    @staticmethod
    def share(model: Model, base: Model) -> float:
        return cost(model.module, model.input).macs / cost(base.module, base.input).macs


def widths(model: Model) -> tuple[int, ...]:
    return tuple(layer.out_channels for layer in model.module.modules() if isinstance(layer, nn.Conv2d))


def pruned(model: Model, watch: Any, **options: Any) -> Model:
    context = SimpleNamespace(seed=0, say=lambda _: None, speeds=watch)
    return prune(model, PruneOptions(epochs=0, **options), context)  # type: ignore[arg-type]


def test_the_largest_net_in_time_is_taken_in_widths_of_eight() -> None:
    model, watch = make("convnet(32, 64, 128)"), Stopwatch()
    found = pruned(model, watch, latency=0.6)
    (session,) = watch.sessions
    assert session[0] is model
    assert len({widths(one) for one in session}) == len(session) <= MOST + 1
    assert all(width % 8 == 0 for one in session for width in widths(one))
    shares = [watch.share(one, model) for one in session[1:]]
    assert watch.share(found, model) == max(share for share in shares if share <= 0.6)


def test_given_multiples_are_kept() -> None:
    watch = Stopwatch()
    pruned(make("convnet(6, 12)"), watch, latency=0.6, round_to=1)
    assert any(width % 8 for one in watch.sessions[0] for width in widths(one))


def test_decomposing_in_time() -> None:
    model, watch = make("convnet(8, 16, 32)"), Stopwatch()
    found = factorise(model, DecomposeOptions(keep=0.7, by="latency"), speeds=watch)
    shares = [watch.share(one, model) for one in watch.sessions[0][1:]]
    assert shares == sorted(shares, reverse=True)
    assert watch.share(found, model) == max(share for share in shares if share <= 0.7)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda model: pruned(model, Stopwatch(), latency=0.0001),
        lambda model: factorise(model, DecomposeOptions(keep=0.0001, by="latency"), speeds=Stopwatch()),
    ],
    ids=["prune", "decompose"],
)
def test_a_target_out_of_reach_is_told_with_what_can_be_had(reduce: Callable[[Model], Model]) -> None:
    model = make("convnet(8, 16, 32)")
    with pytest.raises(ConfigError, match=r"no version of this net takes 0\.0001") as caught:
        reduce(model)
    assert caught.value.code == "C66"
    assert "the fastest of" in caught.value.why


def test_without_a_clock_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing here to time models with") as caught:
        pruned(make("convnet(8, 16)"), None, latency=0.5)
    assert caught.value.code == "C65"


def test_at_most_so_many_are_timed_the_first_and_the_last_among_them() -> None:
    model, watch = make("convnet(4)"), Stopwatch()
    versions = [(width, make(f"convnet({width})")) for width in range(60, 4, -1)]
    with pytest.raises(ConfigError):
        first_in_time(model, versions, 1e-9, watch, lambda _: None)
    timed = [widths(one)[0] for one in watch.sessions[0][1:]]
    assert len(timed) == MOST
    assert (timed[0], timed[-1]) == (60, 5)


@pytest.mark.slow
def test_the_clock_of_a_run_tells_large_from_small() -> None:
    large, small = make("convnet(64, 64, 64)"), make("convnet(4, 4, 4)")
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    first, same, other = speeds([large, dataclasses.replace(large), small], images, say=lambda _: None)
    assert first == 1.0
    assert other < 0.6 < same
