"""The page of an exploration, from real pictures in folders with hostile names, and in a real browser."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgewise.data.explore import DRAWN, Exploration, explore
from edgewise.errors import UnavailableError
from edgewise.recipe import DataOptions
from edgewise.report.explore import lines
from tests.conftest import draw_shape
from tests.report.browser import Visit, visit
from tests.report.test_html import Markup, page_data

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = ("disc", "$x^2$ & <b>", HOSTILE)


def explored(root: Path) -> Exploration:
    """Pictures of discs, squares and crosses; the last two discs lie among the squares, one under a hostile name."""
    for label, shape in zip(CLASSES, ("disc", "square", "cross"), strict=True):
        (root / label).mkdir(parents=True)
        for index in range(14):
            draw_shape(shape, index).save(root / label / f"{index:03}.png")
    for index, name in enumerate(("plain.png", "'><script>alert(2)<&script>.png"), 14):
        draw_shape("disc", index).save(root / CLASSES[1] / name)
    return explore(DataOptions(source=str(root), size=24))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    return explored(tmp_path_factory.mktemp("look") / "a<b>&amp;")


@pytest.fixture(scope="module")
def page(found: Exploration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explore.html"
    found.write_html(path)
    return path


def test_the_page_says_what_was_found(found: Exploration, page: Path) -> None:
    text = re.sub(r"\s+", " ", Markup(page.read_text(encoding="utf-8")).text)
    facts = found.as_dict()
    for expected in [
        f"By these features, nearest neighbours put {100 * facts['mean_recall']:.1f} % of the images of a class right",
        "Features: pixels, 24 x 24.",
        f"{facts['adjusted_rand_index']:.2f}",
        "44 of 44 images",
        *CLASSES,
        *facts["notes"],
        *(one["name"] for one in facts["suspects"]),
    ]:
        assert expected in text
    assert facts["suspects"]


def test_the_page_fetches_nothing_and_hostile_names_add_no_element(found: Exploration, page: Path) -> None:
    markup = Markup(page.read_text(encoding="utf-8"))
    sources = [value["src"] for tag, value in markup.tags if "src" in value]
    assert len(sources) == len(found.suspects)
    assert all(source and source.startswith("data:image/png;base64,") for source in sources)
    assert sum(tag == "script" for tag, _ in markup.tags) == 3
    assert not [tag for tag, attributes in markup.tags if "onerror" in attributes]
    policy = next(v["content"] for _, v in markup.tags if v.get("http-equiv") == "Content-Security-Policy")
    assert policy
    assert policy.startswith("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")


def test_the_drawn_points_are_the_images(found: Exploration, page: Path) -> None:
    data = page_data(page.read_text(encoding="utf-8"))
    assert data["classes"] == list(found.classes)
    assert data["names"] == list(found.names)
    np.testing.assert_allclose(data["pca"], found.space.values[:, :2])
    assert data["umap"] is None


def test_the_thumbnails_are_the_images(found: Exploration) -> None:
    one = found.suspects[0]
    shown = Image.open(io.BytesIO(base64.b64decode(found.thumbnails[one.row].partition(",")[2])))
    label, _, name = found.names[one.row].rpartition("/")
    shape = dict(zip(CLASSES, ("disc", "square", "cross"), strict=True))[label]
    drawn = {"plain.png": 14, "'><script>alert(2)<&script>.png": 15}
    expected = draw_shape("disc", drawn[name]) if name in drawn else draw_shape(shape, int(name[:3]))
    assert np.array_equal(np.asarray(shown), np.asarray(expected))


def test_of_many_images_some_are_drawn_and_every_suspect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgewise.data.explore.DRAWN", 120)
    found = explore(DataOptions(source="digits", size=8))
    found.write_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = page_data(text)
    assert len(data["names"]) == 120 < len(found.names) < DRAWN
    assert {found.names[one.row] for one in found.suspects} <= set(data["names"])
    assert "120 of 1,797 images" in text


def test_the_lines_of_the_terminal(found: Exploration) -> None:
    told = lines(found.as_dict(), suspects=1)
    assert told[0] == "44 images, pixels, 24 x 24"
    assert next(line for line in told if line.startswith("disc")).split()[1] == "14"
    (count,) = [line for line in told if "in doubt" in line]
    assert count == f"{len(found.suspects)} labels in doubt, the first 1:"
    first = found.as_dict()["suspects"][0]
    assert f"  {first['score']:.1f}  {first['name']}: {first['label']}, rather {first['suggested']}" in told


def test_the_lines_neutralise_what_could_rewrite_a_terminal(found: Exploration) -> None:
    facts = found.as_dict()
    facts["classes"][0]["name"] = "\x1b[31mred"
    assert not any("\x1b" in line for line in lines(facts))


def test_a_page_that_cannot_be_written_is_told(found: Exploration, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError) as caught:
        found.write_html(tmp_path / "file" / "explore.html")
    assert caught.value.code == "E41"


PROBE = """
  const points = () => document.querySelectorAll("#plot-pca .scatterlayer .point").length;
  const legend = () => [...document.querySelectorAll("#plot-pca .legendtext")].map((text) => text.textContent);
  const plot = document.getElementById("plot-pca");
  Plotly.Fx.hover(plot, [{curveNumber: 0, pointNumber: 0}]);
  const hover = [...plot.querySelectorAll(".hoverlayer text")].map((text) => text.textContent).join(" ");
  const before = {points: points(), legend: legend()};
  document.querySelector("input[value=clusters]").click();
  return {
    before, hover, after: {points: points(), legend: legend()},
    loaded: [...document.images].every((image) => image.naturalWidth > 0),
    links: document.querySelectorAll(".plot svg a, .plot img, main script").length,
    narrow: document.documentElement.scrollWidth <= innerWidth,
  };
"""


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return visit(page, PROBE, tmp_path_factory.mktemp("visit"))


@pytest.mark.slow
def test_the_browser_finds_no_fault_runs_nothing_and_fetches_nothing(seen: Visit) -> None:
    assert (seen.errors, seen.console, seen.dialogs, seen.requests) == ([], [], [], [])


@pytest.mark.slow
def test_the_picture_is_drawn_by_class_and_by_cluster(seen: Visit, found: Exploration) -> None:
    answer: dict[str, Any] = seen.answer
    assert answer["before"] == {"points": 44, "legend": list(found.classes)}
    assert answer["after"] == {"points": 44, "legend": ["cluster 0", "cluster 1", "cluster 2"]}
    first = found.names[int(np.flatnonzero(found.labels == 0)[0])]
    assert found.classes[0] in answer["hover"]
    assert first in answer["hover"]
    assert (answer["loaded"], answer["links"], answer["narrow"]) == (True, 0, True)
