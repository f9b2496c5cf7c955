"""Folds cut the images once, keep what belongs together, and their training can be stopped and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from edgewise import cli, pipeline
from edgewise.data import Dataset, load_data
from edgewise.errors import ConfigError
from edgewise.models import open_model
from edgewise.progress import Advance, Silent
from edgewise.recipe import Recipe
from edgewise.train import logits
from edgewise.train.folds import assign_folds, cut_folds, spread
from tests.train.conftest import make_dataset

counts = st.lists(st.integers(5, 40), min_size=2, max_size=5)


def members(dataset: Dataset) -> list[str]:
    return sorted([*dataset.train.names, *dataset.val.names])


@given(counts, st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_each_class_is_within_one_image_of_its_even_share(counts: list[int], folds: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    places = assign_folds(labels, np.arange(len(labels)), folds, seed)
    assert set(places.tolist()) == set(range(folds))
    for label, count in enumerate(counts):
        held = np.bincount(places[labels == label], minlength=folds)
        assert held.sum() == count
        assert np.all(np.abs(held - count / folds) < 1)


@given(st.integers(10, 60), st.integers(2, 5), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_unit_is_never_cut_and_the_draw_is_reproducible(images: int, folds: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    units = np.concatenate([np.arange(2 * folds), random.integers(0, max(2 * folds, images // 2), images)])[:images]
    places = assign_folds(labels, units, folds, seed)
    for unit in np.unique(units):
        assert len(set(places[units == unit].tolist())) == 1
    assert np.array_equal(places, assign_folds(labels, units, folds, seed))


def test_units_of_a_few_images_leave_classes_nearly_even() -> None:
    labels = np.repeat(np.arange(3), 60)
    units = np.arange(180) // 2
    places = assign_folds(labels, units, 3, 0)
    for label in range(3):
        assert np.all(np.abs(np.bincount(places[labels == label], minlength=3) - 20) <= 2)


def test_folds_partition_train_and_val_and_leave_test_alone() -> None:
    whole = make_dataset(train=60)
    folds = list(cut_folds(whole, 4, 7))
    assert len(folds) == 4
    assert sorted(name for fold in folds for name in fold.val.names) == members(whole)
    pixels = dict(zip(whole.train.names, whole.train.images, strict=True))
    pixels |= dict(zip(whole.val.names, whole.val.images, strict=True))
    labels = dict(zip([*whole.train.names, *whole.val.names], [*whole.train.labels, *whole.val.labels], strict=True))
    for fold in folds:
        assert members(fold) == members(whole)
        assert not set(fold.train.names) & set(fold.val.names)
        assert fold.test is whole.test
        for split in (fold.train, fold.val):
            assert all(
                np.array_equal(pixels[name], image) for name, image in zip(split.names, split.images, strict=True)
            )
            assert [labels[name] for name in split.names] == split.labels.tolist()
    assert folds[0].val.names != next(iter(cut_folds(whole, 4, 8))).val.names


def test_copies_and_groups_stay_in_one_fold_across_train_and_val() -> None:
    whole = make_dataset(train=60)
    train = dataclasses.replace(
        whole.train, sha256=tuple(f"t{i}" for i in range(60)), groups=tuple(f"g{i // 12}" for i in range(60))
    )
    val = dataclasses.replace(whole.val, sha256=tuple(f"t{i}" for i in range(60)), groups=("",) * 60)
    for fold in cut_folds(dataclasses.replace(whole, train=train, val=val), 3, 0):
        assert not set(fold.train.sha256) & set(fold.val.sha256)
        assert not (set(fold.train.groups) & set(fold.val.groups)) - {""}


def test_near_copies_stay_in_one_fold(shapes: Callable[..., Path]) -> None:
    root = shapes(per_class=12)
    for label in ("disc", "square"):
        for index in range(6):
            picture = Image.open(root / label / f"{index:03}.png")
            picture.resize((96, 96)).save(root / label / f"{index:03}-larger.jpg", quality=95)
    recipe = Recipe.model_validate({"data": {"source": str(root), "size": 16}})
    whole = load_data(recipe.data, pipeline.resolve_input(recipe))
    folds = list(cut_folds(whole, 3, 0))
    pairs = 0
    for fold in folds:
        for one in fold.val.names:
            other = one.replace(".png", "-larger.jpg")
            if other != one and other in members(whole):
                assert other in fold.val.names
                pairs += 1
    assert pairs >= 6


def test_too_few_images_of_a_class_are_told_before_any_training() -> None:
    small = make_dataset(train=6)
    small = dataclasses.replace(small, val=dataclasses.replace(small.train, names=tuple("abcdef")))
    with pytest.raises(ConfigError, match="5 folds cannot be cut") as caught:
        cut_folds(small, 5, 0)
    assert caught.value.code == "C50"
    assert 'class "bright-left" has 4 images' in caught.value.why


def test_a_class_in_fewer_groups_than_folds_is_told() -> None:
    whole = make_dataset(train=60)
    groups = tuple("all" if label == 1 else "" for label in whole.train.labels)
    val_groups = tuple("all" if label == 1 else "" for label in whole.val.labels)
    one = dataclasses.replace(
        whole,
        train=dataclasses.replace(whole.train, groups=groups),
        val=dataclasses.replace(whole.val, groups=val_groups),
    )
    with pytest.raises(ConfigError, match="3 folds cannot be cut") as caught:
        cut_folds(one, 3, 0)
    assert "bright-right" in caught.value.why


@given(st.lists(st.integers(300, 700), min_size=2, max_size=20))
def test_the_interval_is_the_t_interval_of_scipy(thousandths: list[int]) -> None:
    values = [value / 1000 for value in thousandths]
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values))
    if len(set(values)) > 1:
        assert found.sd == pytest.approx(stats.tstd(values))
        low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((max(0, low), min(1, high)))


@pytest.mark.parametrize("folds", [1, 21])
def test_the_number_of_folds_has_limits(folds: int) -> None:
    with pytest.raises(ValueError, match="folds"):
        Recipe.model_validate({"data": {"source": "x"}, "train": {"folds": folds}})


def test_a_whole_run_refuses_folds(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"data": {"source": "digits"}, "train": {"folds": 3}})
    with pytest.raises(ConfigError) as caught:
        pipeline.run(recipe, tmp_path / "run")
    assert caught.value.code == "C52"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_prints_a_line_for_each_fold_and_their_spread(
    shapes: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["edgewise", "train", str(shapes(per_class=12)), "--folds", "2", "--epochs", "1", "--size", "16", "-q"]
    monkeypatch.setattr(sys, "argv", [*words, "--model", "convnet(4)", "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    told = json.loads((tmp_path / "run/training.json").read_text())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "fold"
    for number, fold in enumerate(told["folds"], 1):
        figures = [fold[split][key]["value"] for split in ("validation", "test") for key in ("macro_f1", "accuracy")]
        assert lines[number].split() == [str(number), *(f"{figure:.2%}" for figure in figures)]
    spread_of_f1 = told["validation"]["macro_f1"]
    assert f"{spread_of_f1['mean']:.2%} ±{spread_of_f1['sd']:.2%}" in lines[3]
    assert f"[{spread_of_f1['low']:.2%}, {spread_of_f1['high']:.2%}]" in lines[4]


class Killed(BaseException):
    """Ends a training as kill -9 would."""


class Stopper(Silent):
    """Ends the training of a task after so many steps."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.left = title, steps

    @contextlib.contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str = "") -> None:
            self.left -= title == self.title
            if self.left < 0:
                raise Killed

        yield advance


def of_shapes(source: Path) -> Recipe:
    train = {"epochs": 4, "batch_size": 16, "lr": 0.02, "threads": 1, "folds": 3}
    return Recipe.model_validate(
        {"data": {"source": str(source), "size": 16}, "model": "convnet(8, 16)", "train": train}
    )


def lasting(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in {"seconds", "run"}}


@pytest.mark.slow
def test_three_folds_of_shapes_stopped_and_gone_on_with_give_the_same_figures(
    shapes: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = of_shapes(shapes(per_class=24))
    straight = pipeline.train_model(recipe, tmp_path / "straight")
    with pytest.raises(Killed):
        pipeline.train_model(recipe, tmp_path / "stopped", progress=Stopper("train fold-2", 5))
    assert (tmp_path / "stopped/model/fold-1").exists()
    assert not (tmp_path / "stopped/model/fold-2").exists()
    resumed = pipeline.train_model(recipe, tmp_path / "stopped", opening=pipeline.Opening(resume=True))
    assert lasting(resumed) == lasting(straight)
    assert json.loads((tmp_path / "stopped/training.json").read_text()) == resumed

    spec = pipeline.resolve_input(recipe)
    dataset = load_data(recipe.data, spec, seed=recipe.seed)
    scores = []
    for number, fold in enumerate(cut_folds(dataset, 3, recipe.seed), 1):
        model = open_model(tmp_path / "stopped/model" / f"fold-{number}")
        told = resumed["folds"][number - 1]
        for name, split in (("validation", fold.val), ("test", dataset.test)):
            predicted = logits(model, split.images).argmax(1)
            assert told[name]["accuracy"]["value"] == pytest.approx(accuracy_score(split.labels, predicted))
            f1 = f1_score(split.labels, predicted, average="macro")
            assert told[name]["macro_f1"]["value"] == pytest.approx(f1)
        scores.append(told["validation"]["macro_f1"]["value"])
    assert resumed["validation"]["macro_f1"]["mean"] == pytest.approx(np.mean(scores))
    assert resumed["validation"]["macro_f1"]["sd"] == pytest.approx(np.std(scores, ddof=1))
    lines = [json.loads(line) for line in (tmp_path / "stopped/metrics.jsonl").read_text().splitlines()]
    assert sorted((line["variant"], line["epoch"]) for line in lines) == [
        (f"fold-{fold}", epoch) for fold in (1, 2, 3) for epoch in (1, 2, 3, 4)
    ]
