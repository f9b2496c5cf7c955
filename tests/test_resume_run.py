"""`edgewise run --resume`: whatever stage a run was killed in, it ends with the models of the run that was not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewise import pipeline, proving
from edgewise.bundle import verify_bundle
from edgewise.models.store import WEIGHTS
from edgewise.recipe import Recipe
from edgewise.train.trainer import Trainer

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """Ends a run as kill -9 would."""


def recipe(images: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"source": str(images), "size": 16},
            "model": "convnet(8, 16, dropout=0.2)",
            "train": {"epochs": 2, "batch_size": 16, "threads": 1},
            "measure": {"seconds": 0.1},
            "explain": False,
            "export": {"precisions": ["fp32"]},
            "variants": [{"name": "both", "plan": "prune(ratio=0.5, round_to=1) > distill"}],
        }
    )


def models(run: Path) -> dict[str, bytes]:
    return {folder.name: (folder / WEIGHTS).read_bytes() for folder in sorted((run / "model").iterdir())}


def epochs(run: Path) -> list[tuple[str, int]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["variant"], line["epoch"]) for line in lines]


def dies_at(monkeypatch: pytest.MonkeyPatch, home: Any, name: str, at: int) -> None:
    calls = itertools.count(1)
    real = getattr(home, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(home, name, call)


def test_killed_in_any_stage(shapes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = recipe(shapes(per_class=16))
    pipeline.run(wanted, tmp_path / "straight")
    resumed = tmp_path / "killed"
    opening = pipeline.Opening()
    stages = [(Trainer, "_step", 6), (Trainer, "_step", 12), (proving, "deliver", 2), (proving.latency, "measure", 1)]
    for home, name, at in stages:
        with monkeypatch.context() as patch:
            dies_at(patch, home, name, at)
            with pytest.raises(Killed):
                pipeline.run(wanted, resumed, opening=opening)
        opening = pipeline.Opening(resume=True)
    result = pipeline.run(wanted, resumed, opening=opening)
    assert result.chosen is not None
    assert models(resumed) == models(tmp_path / "straight")
    assert epochs(resumed) == epochs(tmp_path / "straight")
    bundles = sorted(path.name for path in (resumed / "bundles").iterdir())
    assert bundles == sorted(path.name for path in (tmp_path / "straight/bundles").iterdir())
    for bundle in bundles:
        verify_bundle(resumed / "bundles" / bundle)
    assert not (resumed / "work").exists()
