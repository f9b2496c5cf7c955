"""Class folders filled from a camera."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.errors import ConfigError, UnavailableError
from edgewise.interrupt import listen
from edgewise.live.fill import capture
from edgewise.live.keep import new_folder, write_new
from tests.live.test_uncertain import picture


class Film:
    """A source of given pictures."""

    name = "film"

    def __init__(
        self, pictures: Sequence[np.ndarray], live: bool = False, lost: UnavailableError | None = None
    ) -> None:
        self.live = live
        self.closed = False
        self._pictures = iter(pictures)
        self._lost = lost

    def read(self) -> np.ndarray | None:
        found = next(self._pictures, None)
        if found is None and self._lost:
            raise self._lost
        return found

    def close(self) -> None:
        self.closed = True


def test_it_writes_what_differs_until_the_film_ends(tmp_path: Path) -> None:
    film = Film([picture(seed) for seed in (1, 1, 2, 2, 2, 3, 1)])
    found = capture(film, tmp_path / "data", "apple")
    assert (found.frames, found.alike, found.ended) == (7, 4, "end")
    assert found.written == sorted((tmp_path / "data/apple").iterdir())
    for path, seed in zip(found.written, (1, 2, 3), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture(seed))
    assert film.closed


def test_it_stops_at_the_count_and_counts_nothing_twice(tmp_path: Path) -> None:
    found = capture(Film([picture(seed) for seed in range(9)]), tmp_path, "apple", count=4)
    assert (len(found.written), found.frames, found.ended) == (4, 4, "count")


def test_names_never_collide_and_files_that_are_there_stay(tmp_path: Path) -> None:
    film = [picture(seed) for seed in range(3)]
    first = capture(Film(film), tmp_path, "apple")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.written}
    (tmp_path / "apple/mine.txt").write_text("keep me")
    second = capture(Film(film), tmp_path, "apple")
    assert not set(first.written) & set(second.written)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.written} == before
    assert len(list((tmp_path / "apple").iterdir())) == 7


def test_writers_at_the_same_moment_get_names_of_their_own(tmp_path: Path) -> None:
    """Eight threads, one wanted name: no file is lost and none holds the bytes of another."""
    written: list[tuple[Path, bytes]] = []

    def work(mark: int) -> None:
        for turn in range(10):
            content = f"{mark}-{turn}".encode()
            written.append((write_new(tmp_path, "same", ".png", content), content))

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path for path, _ in written}) == 80
    assert all(path.read_bytes() == content for path, content in written)
    assert len(list(tmp_path.iterdir())) == 80
    assert new_folder(tmp_path, "there") != new_folder(tmp_path, "there")


def test_a_file_system_without_links_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    paths = [write_new(tmp_path, "a", ".png", content) for content in (b"1", b"2")]
    assert [path.name for path in paths] == ["a.png", "a-2.png"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert len(list(tmp_path.iterdir())) == 2


def test_of_a_camera_a_picture_comes_not_sooner_than_asked(tmp_path: Path) -> None:
    found = capture(Film([picture(seed) for seed in range(5)], live=True), tmp_path, "apple", every=60)
    assert (len(found.written), found.too_soon) == (1, 4)


def test_a_lost_camera_keeps_what_was_written_and_says_so(tmp_path: Path) -> None:
    lost = UnavailableError("usb:0 is lost", code="L05", why="unplugged")
    found = capture(Film([picture(1), picture(2)], live=True, lost=lost), tmp_path, "apple", every=0)
    assert (len(found.written), found.ended, found.lost) == (2, "lost", "usb:0 is lost: unplugged")
    film = Film([], live=True, lost=lost)
    with pytest.raises(UnavailableError, match="L05"):
        capture(film, tmp_path, "apple")
    assert film.closed


def test_the_user_can_end_it(tmp_path: Path) -> None:
    found = capture(Film([picture(1)] * 9), tmp_path, "apple", show=lambda pixels, so_far: so_far.frames < 3)
    assert (found.frames, found.ended) == (3, "stopped")


def test_a_signal_ends_it_after_the_frame_at_hand(tmp_path: Path) -> None:
    def interrupt(pixels: np.ndarray, so_far: object) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return True

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
        listen()
        found = capture(Film([picture(seed) for seed in range(9)]), tmp_path, "apple", show=interrupt)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (found.ended, found.signal, found.frames) == ("stopped", signal.SIGINT, 2)


@pytest.mark.parametrize("label", ["", " apple", ".hidden", "a/b", "..", "a\nb", "x" * 101, "a:b"])
def test_classes_that_cannot_be_folders_are_refused(label: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Q13"):
        capture(Film([picture(1)]), tmp_path / "data", label)
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    film = Film([picture(1)])
    with pytest.raises(UnavailableError, match="Q10"):
        capture(film, tmp_path / "data", "apple")
    assert film.closed
