"""Case 14, resuming: images that were changed, added or removed since; see test_14_changed_data for the split."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewise import load_recipe, train_model
from edgewise.errors import DataError
from edgewise.jobs import Opening
from tests.conftest import draw_shape


def splits(run: Path) -> dict[str, str]:
    with (run / "splits.csv").open(newline="") as stream:
        return {row["path"]: row["split"] for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_resume_on_changed_images(shapes: Callable[..., Path], tmp_path: Path) -> None:
    root, run = shapes(per_class=20), tmp_path / "run"
    changes = {"data.source": str(root), "data.size": 16, "model": "convnet(8)", "train.epochs": 2, "train.threads": 1}
    changes["explain"] = False
    train_model(load_recipe(None, changes), run)
    before = splits(run)
    gone = next(name for name, part in before.items() if part == "train")
    (root / gone).unlink()
    draw_shape("disc", 900).save(root / "disc" / "new.png")
    more = load_recipe(run / "recipe.yaml", {"train.epochs": 4})
    with pytest.raises(DataError, match="D32") as caught:
        train_model(more, run, opening=Opening(resume=True))
    assert caught.value.exit_code == 3
    assert gone in str(caught.value)
    assert "disc/new.png" in str(caught.value)
    train_model(more, run, opening=Opening(resume=True, accept_changes=True))
    after = splits(run)
    assert {name: part for name, part in after.items() if name in before} == {
        name: part for name, part in before.items() if name != gone
    }
    assert after["disc/new.png"] in {"train", "val", "test"}
    assert (run / "metrics.jsonl").read_text().count("\n") == 4
