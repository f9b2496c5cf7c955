"""Case 7: files that are no whole image are found before training, named with their reason, and never half used."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.data import find_images
from edgewise.errors import DataError
from edgewise.recipe import DataOptions
from tests.data.loading import all_names, load, paint, picture, pixels_of, warnings_of


def encoded(kind: str, side: int = 64) -> bytes:
    stream = io.BytesIO()
    picture("x").resize((side, side)).save(stream, kind)
    return stream.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


BAD = {
    "empty.jpg": (b"", "0 bytes"),
    "cut.jpg": (encoded("JPEG")[:-300], "truncated"),
    "cut.png": (encoded("PNG")[:-2000], "truncated"),
    "page.jpg": (b"<!DOCTYPE html><html><body>404 not found</body></html>", "HTML or XML text, not an image"),
    "crc.png": (flipped(encoded("PNG"), 30), "a PNG file with a damaged header"),
    "data.png": (flipped(encoded("PNG"), 60), "broken data stream"),
    "head.png": (encoded("PNG")[:8] + b"\0" * 40, "a PNG file with a damaged header"),
    "noise.jpg": (bytes(range(1, 200)), "not an image of an accepted format"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = paint(tmp_path / "d", cat=40, dog=40)
    for name, (data, _) in BAD.items():
        (root / "cat" / name).write_bytes(data)
    return root


def test_bad_files_are_named_with_their_reason(root: Path) -> None:
    data = load(root, max_bad=0.1)
    assert [file.name for file in data.bad] == sorted(f"cat/{name}" for name in BAD)
    for file in data.bad:
        assert BAD[file.name.removeprefix("cat/")][1] in file.reason
    assert data.summary["bad_files"] == len(BAD)
    assert data.summary["images"] == 80
    assert not all_names(data) & {file.name for file in data.bad}
    assert "8 file(s) cannot be used and are left out: cat/crc.png (" in warnings_of(data)


def test_a_scan_finds_the_same_files(root: Path) -> None:
    options = DataOptions(source=str(root), max_bad=0.1)
    assert find_images(options).bad == load(root, max_bad=0.1).bad


def test_above_the_allowed_share_it_stops(root: Path) -> None:
    with pytest.raises(DataError, match=r"8 of 88 image files cannot be used \(9.1%, allowed are 1.0%\)") as caught:
        load(root)
    error = caught.value
    assert (error.code, error.exit_code) == ("D07", 3)
    assert "cat/empty.jpg: 0 bytes" in error.why
    assert "--set data.max_bad=0.091" in error.fix
    assert load(root, max_bad=0.091).summary["bad_files"] == 8


def test_ten_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    root = paint(tmp_path, cat=10, dog=10)
    for index in range(15):
        (root / "cat" / f"bad{index:02}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="15 of 35") as caught:
        load(root)
    lines = caught.value.why.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "... and 5 more"


def test_one_percent_is_left_out_and_one_in_fifty_is_too_much(tmp_path: Path) -> None:
    root = paint(tmp_path / "a", cat=50, dog=49)
    (root / "cat" / "bad.jpg").write_bytes(b"")
    assert load(root).summary["bad_files"] == 1
    root = paint(tmp_path / "b", cat=25, dog=24)
    (root / "cat" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 50"):
        load(root)


def test_when_everything_is_bad_no_share_is_offered(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 2 image files cannot be used") as caught:
        load(tmp_path, max_bad=1.0)
    assert "max_bad" not in caught.value.fix


def test_a_class_whose_files_are_all_bad_is_dropped_and_named(tmp_path: Path) -> None:
    root = paint(tmp_path, ant=0, cat=10, dog=10)
    (root / "ant" / "x.jpg").write_bytes(b"")
    data = load(root, max_bad=0.1)
    assert data.classes == ("cat", "dog")
    assert "classes without a usable image are left out: ant" in warnings_of(data)


def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permission is withdrawn in os.open, because tests may run as root, whom chmod does not stop."""
    root = paint(tmp_path, cat=10, dog=10)
    real = os.open

    def refuse(path: object, *arguments: object, **options: object) -> int:
        if str(path).endswith("cat/003.png"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    data = load(root, max_bad=0.1)
    assert [(file.name, file.reason) for file in data.bad] == [("cat/003.png", "Permission denied")]


def test_a_wrong_extension_is_used_and_noted(tmp_path: Path) -> None:
    root = paint(tmp_path, cat=10, dog=10)
    (root / "cat" / "000.png").rename(root / "cat" / "000.jpg")
    data = load(root)
    assert "cat/000.jpg" in all_names(data)
    assert "1 file(s) are of another format than their name says; they are used: cat/000.jpg is PNG" in warnings_of(
        data
    )


def test_no_image_is_ever_half_grey(tmp_path: Path) -> None:
    """A cut JPEG that lenient decoders fill with gray is refused; the whole one keeps every pixel."""
    root = paint(tmp_path, cat=10, dog=10)
    whole = encoded("JPEG", side=16)
    (root / "cat" / "whole.jpg").write_bytes(whole)
    (root / "cat" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    data = load(root, max_bad=0.1)
    assert [file.name for file in data.bad] == ["cat/cut.jpg"]
    assert np.array_equal(pixels_of(data)["cat/whole.jpg"], np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")))


def test_bad_files_csv(root: Path, tmp_path: Path) -> None:
    load(root, max_bad=0.1).write_bad_files(tmp_path / "bad_files.csv")
    lines = (tmp_path / "bad_files.csv").read_text().splitlines()
    assert lines[0] == "path,reason"
    assert "cat/empty.jpg,0 bytes" in lines
    assert len(lines) == 1 + len(BAD)


def test_the_images_are_not_touched(root: Path) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}

    before = state()
    load(root, max_bad=0.1)
    assert state() == before
