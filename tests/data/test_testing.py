"""The test images of a run are found again, and no others; a folder's are those of its class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewise.bundle import InputSpec
from edgewise.data import load_data, testing
from edgewise.data.testing import labelled_images
from edgewise.device.preprocess import load_pixels
from edgewise.errors import ConfigError, DataError
from edgewise.recipe import DataOptions

SPEC = InputSpec(16, 16)
CLASSES = ("cross", "disc", "square")


@pytest.fixture
def run(shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """What a run leaves that names its test images."""
    folder = tmp_path / "run"
    folder.mkdir()
    source = shapes(per_class=20)
    load_data(DataOptions(source=str(source)), SPEC, seed=3).write_splits(folder / "splits.csv")
    (folder / "recipe.yaml").write_text(f"data: {{source: {source}}}\n")
    return folder


def test_a_run_names_its_test_images_and_only_those(run: Path, shapes: Callable[..., Path]) -> None:
    rows = [line.split(",") for line in (run / "splits.csv").read_text().splitlines()]
    expected = {row[0]: row[2] for row in rows if row[3] == "test"}
    found = labelled_images(run, SPEC, CLASSES)
    assert 0 < len(expected) == found.total == len(found.labels) == len(found.pixels)
    assert [f"{path.parent.name}/{path.name}" for path in found.paths] == sorted(expected)
    assert [CLASSES[label] for label in found.labels] == [expected[name] for name in sorted(expected)]
    for path, pixels in zip(found.paths, found.pixels, strict=True):
        np.testing.assert_array_equal(pixels, load_pixels(path, 16, 16, 3))


def test_a_test_image_that_was_changed_is_refused(run: Path) -> None:
    path = labelled_images(run, SPEC, CLASSES).paths[0]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"error\[D32\]") as caught:
        labelled_images(run, SPEC, CLASSES)
    assert "1 test images are not the ones" in caught.value.why
    path.unlink()
    with pytest.raises(DataError, match="D32") as caught:
        labelled_images(run, SPEC, CLASSES)
    assert "not there any more" in caught.value.why


def test_a_folder_gives_all_or_its_test_part(shapes: Callable[..., Path], tmp_path: Path) -> None:
    plain = shapes(per_class=4)
    assert labelled_images(plain, SPEC, CLASSES).total == 12
    for part, per_class in (("train", 5), ("test", 2)):
        shapes(per_class=per_class, folder=f"parted/{part}")
    found = labelled_images(tmp_path / "parted", SPEC, CLASSES)
    assert (found.total, {path.parents[1].name for path in found.paths}) == (6, {"test"})


def test_classes_are_those_of_the_model(shapes: Callable[..., Path]) -> None:
    folder = shapes(per_class=2)
    reordered = labelled_images(folder, SPEC, ("square", "other", "disc", "cross"))
    assert sorted(set(reordered.labels.tolist())) == [0, 2, 3]
    with pytest.raises(ConfigError, match=r"error\[C97\]: these images do not fit the model") as caught:
        labelled_images(folder, SPEC, ("cross", "disc"))
    assert "knows no square" in caught.value.why


def test_too_many_are_sampled_by_the_seed(shapes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "LEAST", 10)
    monkeypatch.setattr(testing, "MOST_BYTES", 1)
    folder = shapes(per_class=20)
    found = [labelled_images(folder, SPEC, CLASSES, seed=seed) for seed in (0, 0, 1)]
    assert all((len(one.labels), one.total) == (10, 60) for one in found)
    assert found[0].paths == found[1].paths != found[2].paths


def test_a_built_in_set_has_no_files(tmp_path: Path) -> None:
    spec = InputSpec(28, 28, 1, mean=(0.5,), std=(0.5,))
    data = load_data(DataOptions(source="digits", size=28), spec, seed=0)
    data.write_splits(tmp_path / "splits.csv")
    (tmp_path / "recipe.yaml").write_text("data: {source: digits}\n")
    found = labelled_images(tmp_path, spec, data.classes)
    assert found.paths == ()
    assert len(found.labels) == len(data.test)
    assert np.bincount(found.labels).tolist() == np.bincount(data.test.labels).tolist()
