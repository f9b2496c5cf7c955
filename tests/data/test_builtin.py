"""The built-in sets, against scikit-learn and against IDX files written here."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.data import builtin, defaults, find_images, load_data
from edgewise.errors import DataError, UnavailableError
from edgewise.recipe import DataOptions
from edgewise.runs import cache_dir
from tests.data.loading import GRAY, load, warnings_of


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder: Path, train: int = 200, test: int = 40) -> dict[str, np.ndarray]:
    """Random pictures in Fashion-MNIST's files; the train ones plain, the test ones gzipped."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    made = {}
    for prefix, count in (("train", train), ("t10k", test)):
        made[prefix] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[f"{prefix}-labels"] = (np.arange(count) % 10).astype(np.uint8)
    (folder / "train-images-idx3-ubyte").write_bytes(idx(made["train"]))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(made["train-labels"]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(made["t10k"])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(made["t10k-labels"])))
    return made


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtin, "FASHION_MNIST_DIR", tmp_path / "not-installed")


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    data = load_data(DataOptions(source="digits"), InputSpec(8, 8, 1, mean=(0.5,), std=(0.5,)))
    assert data.classes == tuple("0123456789")
    assert data.summary["images"] == 1797 == len(data.train) + len(data.val) + len(data.test)
    truth = load_digits()
    for split in (data.train, data.val, data.test):
        rows = [int(name.removeprefix("digits/")) for name in split.names]
        assert np.array_equal(split.labels, truth.target[rows])
        assert np.abs(split.images[..., 0] - truth.images[rows] * 255 / 16).max() <= 0.5


def test_digits_come_at_the_size_of_the_model() -> None:
    data = load_data(DataOptions(source="digits", limit_train=10), InputSpec(32, 32, 3))
    assert data.train.images.shape == (10, 32, 32, 3)
    assert data.train.images.dtype == np.uint8


def test_defaults_need_no_data() -> None:
    assert defaults("digits") == (32, 1)
    assert defaults("fashion-mnist") == (28, 1)
    assert defaults("my/folder") == (None, None)


@pytest.mark.usefixtures("no_debian")
def test_fashion_keeps_the_official_test_part_and_draws_val_from_train() -> None:
    made = write_fashion(cache_dir() / "fashion-mnist" / "FashionMNIST" / "raw")
    data = load("fashion-mnist", spec=InputSpec(28, 28, 1, mean=(0.5,), std=(0.5,)))
    assert data.classes == tuple(sorted(builtin.FASHION_CLASSES))
    assert np.array_equal(data.test.images[..., 0], made["t10k"])
    assert [data.classes[label] for label in data.test.labels] == [
        builtin.FASHION_CLASSES[number] for number in made["t10k-labels"]
    ]
    # 200 images by 0.15 / (0.7 + 0.15): 3.53 of each of ten classes of 20.
    assert (len(data.train), len(data.val), len(data.test)) == (160, 40, 40)
    rows = [int(name.rpartition("/")[2]) for name in data.val.names]
    assert np.array_equal(data.val.images[..., 0], made["train"][rows])
    assert "no val images" in warnings_of(data)


@pytest.mark.usefixtures("no_debian")
def test_limits_draw_evenly_from_the_classes() -> None:
    write_fashion(cache_dir() / "fashion-mnist")
    data = load("fashion-mnist", limit_train=50, limit_val=20, spec=GRAY)
    assert set(data.summary["train_per_class"].values()) == {5}
    assert set(data.summary["val_per_class"].values()) == {2}
    assert len(data.test) == 40


@pytest.mark.usefixtures("no_debian")
def test_find_images_and_load_data_agree() -> None:
    write_fashion(cache_dir() / "fashion-mnist")
    listing = find_images(DataOptions(source="fashion-mnist"), seed=3)
    assert listing.summary == load("fashion-mnist", seed=3, spec=GRAY).summary


@pytest.mark.usefixtures("no_debian")
def test_fashion_that_is_not_here_names_both_ways() -> None:
    with pytest.raises(UnavailableError, match="apt-get install dataset-fashion-mnist, or add --download") as caught:
        load("fashion-mnist")
    assert caught.value.code == "E50"


@pytest.mark.usefixtures("no_debian")
def test_download_is_torchvisions_and_its_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Datasets:
        @staticmethod
        def FashionMNIST(root: str, download: bool) -> None:
            asked.append((root, download))
            write_fashion(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setitem(sys.modules, "torchvision.datasets", Datasets)
    assert len(load("fashion-mnist", download=True, spec=GRAY).test) == 40
    assert asked == [(str(cache_dir() / "fashion-mnist"), True)]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert len(load("fashion-mnist", download=True, spec=GRAY).test) == 40  # read from the copy
    monkeypatch.setenv("EDGEWISE_CACHE", str(cache_dir() / "empty"))
    with pytest.raises(UnavailableError, match="Fashion-MNIST cannot be fetched"):
        load("fashion-mnist", download=True, spec=GRAY)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-1], "the file has fewer"),
        (lambda raw: raw + b"x", "the file has more"),
        (lambda raw: b"\0\0\x0d" + raw[3:], "magic number 00000d03"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "more than any set"),
        (lambda raw: raw[:6], "unpack requires"),
        (lambda raw: b"", "magic number"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, damage: object, words: str) -> None:
    raw = idx(np.arange(48, dtype=np.uint8).reshape(3, 4, 4))
    good = tmp_path / "good"
    good.write_bytes(raw)
    assert np.array_equal(builtin.read_idx(good, 3), np.arange(48).reshape(3, 4, 4))
    for name, wrap in (("bad", bytes), ("bad.gz", gzip.compress)):
        (tmp_path / name).write_bytes(wrap(damage(raw)))  # type: ignore[operator]
        with pytest.raises(DataError, match=words) as caught:
            builtin.read_idx(tmp_path / name, 3)
        assert caught.value.code == "D16"


def test_a_gzip_file_cut_short_is_named(tmp_path: Path) -> None:
    raw = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8)))
    for name, data in (
        ("cut.gz", raw[: len(raw) // 2]),
        ("not.gz", b"hello"),
        ("flip.gz", raw[:90] + b"\0\0" + raw[92:]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            builtin.read_idx(tmp_path / name, 3)


@pytest.mark.usefixtures("no_debian")
def test_images_and_labels_must_fit_together() -> None:
    folder = cache_dir() / "fashion-mnist"
    write_fashion(folder)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(199, dtype=np.uint8)))
    with pytest.raises(DataError, match="200 images, 199 labels"):
        load("fashion-mnist")


def test_missing_scikit_learn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnavailableError, match="scikit-learn, which is not installed"):
        load("digits")


def test_a_folder_named_like_a_built_in_set_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "write ./digits for the folder" in warnings_of(load("digits", spec=GRAY))


def test_gray_pictures_are_prepared_by_the_one_preprocessing() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", spec=GRAY)
    row = int(data.train.names[0].removeprefix("digits/"))
    small = Image.fromarray(np.rint(load_digits().images[row] * 255 / 16).astype(np.uint8))
    expected = np.asarray(small.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(data.train.images[0, ..., 0], expected)
