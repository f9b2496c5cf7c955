"""The page of `data check` in a real browser: complete in itself, hostile names are text, pictures are drawn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchmarks.planted import COPIES, picture

from edgewise.data.check import check_data
from edgewise.data.sheets import contact_sheets
from edgewise.errors import UnavailableError
from edgewise.recipe import DataOptions
from edgewise.report.data_page import write_data_page
from tests.report.browser import Visit, visit

CLASSES = ("<script>alert(1)<", '"><img src=x onerror=alert(2)>', "=HYPERLINK(0)", "{{7*7}}")
NAMES = ("<svg onload=alert(3)>.png", "javascript:alert(4).png", "\u202egnp.exe.png", "a\nb.png", "'; DROP.png")

PROBE = """
return {
  text: document.body.innerText,
  sections: [...document.querySelectorAll("h2")].map((title) => title.innerText),
  pictures: [...document.images].map((image) => image.complete && image.naturalWidth > 0),
  scripts: document.scripts.length,
  injected: document.querySelectorAll("main img:not([src^='data:']), svg, main script").length,
};
"""


def write(root: Path, page: Path) -> None:
    options = DataOptions(source=str(root), max_bad=0.5)
    report = check_data(options)
    write_data_page(report.facts, contact_sheets(report, options), report.place, page)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Visit, str]:
    folder = tmp_path_factory.mktemp("page")
    root = folder / "<b>data<"
    for place, label in enumerate(CLASSES):
        where = root / os.fsencode(label).decode().replace("/", "")
        where.mkdir(parents=True)
        for index in range(8):
            picture(place * 10 + index).save(where / f"{index}.png")
        picture(200 + place).save(where / NAMES[place])
    first = root / CLASSES[0]
    (first / NAMES[4]).write_bytes(b"<script>alert(5)</script>")
    COPIES["JPEG quality 60"](picture(3)).save(first / "copy.png")
    (root / CLASSES[1] / "twin.png").write_bytes((first / "0.png").read_bytes())
    page = folder / "check.html"
    write(root, page)
    text = page.read_text(encoding="utf-8")
    # The page forbids every script, the probe's too. Where scripts are allowed, an injected one would run.
    assert text.count("default-src 'none'; style-src") == 1
    open_page = folder / "open.html"
    open_page.write_text(
        text.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';"), "utf-8"
    )
    return visit(open_page, PROBE, folder), text


def test_nothing_runs_and_nothing_is_fetched(seen: tuple[Visit, str]) -> None:
    visited, _ = seen
    assert (visited.errors, visited.dialogs, visited.console, visited.requests) == ([], [], [], [])
    assert visited.answer["injected"] == 0


def test_the_page_itself_has_no_script(seen: tuple[Visit, str]) -> None:
    assert "<script" not in seen[1]


def test_all_pictures_are_drawn(seen: tuple[Visit, str]) -> None:
    pictures = seen[0].answer["pictures"]
    assert len(pictures) > 4 * 9
    assert all(pictures)


def test_names_are_shown_as_text(seen: tuple[Visit, str]) -> None:
    text = seen[0].answer["text"]
    assert all(label in text for label in CLASSES)
    assert NAMES[0] in text
    assert "a\\nb.png" in text


def test_there_is_a_sheet_for_each_problem_and_class(seen: tuple[Visit, str]) -> None:
    sections = seen[0].answer["sections"]
    for title in ("The same image in several classes", "Files that cannot be used", "Copies"):
        assert title in sections
    assert sum(title.startswith("Class ") for title in sections) == len(CLASSES)


def test_a_clean_set_says_so(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "d" / label).mkdir(parents=True)
        for index in range(20):
            picture(index + 100 * (label == "b")).save(tmp_path / "d" / label / f"{index}.png")
    options = DataOptions.model_validate({"source": str(tmp_path / "d"), "check": {"blurry": 0, "dark": 0}})
    report = check_data(options)
    page = tmp_path / "check.html"
    write_data_page(report.facts, contact_sheets(report, options), report.place, page)
    assert "No problem found in 40 images of 2 classes." in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "d" / "a").mkdir(parents=True)
    picture(1).save(tmp_path / "d" / "a" / "1.png")
    (tmp_path / "check.html").mkdir()
    with pytest.raises(UnavailableError, match="cannot write this file"):
        write(tmp_path / "d", tmp_path / "check.html")
