"""Case 26: resuming with another model, size, optimiser or torch is refused with a table; harmless keys are taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise import load_recipe
from edgewise.errors import ConfigError
from edgewise.jobs import FREE_TO_CHANGE, Opening, check_resumable
from edgewise.pipeline import train_model
from edgewise.recipe import Recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import draw_shape

    root = tmp_path_factory.mktemp("data")
    for label in ("cross", "disc"):
        (root / label).mkdir()
        for index in range(12):
            draw_shape(label, index).save(root / label / f"{index}.png")
    folder = tmp_path_factory.mktemp("runs") / "run"
    changes = {"data.source": str(root), "data.size": 16, "model": "convnet(8)", "train.epochs": 1, "train.threads": 1}
    train_model(load_recipe(None, changes), folder)
    return folder


def changed(run: Path, **keys: object) -> Recipe:
    return load_recipe(run / "recipe.yaml", {key.replace("__", "."): value for key, value in keys.items()})


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("model", "convnet(16)", 'model: "convnet(8)" -> "convnet(16)"'),
        ("data__size", 24, "data.size: 16 -> 24"),
        ("train__optimizer", "sgd", 'train.optimizer: "adamw" -> "sgd"'),
        ("train__lr", 0.1, "train.lr: 0.003 -> 0.1"),
        ("seed", 5, "seed: 0 -> 5"),
    ],
)
def test_what_checkpoints_depend_on_is_refused_with_a_table(run: Path, key: str, value: object, line: str) -> None:
    with pytest.raises(ConfigError, match="cannot go on with these changes") as caught:
        check_resumable(changed(run, **{key: value}), run)
    assert caught.value.exit_code == 2
    assert line in caught.value.why
    assert f"--weights {run}" in caught.value.fix


def test_all_changes_are_listed_at_once(run: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_resumable(changed(run, model="convnet(16)", data__size=24, train__epochs=9), run)
    assert len(caught.value.why.splitlines()) == 2  # epochs are free


@pytest.mark.parametrize("key", [key for key in FREE_TO_CHANGE if not key.endswith(".")])
def test_harmless_keys_are_keys(run: Path, key: str) -> None:
    recipe = load_recipe(run / "recipe.yaml").model_dump()
    for part in key.split("."):
        recipe = recipe[part]


def test_more_epochs_go_on(run: Path) -> None:
    before = (run / "metrics.jsonl").read_text().count("\n")
    train_model(changed(run, train__epochs=3), run, opening=Opening(resume=True))
    assert before == 1
    assert (run / "metrics.jsonl").read_text().count("\n") == 3
    with pytest.raises(ConfigError, match="this run is complete"):
        check_resumable(changed(run), run)


def test_another_major_version_of_torch(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    kept = dict(facts["versions"])
    facts["versions"]["torch"] = "1.13.0"
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="cannot go on") as caught:
        check_resumable(changed(run, train__epochs=9), run)
    assert "torch: 1.13.0 -> 2." in caught.value.why
    facts["versions"] = kept
    (run / "run.json").write_text(json.dumps(facts))


def test_a_folder_that_is_no_run(tmp_path: Path, shapes: Callable[..., Path]) -> None:
    recipe = load_recipe(None, {"data.source": str(shapes())})
    with pytest.raises(ConfigError, match="there is no run in this folder") as caught:
        check_resumable(recipe, tmp_path)
    assert caught.value.code == "C25"
