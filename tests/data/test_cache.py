"""The pixel cache: the right pixels, once decoded, whatever happens to its files."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.data import Dataset, cache, find_images, pool
from edgewise.data import read as reading
from edgewise.device import preprocess
from edgewise.errors import UnavailableError
from edgewise.recipe import DataOptions
from edgewise.runs import cache_dir
from tests.data.loading import SIDE, SPEC, load, paint, picture, warnings_of

BYTES = SIDE * SIDE * 3


@pytest.fixture
def keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set is too large for memory."""
    monkeypatch.setattr(cache, "KEEP_BYTES", 0)


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each image that is decoded."""
    count: list[int] = []
    original = preprocess.open_image

    def counted(*arguments: object, **options: object) -> object:
        count.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(preprocess, "open_image", counted)
    return count


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "data", cat=12, dog=10)


def entries() -> list[Path]:
    return sorted((cache_dir() / "pixels").glob("*.npy"))


def assert_true_pixels(data: Dataset, root: Path) -> None:
    """Every row of every split is the picture that its name says."""
    for split in (data.train, data.val, data.test):
        for name, image, label in zip(split.names, split.images, split.labels, strict=True):
            assert np.array_equal(image, np.asarray(Image.open(root / name).convert("RGB"))), name
            assert data.classes[label] == name.partition("/")[0]


def test_small_sets_stay_in_memory(root: Path) -> None:
    data = load(root)
    assert_true_pixels(data, root)
    assert not isinstance(data.train.images, np.memmap)
    assert not data.train.images.flags.writeable
    assert not (cache_dir() / "pixels").exists()


def test_a_slow_set_is_kept_too(root: Path, decodes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SLOW_SECONDS", -1.0)
    load(root)
    data = load(root)
    assert len(decodes) == 22
    assert_true_pixels(data, root)


@pytest.mark.usefixtures("keeps_all")
def test_a_large_set_is_decoded_once_and_mapped(root: Path, decodes: list[int]) -> None:
    first = load(root)
    assert len(decodes) == 22
    second = load(root)
    assert len(decodes) == 22
    for data in (first, second):
        assert_true_pixels(data, root)
        assert isinstance(data.train.images, np.memmap)
        assert not data.train.images.flags.writeable
    assert first.summary == second.summary
    (entry,) = entries()
    assert np.load(entry).shape == (22, SIDE, SIDE, 3)


@pytest.mark.usefixtures("keeps_all")
def test_splits_are_consecutive_views_of_one_map(root: Path) -> None:
    data = load(root, limit_train=8)
    places = [split.images.__array_interface__["data"][0] for split in (data.train, data.val, data.test)]
    assert places[1] - places[0] == len(data.train) * BYTES
    assert places[2] - places[1] == len(data.val) * BYTES
    assert all(split.images.flags.c_contiguous for split in (data.train, data.val, data.test))


@pytest.mark.usefixtures("keeps_all")
def test_another_seed_or_limit_reorders_without_decoding(root: Path, decodes: list[int]) -> None:
    first = load(root, seed=0)
    for seed, limit in ((1, None), (1, 6), (2, None), (0, None)):
        data = load(root, seed=seed, limit_train=limit)
        assert_true_pixels(data, root)
    assert len(decodes) == 22
    assert len(entries()) == 1
    assert_true_pixels(first, root)  # its map is that of a file that was replaced since
    assert data.train.names == first.train.names


@pytest.mark.usefixtures("keeps_all")
def test_a_changed_image_is_decoded_again(root: Path, decodes: list[int]) -> None:
    load(root)
    path = root / "cat" / "003.png"
    times = path.stat()
    old = path.read_bytes()
    picture("other").save(path)
    path.write_bytes(path.read_bytes()[: len(old)].ljust(len(old), b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time: only the hash can tell
    assert_true_pixels(load(root), root)
    assert len(decodes) == 44


@pytest.mark.usefixtures("keeps_all")
def test_the_cache_does_not_depend_on_where_the_images_are(root: Path, tmp_path: Path) -> None:
    load(root)
    root.rename(tmp_path / "moved")
    assert_true_pixels(load(tmp_path / "moved"), tmp_path / "moved")
    assert len(entries()) == 1


@pytest.mark.usefixtures("keeps_all")
def test_other_preprocessing_is_another_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    small = load(root, spec=type(SPEC)(height=8, width=8))
    assert small.train.images.shape[1:] == (8, 8, 3)
    assert len(entries()) == 2
    monkeypatch.setattr(cache, "_version", lambda: "next")
    load(root)
    assert len(entries()) == 3


def _other_shape(path: Path) -> None:
    np.save(path.with_suffix(""), np.zeros((22, 4, 4, 3), dtype=np.uint8))
    path.with_suffix("").with_suffix(".npy").replace(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(path.read_bytes()[:4000] + b"!" + path.read_bytes()[4001:]),
        lambda path: path.write_bytes(b"not numpy at all"),
        _other_shape,
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir(), path.rmdir()),
    ],
    ids=["empty", "short", "cut", "long", "flipped", "foreign", "shape", "gone", "was a folder"],
)
@pytest.mark.usefixtures("keeps_all")
def test_a_damaged_entry_is_made_again(root: Path, decodes: list[int], damage: Callable[[Path], object]) -> None:
    load(root)
    (entry,) = entries()
    damage(entry)
    assert_true_pixels(load(root), root)
    assert len(decodes) == 44
    assert_true_pixels(load(root), root)
    assert len(decodes) == 44


@pytest.mark.usefixtures("keeps_all")
def test_a_wrong_hint_is_not_believed(root: Path, tmp_path: Path) -> None:
    load(root)
    other = paint(tmp_path / "other", cat=12, dog=10)
    load(other)
    hints = sorted((cache_dir() / "pixels").glob("*.seen"))
    assert len(hints) == 2
    texts = [hint.read_text() for hint in hints]
    for hint, text in zip(hints, reversed(texts), strict=True):
        hint.write_text(text)
    assert_true_pixels(load(root), root)
    for hint in hints:
        hint.write_bytes(b"\xff../../etc")
    assert_true_pixels(load(other), other)


@pytest.mark.usefixtures("keeps_all")
def test_bad_files_are_named_from_the_cache_as_from_the_images(root: Path, decodes: list[int]) -> None:
    (root / "cat" / "bad.jpg").write_bytes(b"<html>no</html>")
    (root / "dog" / "empty.png").write_bytes(b"")
    first = load(root, max_bad=0.2)
    second = load(root, max_bad=0.2)
    assert len(decodes) == 24
    assert first.bad == second.bad == find_images(DataOptions(source=str(root), max_bad=0.2)).bad
    assert [file.name for file in first.bad] == ["cat/bad.jpg", "dog/empty.png"]
    assert_true_pixels(second, root)


@pytest.mark.usefixtures("keeps_all")
def test_copies_have_rows_of_their_own(root: Path) -> None:
    (root / "cat" / "copy.png").write_bytes((root / "cat" / "000.png").read_bytes())
    for seed in (0, 1):
        assert_true_pixels(load(root, seed=seed), root)


@pytest.mark.usefixtures("keeps_all")
def test_nothing_is_left_behind(root: Path) -> None:
    load(root)
    stale = cache_dir() / "pixels" / ".x.npy.1.tmp"
    stale.write_bytes(b"half")
    os.utime(stale, (0, 0))
    young = cache_dir() / "pixels" / ".y.npy.2.tmp"
    young.write_bytes(b"of another process")
    load(root, seed=5)
    gc.collect()
    assert {path.suffix for path in (cache_dir() / "pixels").iterdir()} == {".npy", ".seen", ".tmp"}
    assert not stale.exists()
    assert young.exists()


def test_a_full_disk_keeps_small_sets_in_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(cache, "write_atomic", full)
    data = load(root)
    assert_true_pixels(data, root)
    assert "are not kept in" in warnings_of(data)
    assert "No space left" in warnings_of(data)


@pytest.mark.usefixtures("keeps_all")
def test_a_full_disk_stops_large_sets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: len(data) // 2)
    with pytest.raises(UnavailableError, match=r"No space left on device; up to 0 MB needed, \d+ MB free") as caught:
        load(root)
    assert caught.value.code == "E51"
    assert "EDGEWISE_CACHE" in caught.value.fix


@pytest.mark.usefixtures("keeps_all")
def test_a_cache_folder_that_cannot_be_made(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="cannot be written into the cache folder"):
        load(root)


def test_files_too_large_to_hold_are_read_from_the_open_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(root)
    monkeypatch.setattr(reading, "WHOLE_BYTES", 100)
    streamed = load(root)
    assert streamed.summary == whole.summary
    assert_true_pixels(streamed, root)


def test_progress_counts_up_to_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgewise.data import load_data

    monkeypatch.setattr(pool, "_CHUNK", 8)
    seen: list[tuple[int, int]] = []
    load_data(DataOptions(source=str(root)), SPEC, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 3
    assert seen == sorted(seen)
    assert seen[-1] == (22, 22)
    assert {total for _, total in seen} == {22}


WORKER = """
import sys
from pathlib import Path
from edgewise.data import cache
cache.KEEP_BYTES = 0
from tests.data.loading import load
from tests.data.test_cache import assert_true_pixels
for seed in range(3):
    assert_true_pixels(load(sys.argv[1], seed=seed * int(sys.argv[2])), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_processes_may_write_the_same_entry_at_once(root: Path) -> None:
    here = Path(__file__).parents[2]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), str(step)], cwd=here, stderr=subprocess.PIPE, text=True
        )
        for step in (1, 2)
    ]
    for worker in workers:
        _, words = worker.communicate(timeout=120)
        assert worker.returncode == 0, words
    assert len(entries()) == 1
