"""Folders and manifests: what is read, what is left out, and that nothing is left out silently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.data import find_images
from edgewise.errors import ConfigError, DataError
from edgewise.recipe import DataOptions
from tests.data.loading import all_names, load, paint, picture, warnings_of


def manifest(root: Path, name: str, rows: list[dict[str, object]]) -> Path:
    """Write rows as CSV or JSON lines, and paint the images they name."""
    for row in rows:
        path = root / str(row["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(str(path.name)).save(path)
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def plain_rows(count: int = 12, **more: object) -> list[dict[str, object]]:
    return [{"file_name": f"img/{i}.png", "label": "cat" if i % 2 else "dog", **more} for i in range(count)]


def test_class_folders_are_split_by_class(tmp_path: Path) -> None:
    data = load(paint(tmp_path / "d", b=20, a=40))
    assert data.classes == ("a", "b")
    assert data.summary["layout"] == "classes"
    assert data.summary["train_per_class"] == {"a": 28, "b": 14}
    assert data.summary["val_per_class"] == data.summary["test_per_class"] == {"a": 6, "b": 3}
    assert (data.summary["smallest_class"], data.summary["largest_class_images"]) == ("b", 40)
    assert data.train.names[0] == "a/000.png" or data.train.names[0].startswith("a/0")
    assert data.summary["warnings"] == []
    json.dumps(data.summary)


def test_names_and_labels_belong_together(tmp_path: Path) -> None:
    data = load(paint(tmp_path / "d", b=9, a=11))
    assert len(all_names(data)) == 20
    for split in (data.train, data.val, data.test):
        assert split.labels.dtype == np.int64
        assert [data.classes[label] for label in split.labels] == [name[0] for name in split.names]
        assert list(split.names) == sorted(split.names)


@pytest.mark.parametrize(
    ("train", "val", "test"), [("train", "val", "test"), ("Training", "valid", "TESTING"), ("TRAIN", "dev", "Test")]
)
def test_split_folders_by_any_of_their_names(tmp_path: Path, train: str, val: str, test: str) -> None:
    for name, count in ((train, 6), (val, 3), (test, 2)):
        paint(tmp_path / "d" / name, a=count, b=count)
    data = load(tmp_path / "d")
    assert (data.summary["layout"], data.summary["split"]) == ("splits", "given")
    assert (len(data.train), len(data.val), len(data.test)) == (12, 6, 4)
    assert {name.split("/")[0] for name in data.val.names} == {val}


@pytest.mark.parametrize(("given", "counts"), [("test", (16, 4, 4)), ("validation", (16, 4, 4)), ("", (14, 4, 2))])
def test_a_missing_split_is_drawn_from_train(tmp_path: Path, given: str, counts: tuple[int, int, int]) -> None:
    """10 images a class at 70:15:15; with one split given, 15/85 of 10 is 1.76."""
    paint(tmp_path / "d" / "train", a=10, b=10)
    if given:
        paint(tmp_path / "d" / given, a=2, b=2)
    data = load(tmp_path / "d")
    assert (len(data.train), len(data.val), len(data.test)) == counts
    assert "drawn from the training images" in warnings_of(data)
    assert "partly given" in data.summary["split"]


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=8, b=8)
    paint(root / "b", deep=2)
    picture("loose").save(root / "cover.png")
    (root / "a" / "notes.txt").write_text("x")
    (root / "a" / "photo.heic").write_text("x")
    (root / "readme.txt").write_text("x")
    (root / "LICENSE").write_text("x")
    data = load(root)
    told = warnings_of(data)
    assert "2 image(s) in folders below a class folder are left out: b/deep/" in told
    assert "1 image(s) in no class folder are left out: cover.png" in told
    assert "4 file(s) that are no images of an accepted format are left out: 2 .txt" in told
    assert "1 .heic" in told
    assert "1 without suffix" in told
    assert data.summary["images"] == 16
    assert data.summary["ignored"] == 4


def test_an_image_without_a_known_suffix_is_found_by_its_first_bytes(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=8, b=8)
    (root / "a" / "000.png").rename(root / "a" / "scan_0001")
    (root / "a" / "001.png").rename(root / "a" / "photo.jpg_large")
    data = load(root)
    assert data.summary["images"] == 16
    assert {"a/scan_0001", "a/photo.jpg_large"} <= all_names(data)
    assert "2 file(s) are of another format than their name says" in warnings_of(data)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_a_manifest_is_read(tmp_path: Path, name: str) -> None:
    data = load(manifest(tmp_path, name, plain_rows(40)))
    assert data.classes == ("cat", "dog")
    assert (data.summary["layout"], data.summary["images"]) == ("manifest", 40)
    assert data.train.names[0].startswith("img/")


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_a_manifest_gives_splits_and_groups(tmp_path: Path, name: str) -> None:
    rows = [
        {**row, "split": ["train", "train", "valid", "test"][i // 4], "group": f"g{i // 2}"}
        for i, row in enumerate(plain_rows(16))
    ]
    data = load(manifest(tmp_path, name, rows))
    assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 4)
    assert sorted(data.test.groups) == ["g6", "g6", "g7", "g7"]


def test_groups_of_a_manifest_stay_together(tmp_path: Path) -> None:
    rows = [{**row, "group": f"person {i // 5}"} for i, row in enumerate(plain_rows(60))]
    path = manifest(tmp_path, "labels.csv", rows)
    for seed in range(5):
        data = load(path, seed=seed)
        sides = [set(split.groups) for split in (data.train, data.val, data.test)]
        assert sum(map(len, sides)) == 12 == len(set.union(*sides))


def test_a_manifest_in_excels_and_microsofts_manner(tmp_path: Path) -> None:
    path = manifest(tmp_path, "labels.csv", plain_rows(12))
    text = path.read_text().replace(",", "; ").replace("\n", "\r\n").replace("label", " label")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(path).classes == ("cat", "dog")


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "label": i % 2} for i in range(12)]
    assert load(manifest(tmp_path, "m.jsonl", rows)).classes == ("0", "1")


def test_unknown_columns_are_told(tmp_path: Path) -> None:
    data = load(manifest(tmp_path, "labels.csv", plain_rows(12, width=3, camera="x")))
    assert "columns of the manifest that are not used: width, camera" in warnings_of(data)


def test_a_repeated_row_counts_once(tmp_path: Path) -> None:
    path = manifest(tmp_path, "labels.csv", [*plain_rows(12), *plain_rows(2)])
    data = load(path)
    assert data.summary["images"] == 12
    assert "2 row(s) name a file that stands in the manifest already" in warnings_of(data)


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("filename,label\na.png,cat\n")
    with pytest.raises(DataError, match='did you mean "filename"') as caught:
        load(tmp_path / "m.csv")
    assert caught.value.what == 'no column "file_name"'
    (tmp_path / "m.jsonl").write_text('{"file_name": "a.png", "labels": "cat"}\n')
    with pytest.raises(DataError, match='no column "label"'):
        load(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "", 'no column "file_name"'),
        ("m.csv", "file_name,label\n", "has no rows"),
        ("m.csv", "file_name,label\na.png\n", "line 2 does not have 2 cells"),
        ("m.csv", "file_name,label\na.png,cat,dog\n", "line 2 does not have 2 cells"),
        ("m.csv", "file_name,label,label\na.png,cat,dog\n", "a column name stands twice"),
        ("m.csv", 'file_name,label\n"a.png,cat\n', "unexpected end of data"),
        ("m.csv", "file_name,label\na.png,\n", "line 2: a.png"),
        ("m.csv", "file_name,label\n\xff.png,cat\n", "codec can't decode"),
        ("m.jsonl", '{"file_name": "a.png", "label": "cat"}\n[1]\n', "line 2 is not an object"),
        ("m.jsonl", '{"file_name": "a.png", "label": "cat"}\n{\n', "line 2 is not JSON"),
        ("m.jsonl", '{"file_name": "a.png", "label": "cat"}\n{"label": "x"}\n', 'line 2 has no "file_name"'),
        ("m.jsonl", '{"label": "x"}\n{"file_name": "a.png", "label": "cat"}\n', 'line 1 has no "file_name"'),
        ("m.jsonl", "[" * 100_000, "line 1 is not|recursion"),
    ],
)
def test_a_manifest_that_cannot_be_read_names_the_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path / name)
    assert (caught.value.code, caught.value.exit_code) == ("D11", 3)
    assert "file_name,label" in caught.value.fix


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "img/../../secret.png", "", "a\\u0000b", "out/secret.png"]
)
def test_a_manifest_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    picture("secret").save(tmp_path / "secret.png")
    root = tmp_path / "d"
    path = manifest(root, "m.jsonl", plain_rows(12))
    (root / "out").symlink_to(tmp_path)
    path.write_text(path.read_text() + f'{{"file_name": "{name}", "label": "cat"}}\n')
    with pytest.raises(DataError, match="outside its folder") as caught:
        load(path)
    assert (caught.value.code, caught.value.exit_code) == ("D12", 3)
    assert "1 row(s)\nline 13: " in caught.value.why


def test_dots_and_absolute_paths_that_stay_inside_are_read(tmp_path: Path) -> None:
    path = manifest(tmp_path, "m.csv", plain_rows(12))
    text = path.read_text().replace("img/0.png", "img/../img/0.png").replace("img/1.png", f"{tmp_path}/img/1.png")
    path.write_text(text)
    assert {"img/0.png", "img/1.png"} <= all_names(load(path))


def test_a_manifest_reached_through_a_link(tmp_path: Path) -> None:
    manifest(tmp_path / "real", "m.csv", plain_rows(12))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = tmp_path / "link" / "m.csv"
    path.write_text(path.read_text().replace("img/1.png", f"{tmp_path}/link/img/1.png"))
    assert load(path).summary["images"] == 12


def test_files_of_a_manifest_that_are_missing_are_bad_files(tmp_path: Path) -> None:
    path = manifest(tmp_path, "m.csv", plain_rows(20))
    (tmp_path / "img" / "3.png").unlink()
    (tmp_path / "img" / "5.png").unlink()
    (tmp_path / "img" / "5.png").mkdir()
    data = load(path, max_bad=0.1)
    assert [(file.name, file.reason) for file in data.bad] == [
        ("img/3.png", "no such file"),
        ("img/5.png", "not a regular file"),
    ]


def test_splits_of_a_manifest_must_be_known(tmp_path: Path) -> None:
    path = manifest(tmp_path, "m.csv", [*plain_rows(11, split="train"), {**plain_rows(1)[0], "split": "holdout"}])
    with pytest.raises(DataError, match="line 13: holdout") as caught:
        load(path)
    assert caught.value.code == "D13"


def test_an_empty_split_column_means_drawn(tmp_path: Path) -> None:
    assert load(manifest(tmp_path, "m.csv", plain_rows(12, split=""))).summary["split"].startswith("drawn")


def test_a_group_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "split": ["train", "val", "test"][i // 4], "group": "g"} for i, row in enumerate(plain_rows(12))]
    with pytest.raises(DataError, match=r"g \(test, train, val\)") as caught:
        load(manifest(tmp_path, "m.csv", rows))
    assert caught.value.code == "D14"


def test_the_same_image_in_two_classes_is_told_with_both_paths(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=10, b=10)
    (root / "b" / "twin.png").write_bytes((root / "a" / "004.png").read_bytes())
    told = "1 image(s) stand in two classes, one of which is wrong; all 2 files of them are left out"
    assert f"{told}: a/004.png = b/twin.png" in warnings_of(load(root))


def test_copies_are_kept_on_one_side(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=20, b=20)
    for index in range(10):
        (root / "a" / f"copy{index}.png").write_bytes((root / "a" / f"{index:03}.png").read_bytes())
    for seed in range(4):
        data = load(root, seed=seed)
        sides = [set(split.sha256) for split in (data.train, data.val, data.test)]
        assert len(set.union(*sides)) == 40 == sum(map(len, sides))
        assert "10 image(s) are exact copies of others" in warnings_of(data)


def test_copies_across_given_splits_are_counted(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        paint(tmp_path / "d" / part, a=5, b=5)
    (tmp_path / "d" / "test" / "b" / "000.png").write_bytes((tmp_path / "d" / "train" / "b" / "002.png").read_bytes())
    told = warnings_of(load(tmp_path / "d"))
    assert (
        "1 test image(s) (10.0%) are copies of training images (1 exact, 0 near): test/b/000.png = train/b/002.png"
        in told
    )


def test_limits(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=40, b=20)
    data = load(root, limit_train=12, limit_val=3, limit_test=100)
    assert data.summary["train_per_class"] == {"a": 8, "b": 4}
    assert data.summary["val_per_class"] == {"a": 2, "b": 1}
    assert len(data.test) == 9
    assert set(data.train.names) < set(load(root).train.names)
    assert data.train.names == load(root, limit_train=12).train.names
    assert data.train.names != load(root, limit_train=12, seed=1).train.names


def test_a_limit_below_the_number_of_classes_is_a_usage_error(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=8, b=8, c=8)
    with pytest.raises(ConfigError, match="there are 3 classes") as caught:
        load(root, limit_train=2)
    assert (caught.value.code, caught.value.exit_code) == ("C31", 2)


def test_data_hash_is_of_contents_not_of_names(tmp_path: Path) -> None:
    one = load(paint(tmp_path / "d", a=8, b=8)).summary["data_hash"]
    assert load(tmp_path / "d").summary["data_hash"] == one
    assert load(tmp_path / "d", seed=1).summary["data_hash"] != one
    (tmp_path / "d").rename(tmp_path / "e")
    assert load(tmp_path / "e").summary["data_hash"] == one
    picture("new").save(tmp_path / "e" / "a" / "000.png")
    assert load(tmp_path / "e").summary["data_hash"] != one


def test_find_images_tells_the_same_as_load_data(tmp_path: Path) -> None:
    root = paint(tmp_path / "d", a=8, b=9)
    listing = find_images(DataOptions(source=str(root)), seed=4)
    data = load(root, seed=4)
    assert listing.summary == data.summary
    assert [item.name for item in listing.items] == [*data.train.names, *data.val.names, *data.test.names]
    assert all(item.path is not None and item.path.exists() for item in listing.items)


def test_splits_csv_lists_every_image(tmp_path: Path) -> None:
    data = load(paint(tmp_path / "d", a=8, b=8))
    data.write_splits(tmp_path / "run" / "splits.csv")
    lines = (tmp_path / "run" / "splits.csv").read_text().splitlines()
    assert lines[0] == "path,sha256,label,split,group"
    assert lines[1] == f"{data.train.names[0]},{data.train.sha256[0]},a,train,"
    assert len(lines) == 17


def test_importing_the_room_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = ("torch", "torchvision", "sklearn", "scipy", "onnxruntime")
    code = f"import sys, edgewise.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
