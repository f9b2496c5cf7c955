"""What the model was not sure of, kept so that it can be labelled and trained on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.bundle import InputSpec
from edgewise.data import load_data
from edgewise.data.check import check_data
from edgewise.errors import ConfigError, DataError, UnavailableError
from edgewise.live.base import Box, Frame, Seen, View
from edgewise.live.uncertain import Limits, UncertainSaver
from edgewise.recipe import DataOptions

LABELS = ("cat", "=dog")
ALL = Limits(seconds=0, difference=0)


def picture(seed: int, side: int = 48) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST))


def view(number: int, *seen: Seen, pixels: np.ndarray | None = None, at: float | None = None) -> View:
    frame = Frame(number, float(number) if at is None else at, picture(number) if pixels is None else pixels)
    return View("live", frame, seen)


def unknown(track: int = 0, box: Box | None = None) -> Seen:
    return Seen(track, box or Box(0, 0, 48, 48), None, 0.55, (0.55, 0.45))


def known() -> Seen:
    return Seen(0, Box(0, 0, 48, 48), "cat", 0.99, (0.99, 0.01))


def rows(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("uncertain-*.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_unknown_pictures_are_kept_with_what_the_model_thought(tmp_path: Path) -> None:
    saver = UncertainSaver(tmp_path / "new", LABELS, ALL)
    assert saver.take(view(1, known())) == ()
    (path,) = saver.take(view(2, unknown()))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture(2))
    (row,) = rows(tmp_path / "new")
    assert row["file_name"] == path.relative_to(tmp_path / "new").as_posix()
    assert row["label"] == ""
    assert (row["guess"], row["confidence"], row["second_guess"], row["second_confidence"]) == (
        *("cat", "0.55"),
        *("'=dog", "0.45"),
    )
    assert (row["frame"], row["track"], row["width"]) == ("2", "0", "48")
    assert saver.kept().pictures == 1
    assert not list((tmp_path / "new/frames").iterdir())  # the picture is the frame


def test_crops_are_kept_with_the_frame_they_were_cut_from_once(tmp_path: Path) -> None:
    saver = UncertainSaver(tmp_path, LABELS, ALL)
    boxes = [Box(4, 8, 20, 30), Box(-5, -5, 20, 20), Box(60, 60, 5, 5), Box(0, 0, 40, 7)]
    first, second = saver.take(view(3, *[unknown(track, box) for track, box in enumerate(boxes, 1)]))
    np.testing.assert_array_equal(np.asarray(Image.open(first)), picture(3)[8:38, 4:24])
    np.testing.assert_array_equal(np.asarray(Image.open(second)), picture(3)[:15, :15])
    (frame,) = (tmp_path / "frames").rglob("*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(frame)), picture(3))
    assert len({row["group"] for row in rows(tmp_path)}) == 2
    assert saver.kept().frames == 1
    assert saver.kept().written_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.png"))


def test_bursts_and_pictures_that_look_alike_are_passed_over(tmp_path: Path) -> None:
    saver = UncertainSaver(tmp_path, LABELS, Limits(seconds=1.0))
    still = picture(0)
    taken = [saver.take(view(number, unknown(), pixels=still, at=number / 10)) for number in range(40)]
    assert [len(one) for one in taken] == [1] + [0] * 39
    assert (saver.kept().too_soon, saver.kept().alike) == (9, 30)
    assert len(saver.take(view(40, unknown(), pixels=picture(9), at=4.0))) == 1
    assert saver.take(view(41, unknown(), pixels=picture(10), at=4.9)) == ()
    assert len(saver.take(view(42, unknown(), pixels=picture(10), at=5.0))) == 1


def test_no_frame_and_no_signal_keep_nothing(tmp_path: Path) -> None:
    saver = UncertainSaver(tmp_path, LABELS, ALL)
    assert saver.take(View("no signal", note="unplugged")) == ()
    assert saver.take(View("ended")) == ()
    assert saver.kept().pictures == 0


def test_the_cap_holds_and_says_so(tmp_path: Path) -> None:
    saver = UncertainSaver(tmp_path, LABELS, Limits(seconds=0, difference=0, megabytes=0.02))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)  # about 5 kB, however packed
    taken = [saver.take(view(number, unknown(), pixels=noise)) for number in range(10)]
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("*.png"))
    assert 1 <= sum(map(len, taken)) < 10
    assert sizes <= 20_000
    assert "0.02 MB that this session may write are used up" in saver.kept().stopped
    assert "used up" in saver.kept().words()


def test_a_full_disk_ends_the_keeping_and_not_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = UncertainSaver(tmp_path, LABELS, ALL)
    assert len(saver.take(view(1, unknown()))) == 1

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert saver.take(view(2, unknown())) == ()
    assert "the disk is full" in saver.kept().stopped
    assert saver.take(view(3, unknown())) == ()
    assert len(list((tmp_path / "unsorted").rglob("*"))) == 2  # the session's folder and the first picture, no remains


def test_sessions_never_touch_what_is_there(tmp_path: Path) -> None:
    first = UncertainSaver(tmp_path, LABELS, ALL)
    first.take(view(1, unknown()))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    second = UncertainSaver(tmp_path, LABELS, ALL)
    (path,) = second.take(view(1, unknown()))
    assert path not in before
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(tmp_path.glob("uncertain-*.csv"))) == 2


@pytest.mark.parametrize("label", ["unsorted", "frames", "a/b", "..", ""])
def test_classes_that_cannot_be_folders_are_refused(label: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Q12"):
        UncertainSaver(tmp_path, ("cat", label))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UnavailableError, match="Q10"):
        UncertainSaver(tmp_path / "file", LABELS)
    assert (tmp_path / "file").read_text() == "mine"


def filled(folder: Path) -> UncertainSaver:
    saver = UncertainSaver(folder, ("cat", "dog"), ALL)
    for number in range(36):
        saver.take(view(number, unknown(number % 12 + 1, Box(0, 0, 40, 40))))
    return saver


def test_moved_into_class_folders_it_is_a_data_folder(tmp_path: Path) -> None:
    """As a user would: sort some, leave the rest; `data check` and training open the same folder."""
    folder = tmp_path / "new"
    filled(folder)
    with pytest.raises(DataError, match="D04"):
        check_data(DataOptions(source=str(folder)))
    for number, path in enumerate(sorted((folder / "unsorted").rglob("*.png"))[:12]):
        shutil.move(path, folder / ("cat", "dog")[number % 2] / path.name)
    report = check_data(DataOptions(source=str(folder)))
    told = report.as_dict()
    assert {row["label"] for row in told["images"]} == {"cat", "dog"}
    assert len(told["images"]) == 12
    assert "left out" in str(told)
    data = load_data(DataOptions(source=str(folder), size=16, split=(0.5, 0.25, 0.25)), InputSpec(16, 16), seed=0)
    assert data.classes == ("cat", "dog")


def test_with_its_labels_filled_in_the_csv_is_a_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    filled(folder)
    (path,) = folder.glob("uncertain-*.csv")
    with pytest.raises(DataError, match="a row without a label"):
        check_data(DataOptions(source=str(path)))
    found = rows(folder)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, found[0])
        writer.writeheader()
        writer.writerows({**row, "label": ("cat", "dog")[index % 2]} for index, row in enumerate(found))
    data = load_data(DataOptions(source=str(path), size=16, split=(0.5, 0.25, 0.25)), InputSpec(16, 16), seed=0)
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) + len(data.test) == 36
