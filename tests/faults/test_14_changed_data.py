"""Case 14: a saved split keeps every image where it was; what changed since is told, and stops unless accepted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.planted import COPIES, picture

from edgewise import pipeline
from edgewise.data import Dataset, load_data
from edgewise.errors import DataError
from edgewise.recipe import DataOptions, Recipe
from tests.data.copying import plant, sides_of
from tests.data.loading import SPEC, load, paint
from tests.data.loading import picture as noise


def again(root: Path, saved: Path, *, accept: bool = False, seed: int = 0, **options: Any) -> Dataset:
    return load_data(DataOptions(source=str(root), **options), SPEC, seed=seed, saved=saved, accept_changes=accept)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "d", cat=30, dog=24)


@pytest.fixture
def saved(root: Path, tmp_path: Path) -> Path:
    load(root).write_splits(tmp_path / "splits.csv")
    return tmp_path / "splits.csv"


def test_unchanged_data_is_split_as_it_was_whatever_the_seed(root: Path, saved: Path, tmp_path: Path) -> None:
    data = again(root, saved, seed=99)
    assert sides_of(data) == sides_of(load(root))
    assert not data.changes
    data.write_splits(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == saved.read_bytes()
    assert data.summary["split"] == "as saved in splits.csv"


def change(root: Path) -> dict[str, str]:
    """Delete, replace, relabel (which is a move to another folder) and add; the sides of what stays."""
    before = sides_of(load(root))
    (root / "cat" / "001.png").unlink()
    noise("other").save(root / "cat" / "002.png")
    (root / "cat" / "003.png").rename(root / "dog" / "moved.png")
    for number in range(20):
        noise(f"new{number}").save(root / "dog" / f"new{number:02}.png")
    return {name: side for name, side in before.items() if name not in ("cat/001.png", "cat/003.png")}


def test_changes_stop_with_the_difference(root: Path, saved: Path) -> None:
    change(root)
    with pytest.raises(DataError, match="the images are not those of the saved split") as caught:
        again(root, saved)
    error = caught.value
    assert (error.code, error.exit_code) == ("D32", 3)
    assert "2 deleted\n  cat/001.png\n  cat/003.png\n1 replaced (other sha256)\n  cat/002.png\n21 added" in error.why
    assert "--accept-data-change" in error.fix


def test_accepted_changes_move_nothing_and_place_what_is_new(root: Path, saved: Path) -> None:
    kept = change(root)
    data = again(root, saved, accept=True)
    sides = sides_of(data)
    assert {name: sides[name] for name in kept} == kept
    assert data.changes.deleted == ("cat/001.png", "cat/003.png")
    assert len(data.changes.added) == 21
    assert {sides[name] for name in data.changes.added} == {"train", "val", "test"}
    assert data.summary["val_per_class"]["dog"] == pytest.approx(45 * 0.15, abs=1)
    assert any("the images changed since the split was saved" in told for told in data.summary["warnings"])


def test_a_relabelled_image_of_a_manifest_keeps_its_side(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=20, dog=20)
    lines = [f"{label}/{number:03}.png,{label}" for label in ("cat", "dog") for number in range(20)]
    (root / "all.csv").write_text("\n".join(["file_name,label", *lines]))
    load(root / "all.csv").write_splits(tmp_path / "splits.csv")
    before = sides_of(load(root / "all.csv"))
    lines[3] = "cat/003.png,dog"
    (root / "all.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(DataError, match="not those of the saved") as caught:
        again(root / "all.csv", tmp_path / "splits.csv")
    assert caught.value.why == "1 relabelled\n  cat/003.png: cat -> dog"
    assert sides_of(again(root / "all.csv", tmp_path / "splits.csv", accept=True)) == before


def test_given_splits_that_were_changed_are_told_and_the_saved_ones_hold(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=10, dog=10)
    names = [f"{label}/{number:03}.png" for label in ("cat", "dog") for number in range(10)]

    def write(moved: str = "") -> None:
        parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
        rows = [f"{name},{name[:3]},{'train' if name == moved else parts[int(name[4:7])]}" for name in names]
        (root / "all.csv").write_text("\n".join(["file_name,label,split", *rows]))

    write()
    load(root / "all.csv").write_splits(tmp_path / "splits.csv")
    write(moved="cat/009.png")
    with pytest.raises(DataError) as caught:
        again(root / "all.csv", tmp_path / "splits.csv")
    assert "cat/009.png: test, now given as train" in caught.value.why
    assert sides_of(again(root / "all.csv", tmp_path / "splits.csv", accept=True))["cat/009.png"] == "test"


def test_a_validation_set_drawn_from_given_training_images_is_no_change(tmp_path: Path) -> None:
    for part in ("train", "test"):
        paint(tmp_path / "d" / part, cat=12, dog=12)
    load(tmp_path / "d").write_splits(tmp_path / "splits.csv")
    assert not again(tmp_path / "d", tmp_path / "splits.csv", seed=5).changes


def test_a_new_copy_goes_where_its_original_is(tmp_path: Path) -> None:
    root = plant(tmp_path / "d", {"a": range(20), "b": range(20, 40)})
    load(root).write_splits(tmp_path / "splits.csv")
    before = sides_of(load(root))
    for number in range(20):
        COPIES["JPEG quality 60"](picture(number)).save(root / "a" / f"{number:04}-copy.png")
    sides = sides_of(again(root, tmp_path / "splits.csv", accept=True))
    assert all(sides[f"a/{number:04}-copy.png"] == before[f"a/{number:04}.png"] for number in range(20))


def test_limits_leave_out_the_same_images_again(root: Path, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"limit_train": 10, "limit_val": 4}
    first = load(root, **limits)
    first.write_splits(tmp_path / "limited.csv")
    assert (tmp_path / "limited.csv").read_text().count(",unused,") == 54 - 10 - 4 - len(first.test)
    data = again(root, tmp_path / "limited.csv", **limits)
    assert not data.changes
    assert sides_of(data) == sides_of(first)


def test_names_that_a_spreadsheet_would_run_come_back(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", **{"=1+1": 10, "'=2": 10, "dog": 10})
    for number, name in enumerate(("-rf.png", "@x.png", "'quoted.png", "'=y.png", "a,b\n.png", "é.png")):
        noise(f"odd{number}").save(root / "dog" / name)
    load(root).write_splits(tmp_path / "splits.csv")
    assert not again(root, tmp_path / "splits.csv").changes
    cells = [line.split(",")[0] for line in (tmp_path / "splits.csv").read_text().splitlines()[1:]]
    assert not [cell for cell in cells if cell[:1] in {"=", "+", "-", "@"}]


def test_an_image_that_cannot_be_read_any_more_is_told_as_deleted(root: Path, saved: Path) -> None:
    (root / "cat" / "005.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        again(root, saved, max_bad=0.1)
    assert caught.value.why == "1 deleted\n  cat/005.png"


def test_a_copy_under_another_label_is_told_as_added_not_as_deleted(root: Path, saved: Path) -> None:
    (root / "dog" / "twin.png").write_bytes((root / "cat" / "004.png").read_bytes())
    data = again(root, saved, accept=True)
    assert data.changes.deleted == ()
    assert "cat/004.png" not in sides_of(data)


def test_a_class_held_out_of_training_stops(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", cat=20, dog=8)
    load(root).write_splits(tmp_path / "splits.csv")
    for name, side in sides_of(load(root)).items():
        if name.startswith("dog") and side == "train":
            (root / name).unlink()
    with pytest.raises(DataError, match="a class without training images") as caught:
        again(root, tmp_path / "splits.csv", accept=True)
    assert caught.value.where["class"] == "dog"


def test_a_file_deleted_between_listing_and_reading_is_a_bad_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def vanish(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith("cat/003.png"):
            Path(str(path)).unlink(missing_ok=True)
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", vanish)
    data = load(root, max_bad=0.1)
    assert [(file.name, file.reason) for file in data.bad] == [("cat/003.png", "No such file or directory")]


@pytest.mark.slow
def test_a_test_image_deleted_while_a_run_trains_is_named_and_the_run_goes_on(
    shapes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shapes(12)
    real = pipeline.train_base

    def delete_then_train(job: pipeline.Job) -> pipeline.Built:
        job.dataset.test.paths[0].unlink()
        return real(job)

    monkeypatch.setattr(pipeline, "train_base", delete_then_train)
    recipe = Recipe.model_validate(
        {
            "data": {"source": str(root), "size": 16},
            "model": "convnet(8, 8)",
            "train": {"epochs": 1, "threads": 1},
            "measure": {"seconds": 0.05},
            "export": {"precisions": ["fp32"]},
            "variants": [],
            "controls": False,
        }
    )
    result = pipeline.run(recipe, tmp_path / "run")
    assert any("cannot be read any more (not a regular file)" in told for told in result.warnings)
