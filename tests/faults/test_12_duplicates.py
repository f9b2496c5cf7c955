"""Case 12: copies stay on one side of a drawn split; in given splits they are counted, and figures exclude them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.planted import COPIES, CROPS, picture
from sklearn.metrics import f1_score

from edgewise import pipeline
from edgewise.data import load_data
from edgewise.errors import DataError
from edgewise.models import open_model
from edgewise.recipe import Recipe
from edgewise.results import read_result
from edgewise.train import logits
from tests.data.copying import plant, sides_of
from tests.data.loading import load, warnings_of

KINDS = {**COPIES, **{kind: CROPS[kind] for kind in ("cropped by 1 % a side", "cropped by 2 % a side")}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 40 pictures; the first ten of each have a copy of one kind each."""
    root = plant(tmp_path / "d", {"a": range(40), "b": range(40, 80)})
    for label, first in (("a", 0), ("b", 40)):
        for number, (_, change) in enumerate(KINDS.items()):
            change(picture(first + number)).save(root / label / f"{first + number:04}-copy.png")
    return root


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Given splits: of the 20 test images, 3 are copies of training images, and 1 of the 20 validation images."""
    places = {"train/a": (0, 30), "train/b": (30, 60), "val/a": (60, 70), "val/b": (70, 80), "test/a": (80, 90)}
    root = plant(tmp_path / "d", {name: range(*ends) for name, ends in places.items()} | {"test/b": range(90, 100)})
    (root / "test/a/0080.png").write_bytes((root / "train/a/0003.png").read_bytes())
    COPIES["half size, JPEG 40"](picture(4)).save(root / "test/a/0081.png")
    COPIES["JPEG quality 60"](picture(35)).save(root / "test/b/0090.png")
    COPIES["resized to double"](picture(36)).save(root / "val/b/0070.png")
    return root


def test_a_drawn_split_keeps_copies_on_one_side(root: Path) -> None:
    copies = [path.relative_to(root).as_posix() for path in root.rglob("*-copy.png")]
    assert len(copies) == 2 * len(KINDS)
    for seed in range(5):
        data = load(root, seed=seed)
        sides = sides_of(data)
        assert all(sides[name] == sides[name.replace("-copy", "")] for name in copies)
        assert (data.test.clean, data.val.clean) == (None, None)
    assert "image(s) look like another (near copies)" in warnings_of(data)


def test_only_identical_files_are_kept_together_when_asked_for(root: Path) -> None:
    (root / "a" / "same.png").write_bytes((root / "a" / "0020.png").read_bytes())
    torn = 0
    for seed in range(6):
        sides = sides_of(load(root, seed=seed, duplicates="exact"))
        assert sides["a/same.png"] == sides["a/0020.png"]
        torn += any(sides[name] != sides[name.replace("-copy", "")] for name in sides if "-copy" in name)
    assert torn > 0


def test_copies_are_not_looked_for_when_off(root: Path) -> None:
    (root / "a" / "same.png").write_bytes((root / "a" / "0020.png").read_bytes())
    data = load(root, duplicates="off")
    assert "cop" not in warnings_of(data)
    assert data.summary["duplicates"] == "off"


def test_groups_and_copies_are_one_unit(tmp_path: Path) -> None:
    """a = b by group, b ~ c by look: all three on one side."""
    root = plant(tmp_path / "d", {"a": range(20), "b": range(20, 40)})
    COPIES["JPEG quality 25"](picture(1)).save(root / "a" / "copy.png")
    lines = ["file_name,label,group"]
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        lines.append(f"{name},{name[0]},{'pair' if name in ('a/0000.png', 'a/0001.png') else ''}")
    (root / "all.csv").write_text("\n".join(lines))
    for seed in range(6):
        sides = sides_of(load(root / "all.csv", seed=seed))
        assert sides["a/0000.png"] == sides["a/0001.png"] == sides["a/copy.png"]


def test_given_splits_are_used_as_they_are_and_the_leakage_is_told_first(given: Path) -> None:
    data = load(given)
    assert len(data.test) == 20
    assert data.test.clean is not None
    leaked = {name for name, clean in zip(data.test.names, data.test.clean, strict=True) if not clean}
    assert leaked == {"test/a/0080.png", "test/a/0081.png", "test/b/0090.png"}
    assert (data.summary["test_leaked"], data.summary["val_leaked"]) == (3, 1)
    first, second = data.summary["warnings"][:2]
    assert first.startswith("1 val image(s) (5.0%) are copies of training images (0 exact, 1 near): val/b/0070.png ~ ")
    assert second.startswith("3 test image(s) (15.0%) are copies of training images (1 exact, 2 near): ")
    assert "test/a/0080.png = train/a/0003.png" in second
    assert "test/a/0081.png ~ train/a/0004.png" in second


def test_a_limit_that_takes_the_training_image_away_takes_the_leak_away(given: Path) -> None:
    counts = []
    for seed in range(8):
        data = load(given, limit_train=20, seed=seed)
        held = {"train/a/0003.png", "train/a/0004.png", "train/b/0035.png"} & set(data.train.names)
        assert data.summary["test_leaked"] == len(held)
        counts.append(len(held))
    assert min(counts) < 3
    assert max(counts) > 0


def test_strict_stops_with_both_paths(given: Path) -> None:
    with pytest.raises(DataError, match="4 validation or test image") as caught:
        load(given, strict=True)
    assert (caught.value.code, caught.value.exit_code) == ("D31", 3)
    assert "test/a/0080.png = train/a/0003.png" in caught.value.why
    assert "test/b/0090.png ~ train/b/0035.png" in caught.value.why


def test_strict_lets_a_drawn_split_with_copies_pass(root: Path) -> None:
    assert load(root, strict=True).summary["test_leaked"] == 0


def test_what_looks_alike_is_known_from_the_cache_too(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.data import cache
    from edgewise.device import preprocess

    monkeypatch.setattr(cache, "KEEP_BYTES", 0)
    first = load(given)
    monkeypatch.setattr(preprocess, "open_image", lambda _: pytest.fail("an image was decoded again"))
    again = load(given)
    assert again.summary == first.summary
    assert np.array_equal(again.test.clean, first.test.clean)  # type: ignore[arg-type]


def test_the_size_that_a_model_sees_does_not_matter(given: Path) -> None:
    from edgewise.bundle import InputSpec

    wide = InputSpec(height=8, width=64, fit="crop")
    assert load(given, spec=wide).summary["test_leaked"] == 3


@pytest.mark.slow
def test_a_run_reports_the_share_and_the_clean_figure(given: Path, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "data": {"source": str(given), "size": 16},
            "model": "convnet(8, 8)",
            "train": {"epochs": 2, "batch_size": 16, "threads": 1},
            "measure": {"seconds": 0.05},
            "export": {"precisions": ["fp32"]},
            "variants": [],
            "controls": False,
        }
    )
    pipeline.run(recipe, tmp_path / "run")
    result = read_result(tmp_path / "run/results.json")
    (row,) = result.measurements
    data = load_data(recipe.data, pipeline.resolve_input(recipe))
    clean = data.test.clean
    assert clean is not None
    assert row.test_clean is not None
    called = logits(open_model(tmp_path / "run/model/base"), data.test.images[clean]).argmax(1)
    expected = f1_score(data.test.labels[clean], called, average="macro", zero_division=0)
    assert (row.test.n, row.test_clean.n) == (20, 17)
    assert row.test_clean.macro_f1.value == pytest.approx(expected)
    assert row.validation_clean is not None
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "3 of 20 test images (15.0 %) are copies of training images" in page
    assert page.index("3 of 20 test images") < page.index("<table")
    manifest = json.loads((tmp_path / "run" / row.bundle / "manifest.json").read_text())
    assert manifest["measured"]["test_clean"]["n"] == 17
