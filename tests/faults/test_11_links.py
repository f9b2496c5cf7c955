"""Case 11: links that loop, dangle or leave the folder, pipes and devices, hard links."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgewise.data import find_images
from edgewise.errors import DataError
from edgewise.recipe import DataOptions
from tests.data.loading import all_names, load, paint, picture, warnings_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return paint(tmp_path / "d", cat=20, dog=20)


def test_a_loop_of_folders_ends(root: Path) -> None:
    (root / "cat" / "again").symlink_to(root)
    (root / "self").symlink_to(root)
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert data.summary["images"] == 40
    assert "cat/again (a link that leads back to a folder above it)" in warnings_of(data)
    assert "self (a link that leads back" in warnings_of(data)


def test_two_folders_that_hold_links_to_each_other(root: Path) -> None:
    (root / "cat" / "dogs").symlink_to(root / "dog")
    (root / "dog" / "cats").symlink_to(root / "cat")
    data = load(root)
    assert data.summary["images"] == 40
    assert "in folders below a class folder are left out" in warnings_of(data)


def test_a_pipe_does_not_hang(root: Path) -> None:
    os.mkfifo(root / "cat" / "pipe.jpg")
    os.mkfifo(root / "dog" / "pipe")
    sock = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        os.chdir(root / "dog")
        sock.bind("socket.png")
    finally:
        os.chdir(here)
        sock.close()
    data = load(root)
    assert data.summary["images"] == 40
    told = warnings_of(data)
    for name in ("cat/pipe.jpg", "dog/pipe", "dog/socket.png"):
        assert f"{name} (not a regular file (a pipe, socket or device); never opened)" in told
    assert data.summary["ignored"] == 3


def test_a_pipe_that_took_the_place_of_an_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped after the scan, before it is opened."""
    from edgewise.data import walk

    real = walk.walk

    def swap(path: str) -> walk.Folder:
        tree = real(path)
        (root / "cat" / "000.png").unlink()
        os.mkfifo(root / "cat" / "000.png")
        return tree

    monkeypatch.setattr("edgewise.data.scan.walk", swap)
    listing = find_images(DataOptions(source=str(root), max_bad=0.1))
    assert [(file.name, file.reason) for file in listing.bad] == [("cat/000.png", "not a regular file")]


def test_a_link_out_of_the_folder_is_not_read(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    picture("secret").save(secret)
    (root / "cat" / "secret.png").symlink_to(secret)
    (root / "cat" / "relative.png").symlink_to(Path("..") / ".." / "secret.png")
    opened = []
    real = os.open

    def watch(path: object, *arguments: object, **options: object) -> int:
        opened.append(os.path.realpath(str(path)))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", watch)
        data = load(root, max_bad=0.1)
    assert len(opened) >= 40
    assert str(secret) not in opened
    assert [(file.name, file.reason) for file in data.bad] == [
        ("cat/relative.png", "a link that leads out of the data folder; it is not followed"),
        ("cat/secret.png", "a link that leads out of the data folder; it is not followed"),
    ]


def test_many_links_out_of_the_folder_stop_the_run(root: Path, tmp_path: Path) -> None:
    picture("x").save(tmp_path / "x.png")
    for index in range(3):
        (root / "cat" / f"link{index}.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(DataError, match="3 of 43 image files cannot be used") as caught:
        load(root)
    assert "cat/link0.png: a link that leads out" in caught.value.why


def test_a_class_folder_that_lies_elsewhere_is_not_read(root: Path, tmp_path: Path) -> None:
    paint(tmp_path / "elsewhere", fox=10)
    (root / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    data = load(root)
    assert data.classes == ("cat", "dog")
    assert "fox (a link that leads out of the data folder; it is not followed)" in warnings_of(data)


def test_a_link_in_no_class_folder_is_told(root: Path, tmp_path: Path) -> None:
    (root / "cover.png").symlink_to(tmp_path / "cover.png")
    data = load(root)
    assert data.bad == ()
    assert "1 link(s) or special file(s) are left out: cover.png (a link that leads out" in warnings_of(data)
    assert data.summary["ignored"] == 1


def test_a_folder_of_nothing_but_links_says_so(tmp_path: Path) -> None:
    paint(tmp_path / "real", cat=4)
    (tmp_path / "d" / "cat").mkdir(parents=True)
    for path in (tmp_path / "real" / "cat").iterdir():
        (tmp_path / "d" / "cat" / path.name).symlink_to(path)
    with pytest.raises(DataError, match=r"4 link\(s\) or special files are not followed"):
        load(tmp_path / "d")


def test_a_dangling_link_is_a_bad_file(root: Path) -> None:
    (root / "cat" / "gone.png").symlink_to(root / "cat" / "nothing.png")
    (root / "cat" / "loop.png").symlink_to(root / "cat" / "loop.png")
    data = load(root, max_bad=0.1)
    assert [(file.name, file.reason) for file in data.bad] == [
        ("cat/gone.png", "a link that leads nowhere"),
        ("cat/loop.png", "a link that leads nowhere"),
    ]


def test_links_that_stay_inside_are_followed(root: Path) -> None:
    (root / "store").mkdir()
    picture("inside").save(root / "store" / "x.png")
    (root / "cat" / "inside.png").symlink_to(root / "store" / "x.png")
    data = load(root, layout="classes", duplicates="off")  # else: one image under two labels
    assert "cat/inside.png" in all_names(data)


def test_a_root_that_is_itself_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link").summary["data_hash"] == load(root).summary["data_hash"]


def test_hard_links_are_copies(root: Path) -> None:
    os.link(root / "cat" / "000.png", root / "cat" / "hard.png")
    for seed in range(4):
        data = load(root, seed=seed)
        (side,) = (split for split in (data.train, data.val, data.test) if "cat/hard.png" in split.names)
        assert "cat/000.png" in side.names
    assert "1 image(s) are exact copies of others: cat/000.png = cat/hard.png" in warnings_of(data)
