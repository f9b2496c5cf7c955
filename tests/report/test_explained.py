"""The explained model on the page: its words and limits without a browser, its pictures and diagram in a real one."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgewise.errors import UntrustedError
from edgewise.report import explained, write_explanation_page, write_html
from edgewise.report.explained import section_of
from edgewise.report.explanation import Answer, Explanation, Look, Pair, Worst, read_explanation, summary, to_json
from edgewise.results import Bin, Calibration, Estimate, Reliability
from tests.report.browser import Visit, visit
from tests.report.builders import HOSTILE, history, run_result

ATTACK = "</bdi></script><script>alert('x')</script><img src=x onerror=alert(1)>"


def reliability(ece: float, gap: float) -> Reliability:
    bins = [Bin(0.6, 2 / 3, 20, 0.64, 0.5), Bin(14 / 15, 1.0, 80, 0.98, 0.99)]
    return Reliability(100, ece, 0.05, ece + 0.01, 0.4, Estimate(gap, gap - 0.02, gap + 0.03, 100), bins)


def picture(path: Path, seed: int, height: int = 40, width: int = 40) -> None:
    random = np.random.default_rng(seed)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def make(folder: Path, classes: tuple[str, ...], *, name: str = "cat/1.png", side: int = 40, worst: int = 12) -> Path:
    """A folder as `edgewise.train.explain` leaves it, with noise for pictures."""
    folder.mkdir(parents=True)
    looks = []
    for index, label in enumerate(classes):
        picture(folder / f"class-{index:03}.png", index, side, 3 * side + 8)
        answers = Answer(classes[0], 0.31), Answer(label, 0.987)
        looks.append(Look(label, name, "test", f"class-{index:03}.png", *answers, not index, False))
    shown = []
    for split in ("test", "val"):
        for index in range(worst):
            file = f"worst-{split}-{index + 1:02}.png"
            picture(folder / file, 100 + index, side, side)
            shown.append(Worst(file, name, split, classes[0], Answer(classes[-1], 0.9), 3.5 - index / 10))
    record = Explanation(
        model="base",
        architecture="convnet(8, 16)",
        seed=0,
        images={"val": 90, "test": 100},
        errors={"val": 11, "test": 12},
        layer="block2",
        layer_note="6 x 6 places, 16 channels",
        looks=looks,
        classes_left_out=0,
        pairs=[Pair(classes[0], classes[-1], 9 - index % 9, 0.25) for index in range(12)],
        worst=shown,
        calibration=Calibration(1.5, 90, 11, "", reliability(0.061, 0.04), reliability(0.012, 0.0)),
    )
    (folder / "explain.json").write_text(to_json(record), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "base", ("cat", "dog", "owl"))


def page_of(folder: Path) -> str:
    write_html(run_result(), folder.parent / "report.html", history=history(), explained=folder)
    return (folder.parent / "report.html").read_text(encoding="utf-8")


def section(page: str) -> str:
    found = re.search(r'<section id="explained">.*?</section>', page, re.DOTALL)
    assert found
    return re.sub(r"\s+", " ", found[0])


def test_a_report_without_an_explanation_has_no_such_section(tmp_path: Path) -> None:
    write_html(run_result(), tmp_path / "report.html")
    assert 'id="explained"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_section_says_what_was_found(folder: Path) -> None:
    text = re.sub(r"<[^>]+>", "", section(page_of(folder)))
    for expected in (
        "It calls 11 of 90 validation images, 12 of 100 test images wrongly",
        "catowl925.0",  # a row of the table: cat was called owl, 9 images, 25.0 %
        "2 further pairs stand in explain.json",
        "Taken at layer block2 (6 x 6 places, 16 channels)",
        "before: cat 31.0 % (nothing speaks for the class) after: cat 98.7 %",
        "before: cat 31.0 % ✗ after: dog 98.7 %",
        "called owl 90.0 % ✗ loss 3.50",
        "The temperature is 1.5 (fitted on 90 validation images, 11 of them called wrongly)",
        "As trained: ECE 6.1 % (by chance 5.0 %), adaptive 7.1 %, mean confidence +4.0 ±3.0 points",
        "over-confident. Loss 0.400, 100 test images",
        "After temperature scaling: ECE 1.2 %",
        "20 images at 60.0 to 66.7 %: mean confidence 64.0 %, right 50.0 %",
    ):
        assert expected in text


def test_bars_stand_where_the_bins_are(folder: Path) -> None:
    first, second = section_of(folder)["diagrams"][0]["bars"]
    assert (first["x"], first["width"], first["y"], first["height"]) == (60, 6.67, 50, 50)
    assert (first["gap_y"], first["gap_height"], first["over"]) == (36, 14, True)
    assert (second["y"], second["gap_y"], second["gap_height"], second["over"]) == (1, 1, 1, False)
    assert [bar["count"] for bar in (first, second)] == [2.4, 9.6]


def test_pictures_are_inlined_unchanged_where_small_and_made_smaller_where_large(tmp_path: Path) -> None:
    def pixels(address: str) -> Any:
        kind, data = address.split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))

    flat = make(tmp_path / "flat", ("a", "b"))
    Image.new("RGB", (30, 20), (200, 10, 40)).save(flat / "class-000.png")
    shown = section_of(flat)
    np.testing.assert_array_equal(pixels(shown["looks"][0]["address"]), np.full((20, 30, 3), (200, 10, 40)))
    large = section_of(make(tmp_path / "large", ("a", "b"), side=400, worst=1))
    assert pixels(large["looks"][0]["address"]).shape == (explained.HEIGHT, round(1208 * explained.HEIGHT / 400), 3)


def test_number_and_bytes_of_pictures_are_limited_and_the_rest_is_said(tmp_path: Path) -> None:
    many = make(tmp_path / "many", tuple(f"class {index}" for index in range(60)), side=160)
    page = page_of(many)
    shown = section_of(many)
    worst = [one for group in shown["worst"] for one in group["images"]]
    assert 0 < sum(len(one["address"]) for one in shown["looks"]) <= explained.LOOK_BYTES
    assert 0 < sum(len(one["address"]) for one in worst) <= explained.WORST_BYTES
    pictures = page.count("<img ")
    assert pictures == len(shown["looks"]) + len(worst)
    left_out = 60 - len(shown["looks"])
    assert left_out >= 60 - explained.LOOKS
    assert f"{left_out} classes are not shown" in page
    assert f"{24 - len(worst)} images are not shown: a page takes at most 300 kB" in page
    assert len(section(page)) < 1_300_000


def test_a_model_without_a_map_and_without_errors(folder: Path) -> None:
    record = dataclasses.replace(
        read_explanation(folder), layer=None, layer_note="no layer of it returns a map of places", looks=[], pairs=[]
    )
    (folder / "explain.json").write_text(to_json(record), encoding="utf-8")
    text = section(page_of(folder))
    assert "There is no Grad-CAM of this model: no layer of it returns a map of places." in text
    assert "Every test image is called by its right name." in text
    assert "Grad-CAM    none: no layer of it returns a map of places" in summary(record)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 9}, "layout version 9"),
        ({"pairs": "many"}, "not a valid Explanation"),
        ({"worst": [{"file": "../../secret.png"}]}, "not a valid Explanation"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(folder: Path, change: dict[str, Any], told: str) -> None:
    raw = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    (folder / "explain.json").write_text(json.dumps(raw | change))
    with pytest.raises(UntrustedError, match=told):
        section_of(folder)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/b.png", "..", "", "a\\b"])
def test_pictures_outside_the_folder_are_never_opened(folder: Path, name: str) -> None:
    raw = json.loads((folder / "explain.json").read_text(encoding="utf-8"))
    raw["worst"][0]["file"] = name
    (folder / "explain.json").write_text(json.dumps(raw))
    with pytest.raises(UntrustedError, match="names a picture outside its folder"):
        read_explanation(folder)


def test_a_missing_picture_or_record_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "class-001.png").write_bytes(b"not a picture")
    with pytest.raises(UntrustedError, match="missing or damaged") as caught:
        write_explanation_page(folder)
    assert caught.value.code == "U40"
    with pytest.raises(UntrustedError, match="cannot read an explanation"):
        write_explanation_page(tmp_path)


def test_files_that_are_over_confident_are_tagged_and_listed(tmp_path: Path) -> None:
    result = run_result()
    write_html(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    over = [one for one in result.measurements if one.calibration and one.calibration.before.gap.low > 0]
    assert {one.precision for one in over} == {"int8"}
    body, table = page.split('<section id="calibration">')
    table = table.split("</section>")[0]
    assert body.count(">over-confident</span>") == table.count(">over-confident</span>") == len(over)
    row = re.search(r"<bdi>prune70-int8</bdi>.*?</tr>", table, re.DOTALL)
    assert row
    cells = re.findall(r"<td>(?:<span[^>]*>)?([^<]*)", row[0])
    assert cells[:2] == ["3.1", "1.4"]
    assert cells[2].startswith("+3.1 ±")
    assert cells[3:] == ["over-confident", "0.151", "1.62", "0.1", "0.121"]


def test_rows_from_before_there_were_calibrations_have_no_such_table(tmp_path: Path) -> None:
    result = run_result()
    old = [dataclasses.replace(one, calibration=None) for one in result.measurements]
    write_html(dataclasses.replace(result, measurements=old), tmp_path / "report.html")
    assert 'id="calibration"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


# ---- In the browser --------------------------------------------------------------------------------------------

PROBE = """
  const part = document.getElementById("explained");
  const images = [...part.querySelectorAll("img")];
  const box = (shape) => shape.getBBox();
  const bars = [...part.querySelector("svg").querySelectorAll("rect.right")].map(box);
  return {
    loaded: images.filter((image) => image.complete && image.naturalWidth > 0).length,
    looks: part.querySelectorAll("#looks figure").length,
    figures: images.length,
    pairs: [...part.querySelectorAll("#pairs tbody tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
    bars: bars.map((bar) => [bar.x, bar.height]),
    titles: [...part.querySelectorAll("svg title")].length,
    names: [...part.querySelectorAll("#looks figcaption small")].map((small) => small.textContent),
    foreign: part.querySelectorAll("script, a, iframe, img:not([src^='data:image/'])").length,
    narrow: document.documentElement.scrollWidth <= innerWidth,
  };
"""


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = make(tmp_path_factory.mktemp("visit") / "base", ("cat", "dog", "owl"))
    page_of(folder)
    return visit(folder.parent / "report.html", PROBE, folder.parent)


@pytest.mark.slow
def test_browser_shows_every_picture_and_fetches_nothing(visited: Visit) -> None:
    assert (visited.errors, visited.console, visited.dialogs, visited.requests) == ([], [], [], [])
    answer = visited.answer
    assert (answer["looks"], answer["figures"], answer["loaded"]) == (3, 3 + 24, 3 + 24)
    assert answer["pairs"][0] == ["cat", "owl", "9", "25.0"]
    assert len(answer["pairs"]) == explained.PAIRS
    assert answer["bars"] == [[60, 50], [pytest.approx(93.33), 99]]
    assert answer["titles"] == 4
    assert answer["narrow"]


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_hostile_names_run_nothing_and_are_shown_as_they_are(tmp_path: Path, alone: bool) -> None:
    folder = make(tmp_path / "base", (*HOSTILE, ATTACK), name=ATTACK)
    page_of(folder)
    write_explanation_page(folder)
    page = folder / "explain.html" if alone else folder.parent / "report.html"
    text = page.read_text(encoding="utf-8")
    if alone:  # it allows no script at all, not even the probe; without that guard nothing may run either
        assert "<script" not in text
        assert text.count("default-src 'none'; style-src") == 1
        text = text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
        page.write_text(text, encoding="utf-8")
    seen = visit(page, PROBE, tmp_path)
    assert (seen.errors, seen.console, seen.dialogs, seen.requests) == ([], [], [], [])
    assert (seen.answer["foreign"], seen.answer["loaded"]) == (0, seen.answer["figures"])
    assert seen.answer["names"] == [f"test: {ATTACK}"] * 7
    assert seen.answer["pairs"][0][:2] == [HOSTILE[0], ATTACK]
