"""What `data check` says of a set: figures against an oracle, each problem planted and found, exit codes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from benchmarks.planted import COPIES, picture
from PIL import Image, ImageFilter

from edgewise import cli
from edgewise.data.check import DataReport, check_data, require_clean, sharpness
from edgewise.errors import DataError
from edgewise.recipe import DataOptions
from tests.data.copying import plant
from tests.data.loading import paint


def check(source: Path | str, **options: object) -> DataReport:
    return check_data(DataOptions.model_validate({"source": str(source), **options}))


def flagged(report: DataReport, flag: str) -> set[str]:
    return {image.name for image in report.flagged(flag)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Given splits with one of each problem."""
    folders = {"train/a": range(24), "train/b": range(24, 48), "test/a": range(48, 56), "test/b": range(56, 64)}
    root = plant(tmp_path / "d", folders)
    picture(100).filter(ImageFilter.GaussianBlur(9)).save(root / "train/a/blurred.png")
    picture(101).point(lambda level: level // 10).save(root / "train/a/dark.png")
    (root / "train/b/empty.jpg").write_bytes(b"")
    whole = root / "train/b/whole.jpg"
    picture(102).save(whole, "JPEG")
    (root / "train/b/cut.jpg").write_bytes(whole.read_bytes()[:-2000])
    COPIES["resized to half"](picture(30)).save(root / "test/b/leak.png")
    (root / "train/b/twin.png").write_bytes((root / "train/a/0005.png").read_bytes())
    return root


@pytest.mark.parametrize("size", [(256, 192), (64, 64), (90, 200)])
def test_sharpness_is_the_variance_of_scipys_laplacian(size: tuple[int, int]) -> None:
    gray = picture(7).convert("L").resize(size)
    expected = scipy.ndimage.laplace(np.asarray(gray, dtype=np.float64))[1:-1, 1:-1].var()
    assert sharpness(gray) == pytest.approx(expected)


def test_sharpness_falls_with_blur_and_does_not_depend_on_resolution() -> None:
    gray = picture(7).convert("L").resize((1024, 768), Image.Resampling.BICUBIC)
    steps = [sharpness(gray.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert sharpness(gray.resize((2048, 1536), Image.Resampling.BICUBIC)) == pytest.approx(steps[0], rel=0.1)
    assert sharpness(Image.new("L", (2, 900))) == 0


def test_every_problem_is_found_and_named(root: Path) -> None:
    report = check(root)
    assert flagged(report, "bad") == {"train/b/empty.jpg", "train/b/cut.jpg"}
    assert flagged(report, "truncated") == {"train/b/cut.jpg"}
    assert "train/a/blurred.png" in flagged(report, "blurry")
    assert flagged(report, "dark") == {"train/a/dark.png"}
    assert flagged(report, "exact copy") == {"train/a/0005.png", "train/b/twin.png"} == flagged(report, "conflict")
    assert flagged(report, "near copy") == {"train/b/0030.png", "test/b/leak.png"}
    assert [(leak.name, leak.of, leak.exact) for leak in report.leaks] == [
        ("test/b/leak.png", "train/b/0030.png", False)
    ]
    assert report.conflicts == (("train/a/0005.png (a)", "train/b/twin.png (b)"),)
    assert report.across == (("test/b/leak.png (test)", "train/b/0030.png (train)"),)


def test_the_figures_of_each_image(root: Path) -> None:
    images = {image.name: image for image in check(root).images}
    one = images["train/a/0003.png"]
    gray = np.asarray(picture(3).convert("L"))
    assert (one.width, one.height, one.mode, one.format, one.part, one.label) == (256, 192, "RGB", "PNG", "train", "a")
    assert one.luminance == pytest.approx(gray.mean())
    assert images["train/b/empty.jpg"].problem == "0 bytes"


def test_the_facts_of_the_set(root: Path) -> None:
    facts = check(root, check={"small_class": 40}).facts
    assert facts["per_class"]["a"] == {"images": 34, "train": 26, "val": 0, "test": 8}
    assert facts["too_small"] == ["a", "b"]
    assert facts["modes"] == {"RGB": facts["usable"]}
    assert facts["sizes"]["256 x 192"] == facts["usable"] - 1
    assert facts["largest_size"] == [256, 192]
    assert facts["would_stop"]["error"] == "D07"  # 2 of 71 files are bad


def test_a_split_that_a_run_would_draw_is_shown(tmp_path: Path) -> None:
    facts = check(paint(tmp_path / "d", a=40, b=20)).facts
    assert facts["per_class"]["a"] == {"images": 40, "train": 28, "val": 6, "test": 6}
    assert facts["imbalance"] == 2
    assert facts["would_stop"] is None
    assert facts["leakage"]["test"] == {"images": 9, "copies": 0, "share": 0.0}


def test_the_limits_are_settable(root: Path) -> None:
    none = check(root, check={"blurry": 0, "dark": 0, "small_class": 1}).facts
    assert (none["flags"]["blurry"], none["flags"]["dark"], none["too_small"]) == (0, 0, [])
    most = check(root, check={"dark": 255}).facts
    assert most["flags"]["dark"] == most["usable"]


def test_digits_are_searched_by_look_too_and_have_next_to_no_copies() -> None:
    """Though a run compares built-in sets by identical images only."""
    facts = check("digits").facts
    assert facts["flags"]["near copy"] < 0.01 * facts["images"]


@pytest.mark.parametrize(
    ("spoil", "code"), [("conflict", "D30"), ("leak", "D31"), ("bad", "D07"), ("one class", "D35"), ("", "")]
)
def test_strict(spoil: str, code: str, tmp_path: Path) -> None:
    folders = {"train/a": range(20), "train/b": range(20, 40), "test/a": range(40, 44), "test/b": range(44, 48)}
    root = plant(tmp_path / "d", {"a": range(20)} if spoil == "one class" else folders)
    if spoil == "conflict":
        (root / "train/b/twin.png").write_bytes((root / "train/a/0005.png").read_bytes())
    elif spoil == "leak":
        COPIES["JPEG quality 60"](picture(1)).save(root / "test/a/leak.png")
    elif spoil == "bad":
        (root / "train/a/bad.png").write_bytes(b"")
    options = DataOptions(source=str(root))
    if not code:
        require_clean(check_data(options), options)
        return
    with pytest.raises(DataError) as caught:
        require_clean(check_data(options), options)
    assert (caught.value.code, caught.value.exit_code) == (code, 3)


def run_cli(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["edgewise", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    code = left.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().out


def test_the_command(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, page = tmp_path / "images.csv", tmp_path / "check.html"
    words = ["data", "check", str(root), "--csv", str(out), "--html", str(page), "--set", "data.max_bad=0.1", "-q"]
    code, text = run_cli(words, capsys, monkeypatch)
    assert code == 0
    assert "Leakage: 1 of 17 test images (5.9 %) are copies of training images." in " ".join(text.split())
    assert page.exists()
    with out.open(encoding="utf-8", newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 64 + 7
    assert rows["test/b/leak.png"]["flags"].endswith("near copy; leak")
    assert rows["test/b/leak.png"]["cluster"] == rows["train/b/0030.png"]["cluster"] != "0"
    assert run_cli([*words, "--strict"], capsys, monkeypatch)[0] == 3


def test_json_is_one_object_strict_or_not(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = run_cli(["data", "check", str(root), "--json"], capsys, monkeypatch)
    told = json.loads(text)
    assert (code, told["flags"]["conflict"], len(told["images"])) == (0, 2, 71)
    code, text = run_cli(["data", "check", str(root), "--json", "--strict"], capsys, monkeypatch)
    assert (code, json.loads(text)["refused"]["error"]) == (3, "D30")


def test_the_images_are_only_read(root: Path) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}

    before = state()
    check(root)
    assert state() == before
