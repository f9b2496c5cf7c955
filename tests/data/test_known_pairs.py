"""Remembered pairs are those that comparing gives, and are compared anew when the file or the images are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.planted import picture, resized

from edgewise.data import known_pairs, similar
from edgewise.runs import cache_dir


@pytest.fixture
def looks() -> np.ndarray:
    images = [picture(index) for index in range(12)]
    made = [similar.look(image) for image in [*images, *(resized(image, 0.5) for image in images[:3])]]
    return np.frombuffer(b"".join(made), np.uint8).reshape(-1, 32, 32)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for each time that looks are compared."""
    count: list[int] = []
    original = similar.alike

    def alike(looks: np.ndarray) -> np.ndarray:
        count.append(1)
        return original(looks)

    monkeypatch.setattr(similar, "alike", alike)
    monkeypatch.setattr(known_pairs, "SLOW_SECONDS", -1.0)
    return count


def files() -> list[Path]:
    return sorted((cache_dir() / "pairs").glob("*.npz"))


def test_they_are_found_once(looks: np.ndarray, counted: list[int]) -> None:
    first, again = known_pairs.known_pairs(looks), known_pairs.known_pairs(looks)
    assert first.tolist() == again.tolist() == [[0, 12], [1, 13], [2, 14]]
    assert len(counted) == 1


def test_other_images_are_compared(looks: np.ndarray, counted: list[int]) -> None:
    known_pairs.known_pairs(looks)
    assert known_pairs.known_pairs(looks[:12]).tolist() == []
    assert (len(counted), len(files())) == (2, 2)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "out of range"])
def test_a_damaged_file_is_made_again(damage: str, looks: np.ndarray, counted: list[int]) -> None:
    known_pairs.known_pairs(looks)
    (path,) = files()
    data = path.read_bytes()
    if damage == "out of range":
        np.savez(path, pairs=np.array([[0, 99]]))
    else:
        middle = data.index(b"\x93NUMPY") + 140
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": data[:60], "flipped": flipped, "foreign": b"PK"}[damage])
    assert known_pairs.known_pairs(looks).tolist() == [[0, 12], [1, 13], [2, 14]]
    assert len(counted) == 2
    assert known_pairs.known_pairs(looks).tolist() == [[0, 12], [1, 13], [2, 14]]
    assert len(counted) == 2


def test_quick_ones_are_not_kept(looks: np.ndarray) -> None:
    known_pairs.known_pairs(looks)
    assert files() == []


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    looks: np.ndarray, counted: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "file"))
    assert known_pairs.known_pairs(looks).tolist() == [[0, 12], [1, 13], [2, 14]]
