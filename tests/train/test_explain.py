"""What is written about a trained model, counted again by hand and by scikit-learn."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import confusion_matrix, log_loss
from torch import nn

from edgewise.data import Dataset, Split
from edgewise.measure.calibration import calibrate
from edgewise.models import Model
from edgewise.report.explanation import Explanation, read_explanation, summary
from edgewise.train import explain as room
from edgewise.train import logits
from edgewise.train.explain import WORST, confused_pairs, explain, pick_images
from edgewise.train.gradcam import heat_maps, overlay
from tests.train.conftest import CLASSES, SPEC, make_dataset, make_split


def shaken(model: Model) -> Model:
    """A copy with other weights, which is wrong about many images."""
    copy = model.copy()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in copy.module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "explain" / "base"


@pytest.fixture
def after(model: Model) -> Model:
    return shaken(model)


@pytest.fixture
def found(model: Model, after: Model, dataset: Dataset, folder: Path) -> Explanation:
    return explain(after, model, dataset, folder, name="base", seed=7)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_record_is_what_was_returned_and_names_the_files(found: Explanation, folder: Path) -> None:
    assert read_explanation(folder) == found
    named = {one.file for one in (*found.looks, *found.worst)}
    assert {path.name for path in folder.iterdir()} == named | {"explain.json", "explain.html", "misclassified.csv"}
    assert len(named) == len(CLASSES) + 2 * WORST
    assert (found.model, found.seed, found.architecture) == ("base", 7, "convnet(8, 16)")


def test_misclassified_are_exactly_those_counted_by_hand(
    found: Explanation, after: Model, dataset: Dataset, folder: Path
) -> None:
    rows = rows_of(folder / "misclassified.csv")
    expected = {}
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        scores = torch.from_numpy(logits(after, split.images)).double()
        shares = scores.softmax(dim=1)
        for index in range(len(split)):
            label, called = int(split.labels[index]), int(scores[index].argmax())
            if label != called:
                loss = nn.functional.cross_entropy(scores[index : index + 1], torch.tensor([label])).item()
                expected[split.names[index]] = (CLASSES[label], CLASSES[called], float(shares[index].max()), loss, name)
        assert found.errors[name] == sum(one[-1] == name for one in expected.values()) > 0
        assert found.images[name] == len(split)
    assert len(rows) == len(expected)
    for row in rows:
        label, called, confidence, loss, name = expected[row["path"]]
        assert (row["label"], row["predicted"], row["split"]) == (label, called, name)
        assert float(row["confidence"]) == pytest.approx(confidence, abs=1e-6)
        assert float(row["loss"]) == pytest.approx(loss, abs=1e-5)
    assert [row["split"] for row in rows] == sorted((row["split"] for row in rows), reverse=True)
    losses = [float(row["loss"]) for row in rows if row["split"] == "test"]
    assert losses == sorted(losses, reverse=True)


def test_confused_pairs_are_scikit_learns_counts(found: Explanation, after: Model, dataset: Dataset) -> None:
    predicted = logits(after, dataset.test.images).argmax(1)
    counts = confusion_matrix(dataset.test.labels, predicted, labels=range(3))
    expected = {
        (CLASSES[i], CLASSES[j]): (counts[i, j], counts[i, j] / counts[i].sum())
        for i in range(3)
        for j in range(3)
        if i != j and counts[i, j]
    }
    assert expected
    assert {(one.label, one.predicted): (one.count, pytest.approx(one.share)) for one in found.pairs} == expected
    assert [one.count for one in found.pairs] == sorted((one.count for one in found.pairs), reverse=True)
    assert sum(one.count for one in found.pairs) == found.errors["test"]


def test_pairs_are_ordered_by_count_then_share() -> None:
    table = np.array([[90, 5, 5], [2, 10, 3], [5, 0, 5]])
    found = [(one.label, one.predicted, one.count, round(one.share, 3)) for one in confused_pairs(table, "abc")]
    assert found == [
        ("c", "a", 5, 0.5),
        ("a", "b", 5, 0.05),
        ("a", "c", 5, 0.05),
        ("b", "c", 3, 0.2),
        ("b", "a", 2, 0.133),
    ]


def test_worst_images_are_those_of_the_largest_loss(
    found: Explanation, after: Model, dataset: Dataset, folder: Path
) -> None:
    for name, split in (("val", dataset.val), ("test", dataset.test)):
        scores = torch.from_numpy(logits(after, split.images)).double()
        losses = nn.functional.cross_entropy(scores, torch.from_numpy(split.labels), reduction="none")
        order = losses.argsort(descending=True)[:WORST].tolist()
        shown = [one for one in found.worst if one.split == name]
        assert [one.name for one in shown] == [split.names[row] for row in order]
        assert [one.loss for one in shown] == pytest.approx(losses[order].tolist())
        pixels = np.asarray(Image.open(folder / shown[0].file))[::13, ::13]  # 12 pixels a side, enlarged 13 times
        np.testing.assert_array_equal(pixels, split.images[order[0]].repeat(3, axis=2))


def test_pictures_show_the_image_and_the_heat_before_and_after(
    found: Explanation, model: Model, after: Model, dataset: Dataset, folder: Path
) -> None:
    assert [one.label for one in found.looks] == list(CLASSES)
    assert found.layer == "block2"
    for number, look in enumerate(found.looks):
        row = dataset.test.names.index(look.name)
        assert (look.split, int(dataset.test.labels[row])) == ("test", number)
        image = dataset.test.images[row]
        panels = np.asarray(Image.open(folder / look.file))
        assert panels.shape == (12 * 13, 3 * 12 * 13 + 2 * 4, 3)
        for place, net in ((1, model), (2, after)):
            (heat,) = heat_maps(net, "block2", image[None], np.array([number]))
            left = place * (12 * 13 + 4)
            np.testing.assert_array_equal(panels[::13, left : left + 12 * 13 : 13], overlay(image, heat))
            answer = look.after if net is after else look.before
            scores = torch.from_numpy(logits(net, image[None])).double()[0]
            assert answer.predicted == CLASSES[int(scores.argmax())]
            assert answer.confidence == pytest.approx(float(scores.softmax(0).max()))


def test_calibration_is_fitted_on_validation_and_told_on_test(
    found: Explanation, after: Model, dataset: Dataset
) -> None:
    val, test = (logits(after, split.images) for split in (dataset.val, dataset.test))
    assert found.calibration == calibrate(val, dataset.val.labels, test, dataset.test.labels, seed=7)
    shares = torch.from_numpy(test).double().softmax(dim=1).numpy()
    assert found.calibration.before.nll == pytest.approx(log_loss(dataset.test.labels, shares))


def test_the_same_images_are_shown_for_every_model_and_another_seed_draws_others(
    found: Explanation, model: Model, dataset: Dataset, tmp_path: Path
) -> None:
    other = explain(model, model, dataset, tmp_path / "other", name="other", seed=7)
    assert [one.name for one in other.looks] == [one.name for one in found.looks]
    drawn = [explain(model, model, dataset, tmp_path / f"{seed}", name="x", seed=seed).looks for seed in range(3)]
    assert len({looks[0].name for looks in drawn}) > 1


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 3), max_size=12), st.integers(0, 9)
)
def test_each_class_that_has_an_image_gets_one_from_the_first_split_that_has_any(
    first: list[int], second: list[int], seed: int
) -> None:
    splits = [
        Split(np.zeros((len(part), 1, 1, 1), dtype=np.uint8), np.array(part, dtype=np.int64), ("",) * len(part))
        for part in (first, second)
    ]
    picked = pick_images(splits, 4, seed)
    assert [label for label, _, _ in picked] == sorted(set(first) | set(second))
    for label, index, row in picked:
        assert splits[index].labels[row] == label
        assert index == (0 if label in first else 1)
    assert picked == pick_images(splits, 4, seed)


def test_hostile_names_are_no_formulas_and_only_names(model: Model, tmp_path: Path) -> None:
    attack = '=HYPERLINK("http://evil.example","x")'
    labels = (attack, "<script>alert(1)</script>", "-1+1")
    plain = make_split(30, 5)
    split = dataclasses.replace(plain, names=tuple(f"@SUM({index})/../x" for index in range(30)))
    data = Dataset(split, split, split, classes=labels, summary={})
    explain(dataclasses.replace(model, labels=labels), model, data, tmp_path / "e", name="base")
    rows = rows_of(tmp_path / "e" / "misclassified.csv")
    assert rows
    assert all(row["path"].startswith("'@SUM(") for row in rows)
    assert {row["label"] for row in rows} | {row["predicted"] for row in rows} <= {f"'{attack}", labels[1], "'-1+1"}
    page = (tmp_path / "e" / "explain.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_net_without_a_map_is_explained_all_the_same(dataset: Dataset, tmp_path: Path) -> None:
    mlp = Model(nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).eval(), "mlp", SPEC, CLASSES)
    found = explain(mlp, mlp.copy(), dataset, tmp_path / "e", name="base")
    assert (found.layer, found.looks, found.classes_left_out) == (None, [], 0)
    assert found.layer_note == "no layer of it returns a map of places"
    assert len(found.worst) == 2 * WORST
    assert (
        "There is no Grad-CAM of this model: no layer of it returns a map" in (tmp_path / "e/explain.html").read_text()
    )


class Stubborn(nn.Module):
    """A net that autograd cannot follow: it leaves it in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.conv(images).mean(dim=(2, 3)).detach()))


def test_a_net_that_autograd_cannot_follow_is_told(dataset: Dataset, tmp_path: Path) -> None:
    net = Model(Stubborn().eval(), "stubborn", SPEC, CLASSES)
    found = explain(net, net.copy(), dataset, tmp_path / "e", name="base")
    assert (found.layer, found.looks) == (None, [])
    assert found.layer_note.startswith('autograd cannot follow "conv"')


def test_many_classes_are_limited_and_the_rest_is_counted(
    model: Model, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOKS", 2)
    found = explain(model, model, dataset, tmp_path / "e", name="base")
    assert ([one.label for one in found.looks], found.classes_left_out) == (list(CLASSES[:2]), 1)
    assert "1 classes are not shown" in (tmp_path / "e/explain.html").read_text()


def test_explaining_again_gives_the_same_files(
    found: Explanation, model: Model, after: Model, dataset: Dataset, folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    explain(after, model, dataset, folder, name="base", seed=7)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_summary_says_the_figures(found: Explanation) -> None:
    told = "\n".join(summary(found))
    pair = found.pairs[0]
    assert f"{found.errors['test']} of 60 images called wrongly" in told
    assert f"{pair.label} called {pair.predicted}: {pair.count} images" in told
    assert "layer block2, 6 x 6 places, 16 channels" in told
    assert f"ECE {found.calibration.before.ece:.1%}" in told
    assert f"temperature {found.calibration.temperature:.3g}" in told


def test_a_perfect_model_has_nothing_to_tell(tmp_path: Path) -> None:
    """Clean halves of an image, and a linear net that reads them."""
    data = make_dataset(noise=0.0)
    linear = nn.Linear(144, 3, bias=False)
    with torch.no_grad():
        rows = torch.zeros(3, 12, 12)
        rows[0, :, :6] = rows[1, :, 6:] = rows[2, :6] = 1.0
        linear.weight[:] = 5 * (rows - rows.mean(dim=(1, 2), keepdim=True)).reshape(3, 144)
    net = Model(nn.Sequential(nn.Flatten(), linear).eval(), "by hand", SPEC, CLASSES)
    found = explain(net, net.copy(), data, tmp_path / "e", name="base")
    assert (found.errors, found.pairs) == ({"val": 0, "test": 0}, [])
    assert (tmp_path / "e/misclassified.csv").read_text() == "path,sha256,label,predicted,confidence,loss,split\n"
    assert (found.calibration.temperature, found.calibration.note[:10]) == (1.0, "not fitted")
    assert "Every test image is called by its right name" in (tmp_path / "e/explain.html").read_text()
    assert all(one["loss"] >= 0 for one in json.loads((tmp_path / "e/explain.json").read_text())["worst"])


def test_the_users_images_are_only_read(shapes: Callable[..., Path], tmp_path: Path, model: Model) -> None:
    from tests.data.loading import GRAY, load

    root = shapes(12)
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    data = load(root, spec=GRAY)
    net = dataclasses.replace(model, labels=data.classes, input=GRAY)
    found = explain(net, net.copy(), data, tmp_path / "e", name="base")
    assert {path: path.read_bytes() for path in root.rglob("*.png")} == before
    rows = rows_of(tmp_path / "e/misclassified.csv")
    digests = {
        name: digest for part in (data.val, data.test) for name, digest in zip(part.names, part.sha256, strict=True)
    }
    assert len(rows) == sum(found.errors.values()) > 0
    assert all(row["sha256"] == digests[row["path"]] for row in rows)
