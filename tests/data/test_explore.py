"""Looking at data: the measures against oracles, and planted label errors found again."""

from __future__ import annotations

import csv
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from edgewise.bundle import InputSpec
from edgewise.data.explore import BYTES_PER_VALUE, Exploration, explore, require_memory
from edgewise.data.separability import Space, cluster, doubts, neighbours, principal, separability, votes
from edgewise.errors import ConfigError, UntrustedError
from edgewise.models import create_model, save_model
from edgewise.recipe import DataOptions


def blobs(seed: int = 0, distance: float = 6.0, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Three round clouds in five dimensions, float32 (3 * count, 5), and their labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(3 * count) % 3
    centres = distance * np.eye(3, 5)
    return (random.normal(size=(3 * count, 5)) + centres[labels]).astype(np.float32), labels.astype(np.int64)


def measured(features: np.ndarray, labels: np.ndarray) -> tuple[Space, Any, Any]:
    space = principal(features, 0)
    near = neighbours(space)
    return space, near, votes(near, labels, int(labels.max()) + 1)


# ---- The measures --------------------------------------------------------------------------------------------------


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    features, _ = blobs()
    space = principal(features, 0)
    centred = features - features.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(space.values), np.abs(centred @ axes.T), atol=1e-4)
    np.testing.assert_allclose(space.explained, singular**2 / (singular**2).sum(), rtol=1e-4)


def test_clusters_are_judged_as_scikit_learn_judges_them() -> None:
    features, labels = blobs()
    space = principal(features, 0)
    found = cluster(space, labels, 3, 0)
    assert found.ari == 1.0
    assert found.ari == adjusted_rand_score(labels, found.rows)
    assert found.silhouette == pytest.approx(silhouette_score(space.values, labels))
    assert found.silhouette_clusters == pytest.approx(found.silhouette)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert abs(cluster(space, shuffled, 3, 0).ari) < 0.05
    assert cluster(space, shuffled, 3, 0).silhouette < 0.05


def test_the_silhouette_of_one_class_or_of_single_images_is_zero() -> None:
    features, labels = blobs(count=4)
    space = principal(features, 0)
    assert cluster(space, np.zeros_like(labels), 1, 0).silhouette == 0.0
    assert cluster(space, np.arange(len(labels)), 3, 0).silhouette == 0.0


def test_neighbours_never_hold_the_image_itself_and_come_by_distance() -> None:
    features, _ = blobs()
    features = np.concatenate([features, features[:20]])  # exact copies
    space = principal(features, 0)
    near = neighbours(space)
    distances = np.linalg.norm(space.values[:, None] - space.values[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert near.shape == (140, 10)
    assert not (near == np.arange(140)[:, None]).any()
    np.testing.assert_allclose(np.take_along_axis(distances, near, 1), np.sort(distances, axis=1)[:, :10], atol=1e-6)


def test_recall_is_that_of_a_leave_one_out_classifier() -> None:
    features, labels = blobs(distance=1.5)
    space, _, shares = measured(features, labels)
    facts = separability(space, labels, shares, ["a", "b", "c"])
    predicted = cross_val_predict(KNeighborsClassifier(10), space.values, labels, cv=LeaveOneOut())
    for number, one in enumerate(facts):
        own = labels == number
        assert one.recall == pytest.approx((predicted[own] == number).mean())
        assert one.images == 40
        wrong = np.bincount(predicted[own & (predicted != number)], minlength=3)
        assert one.confused_with == ["a", "b", "c"][wrong.argmax()]


def test_fishers_ratio_by_hand_and_its_order() -> None:
    features = np.array([[0.0], [2.0], [10.0], [14.0]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    space = principal(features, 0)
    facts = separability(space, labels, np.eye(2)[labels], ["a", "b"])
    # Means 1 and 12, variances 1 and 4: 11^2 / 5.
    assert [one.fisher for one in facts] == pytest.approx([24.2, 24.2])
    ratios = []
    for distance in (0.5, 2.0, 8.0):
        values, numbers = blobs(distance=distance)
        space, _, shares = measured(values, numbers)
        ratios.append(min(one.fisher for one in separability(space, numbers, shares, ["a", "b", "c"])))
    assert ratios == sorted(ratios)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), classes=st.integers(2, 4))
def test_doubts_say_what_their_definition_says(seed: int, count: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count * classes, 3)).astype(np.float32)
    labels = random.permutation(np.arange(count * classes) % classes)
    space = principal(features, 0)
    near = neighbours(space)
    shares = votes(near, labels, classes)
    assert np.allclose(shares.sum(axis=1), 1)
    found = doubts(space, near, labels, shares)
    for one in found:
        others = labels[near[one.row]]
        assert one.label == labels[one.row] != one.suggested
        margin = ((others == one.suggested).sum() - (others == one.label).sum()) / near.shape[1]
        assert one.score == pytest.approx(margin)
        assert 0 < one.score <= 1
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    silent = set(range(len(labels))) - {one.row for one in found}
    for row in silent:
        counts = np.bincount(labels[near[row]], minlength=classes)
        assert counts[labels[row]] == counts.max()


# ---- Planted errors ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exploration, set[str], dict[str, str]]:
    """The digits as files with 5 % of the labels changed: what was found, which were changed, and the truth."""
    root = tmp_path_factory.mktemp("planted")
    digits = load_digits()
    random = np.random.default_rng(5)
    changed = set(random.choice(len(digits.target), round(0.05 * len(digits.target)), replace=False).tolist())
    truth, wrong = {}, set()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        given = (label + random.integers(1, 10)) % 10 if index in changed else label
        name = f"{given}/{index:04}.png"
        (root / str(given)).mkdir(exist_ok=True)
        Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(root / name)
        truth[name] = str(label)
        if index in changed:
            wrong.add(name)
    options = DataOptions(source=str(root), size=16, channels=1)
    return explore(options, seed=3), wrong, truth


def test_planted_label_errors_stand_at_the_top(
    planted: tuple[Exploration, set[str], dict[str, str]],
) -> None:
    found, wrong, truth = planted
    ranked = [found.names[one.row] for one in found.suspects]
    assert len(wrong) == 90
    # Precision among the first 45, and precision = recall among the first 90.
    assert sum(name in wrong for name in ranked[:45]) / 45 >= 0.95
    assert sum(name in wrong for name in ranked[:90]) / 90 >= 0.90
    assert sum(name in wrong for name in ranked) / 90 >= 0.97
    right = [found.classes[one.suggested] == truth[found.names[one.row]] for one in found.suspects[:90]]
    assert np.mean(right) >= 0.9


def test_chance_would_not_have_found_them(planted: tuple[Exploration, set[str], dict[str, str]]) -> None:
    found, wrong, _ = planted
    shuffled = np.random.default_rng(0).permutation(found.names)[:90]
    assert sum(name in wrong for name in shuffled) / 90 < 0.2


def test_without_planted_errors_few_labels_are_in_doubt() -> None:
    found = explore(DataOptions(source="digits", size=16))
    assert len(found.suspects) / len(found.names) < 0.03


# ---- The whole -----------------------------------------------------------------------------------------------------


def test_facts_are_plain_data_and_repeat_with_the_seed() -> None:
    first, again = (explore(DataOptions(source="digits", size=8, limit_train=200), seed=1) for _ in range(2))
    facts = first.as_dict()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts == again.as_dict()
    assert facts["features"] == "pixels, 8 x 8"
    assert facts["images"] == len(first.names) == sum(one["images"] for one in facts["classes"])
    expected = PCA(2).fit(np.concatenate([first.space.values])).explained_variance_
    np.testing.assert_allclose(first.space.values[:, :2].var(axis=0, ddof=1), expected, rtol=1e-6)
    assert facts["mean_recall"] == pytest.approx(np.mean([one["recall"] for one in facts["classes"]]))


def test_images_of_every_split_are_looked_at(shapes: Callable[..., Path]) -> None:
    found = explore(DataOptions(source=str(shapes(per_class=10))))
    assert sorted(set(found.parts)) == ["test", "train", "val"]
    assert len(found.names) == len(set(found.names)) == 30


def test_the_rows_hold_every_image_with_the_suspects_first(tmp_path: Path) -> None:
    found = explore(DataOptions(source="digits", size=8, limit_train=200))
    found.write_csv(tmp_path / "rows.csv")
    rows = list(csv.DictReader((tmp_path / "rows.csv").open(encoding="utf-8")))
    count = len(found.suspects)
    assert count > 0
    assert sorted(row["name"] for row in rows) == sorted(found.names)
    assert [row["name"] for row in rows[:count]] == [found.names[one.row] for one in found.suspects]
    assert [bool(row["suggested"]) for row in rows] == [True] * count + [False] * (len(rows) - count)
    place = found.names.index(rows[-1]["name"])
    assert float(rows[-1]["pc1"]) == found.space.values[place, 0]


def test_features_of_a_trained_model_and_of_its_run(tmp_path: Path, shapes: Callable[..., Path]) -> None:
    model = create_model("convnet(4, 6)", labels=("x", "y"), input=InputSpec(20, 20), seed=3)
    save_model(model, tmp_path / "run" / "model" / "base")
    (tmp_path / "run" / "run.json").write_text("{}")
    options = DataOptions(source=str(shapes(per_class=6)))
    by_run, by_folder = (
        explore(options, model=str(folder)) for folder in (tmp_path / "run", tmp_path / "run" / "model" / "base")
    )
    assert by_run.features == by_folder.features == "6 features of convnet(4, 6), trained, 20 x 20"
    np.testing.assert_array_equal(by_run.space.values, by_folder.space.values)


def test_weights_need_a_model() -> None:
    with pytest.raises(ConfigError, match="no model to put them into") as caught:
        explore(DataOptions(source="digits"), weights="w.pth")
    assert caught.value.code == "C63"


def test_without_umap_the_note_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    found = explore(DataOptions(source="digits", size=8, limit_train=100))
    assert found.umap is None
    assert found.notes[-1] == 'there is no UMAP picture: pip install "edgewise[umap]" for one'


def test_where_umap_is_installed_it_is_given_the_components_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for umap-learn, which is not among the packages of the tests: only the call is looked at."""

    class UMAP:
        def __init__(self, **options: Any) -> None:
            assert options == {"n_components": 2, "random_state": 7}

        def fit_transform(self, values: np.ndarray) -> np.ndarray:
            return values[:, 1::-1]

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "umap", module)
    found = explore(DataOptions(source="digits", size=8, limit_train=100), seed=7)
    assert found.umap is not None
    np.testing.assert_array_equal(found.umap, found.space.values[:, 1::-1])
    assert not [note for note in found.notes if "UMAP" in note]


def test_the_index_does_not_hang_on_the_order_of_the_images() -> None:
    features, labels = load_digits(return_X_y=True)
    found = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(labels))
        space = principal(features[order].astype(np.float32), 0)
        found.append(cluster(space, labels[order].astype(np.int64), 10, 0).ari)
    assert max(found) - min(found) < 0.03  # with 4 starts: 0.09


def test_a_model_that_diverged_is_refused(shapes: Callable[..., Path], tmp_path: Path) -> None:
    spec = InputSpec(16, 16, 3)
    model = create_model("convnet(8)", labels=("cross", "disc", "square"), input=spec)
    for parameter in model.module.parameters():
        parameter.data.fill_(float("nan"))
    save_model(model, tmp_path / "broken")
    with pytest.raises(UntrustedError, match="not finite"):
        explore(DataOptions(source=str(shapes(per_class=4))), model=str(tmp_path / "broken"))


def test_what_memory_cannot_hold_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewise.data.explore.available_bytes", lambda: 100 * 64 * BYTES_PER_VALUE)
    require_memory(100, 64)
    with pytest.raises(ConfigError, match="memory that is free") as caught:
        require_memory(101, 64)
    assert caught.value.code == "C48"
    with pytest.raises(ConfigError, match="memory that is free"):
        explore(DataOptions(source="digits", size=16, limit_train=200))
    monkeypatch.setattr("edgewise.data.explore.available_bytes", lambda: None)
    require_memory(10**12, 64)


def test_a_trained_model_keeps_its_size(tmp_path: Path) -> None:
    spec = InputSpec(16, 16, 1, mean=(0.5,), std=(0.5,))
    save_model(create_model("convnet(4)", labels=("a", "b"), input=spec), tmp_path / "model")
    options = DataOptions(source="digits", limit_train=40, limit_val=20, limit_test=20)
    with pytest.raises(ConfigError, match="16 x 16, not of 24") as caught:
        explore(options.model_copy(update={"size": 24}), model=str(tmp_path / "model"))
    assert caught.value.code == "C47"
    assert "16 x 16" in explore(options.model_copy(update={"size": 16}), model=str(tmp_path / "model")).features
