"""The benchmark of the accuracy targets: its rows are in the recipes, and it judges as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.compress import CONTROL, RECIPES, ROOT, ROWS, Bench, table

from edgewise import load_recipe
from edgewise.compress import check_plan
from edgewise.jobs import resolve_input
from edgewise.models import create_model
from edgewise.models.cost import cost

SEEDS = [0, 1, 2]
LABELS = np.arange(1000) % 10


def test_every_row_is_a_model_or_a_variant_of_a_recipe_with_its_plan() -> None:
    recipes = {name: load_recipe(ROOT / "recipes" / f"{file}.yaml") for name, file in RECIPES.items()}
    for name, row in ROWS.items():
        if name in recipes:
            continue
        plans = {variant.name: variant.plan for variant in recipes[row.base].variants or ()}
        assert check_plan(plans[name])


def test_the_small_nets_are_as_small_as_is_asked() -> None:
    for name in ("small", "tiny"):
        recipe = load_recipe(ROOT / "recipes" / f"{RECIPES[name]}.yaml")
        spec = resolve_input(recipe)
        model = create_model(recipe.model, labels=[str(index) for index in range(10)], input=spec)
        bound = ROWS[name].params
        assert bound is not None
        assert cost(model.module, spec).params_total <= bound


def record(folder: Path, key: str, right: int, **more: Any) -> dict[str, Any]:
    """A model that decides the first `right` images rightly."""
    answers = np.where(np.arange(1000) < right, LABELS, (LABELS + 1) % 10)
    np.save(folder / f"{key}.npy", answers.astype(np.uint8))
    known = {"val_right": 90, "val_n": 100, "test_right": right, "test_n": 1000, "params": 5, "file_bytes": 20}
    return {**known, "file": "onnx", "epochs": 3, "plan": "", "architecture": "net", **more}


@pytest.mark.parametrize(
    ("rights", "judged"),
    [((920, 909, 911), "reached"), ((909, 905, 999), "NOT REACHED"), ((910,), "reached, of 1 seed(s)")],
)
def test_the_median_of_the_seeds_is_judged(rights: tuple[int, ...], judged: str, tmp_path: Path) -> None:
    results = {f"base-{seed}": record(tmp_path, f"base-{seed}", right) for seed, right in enumerate(rights)}
    line = table(results, tmp_path, SEEDS, LABELS).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[9] == judged
    assert cells[6].startswith(f"{sorted(rights)[(len(rights) - 1) // 2] / 10:.2f} [")
    assert "n=1000" in cells[6]


@pytest.mark.parametrize(("right", "judged"), [(905, "reached"), (904, "NOT REACHED")])
def test_a_drop_is_held_against_the_base_of_the_same_seed(right: int, judged: str, tmp_path: Path) -> None:
    results = {}
    for seed, base in enumerate((910, 900, 920)):
        results[f"base-{seed}"] = record(tmp_path, f"base-{seed}", base)
        results[f"prune50-{seed}"] = record(tmp_path, f"prune50-{seed}", right + base - 910)
        key = f"prune50{CONTROL}-{seed}"
        results[key] = record(tmp_path, key, 890)
    lines = table(results, tmp_path, SEEDS, LABELS).splitlines()
    row = next(line for line in lines if "within 0.5 of its base" in line)
    assert f"| {judged} |" in row
    assert f"| {(right - 910) / 10:+.2f} [" in row
    assert "(control) prune50-scratch" in lines[-1]


def test_a_model_is_made_again_when_its_recipe_changed() -> None:
    bench = Bench.__new__(Bench)
    recipes = {name: load_recipe(ROOT / "recipes" / f"{file}.yaml") for name, file in RECIPES.items()}
    bench.recipes, bench.plans = recipes, {"prune50": "prune(0.5)", "small8": "palettize(8)"}
    rows = ("base", "prune50", f"prune50{CONTROL}", "small", "small8")
    before = {name: json.dumps(bench.settings(name)) for name in rows}
    assert len(set(before.values())) == len(rows)
    longer = recipes["base"].train.model_copy(update={"epochs": 99})
    bench.recipes = recipes | {"base": recipes["base"].model_copy(update={"train": longer})}
    changed = {name for name in rows if json.dumps(bench.settings(name)) != before[name]}
    assert changed == {"base", "prune50", f"prune50{CONTROL}"}
    bench.recipes, bench.plans = recipes, {"prune50": "prune(0.6)", "small8": "palettize(8)"}
    assert json.dumps(bench.settings("prune50")) != before["prune50"]
    assert json.dumps(bench.settings("base")) == before["base"]


def test_a_file_that_is_too_large_is_no_success(tmp_path: Path) -> None:
    for size, judged in ((25_000, "reached"), (25_001, "NOT REACHED")):
        results = {f"base-{seed}": record(tmp_path, f"base-{seed}", 900) for seed in SEEDS}
        results |= {f"bundle-{seed}": record(tmp_path, f"bundle-{seed}", 950, bundle_bytes=size) for seed in SEEDS}
        assert f"| {judged} |" in table(results, tmp_path, SEEDS, LABELS).splitlines()[-1]
