"""Case 1: the path is missing, is a file, cannot be read, or is a URL."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgewise.errors import DataError
from tests.data.loading import load, paint


def test_a_missing_folder_offers_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    (tmp_path / ".flower").mkdir()
    with pytest.raises(DataError, match=r"error\[D01\]: there is no such folder") as caught:
        load(tmp_path / "flower")
    assert caught.value.exit_code == 3
    assert caught.value.fix == f"did you mean {tmp_path}/flowers?"


def test_a_folder_missing_further_up_offers_the_name_there(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=f"did you mean {tmp_path}/photos"):
        load(tmp_path / "phots" / "2024" / "cats")


def test_a_misspelt_built_in_set_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong, right in (("digit", "digits"), ("fashion_mnist", "fashion-mnist")):
        with pytest.raises(DataError, match=rf"did you mean {right}\?"):
            load(wrong)


def test_with_nothing_near_the_possibilities_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder of class folders, a manifest, or a built-in set: digits, fashion"):
        load(tmp_path / "zzzzzz")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(DataError, match=r"error\[D01\]"):
        load(name)


def test_a_loop_of_links_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match=r"error\[D01\]"):
        load(tmp_path / "loop")


@pytest.mark.parametrize("name", ["cats.zip", "cat.jpg", "noext"])
def test_a_file_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="unpack an archive first") as caught:
        load(tmp_path / name)
    assert (caught.value.code, caught.value.exit_code) == ("D03", 3)


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permission is withdrawn in os.scandir, because tests may run as root, whom chmod does not stop."""
    root = paint(tmp_path / "d", cat=5, dog=5)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="Permission denied") as caught:
        load(root)
    assert caught.value.where == {"folder": str(root / "dog")}
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("url", ["https://example.org/cats.zip", "s3://bucket/cats", "hf://datasets/x", "FILE:///tmp"])
def test_a_url_is_never_opened(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(DataError, match="download it first") as caught:
        load(url)
    assert (caught.value.code, caught.value.exit_code) == ("D02", 3)
