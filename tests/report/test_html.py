"""The report page: its words without a browser, its behaviour in a real one."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgewise.errors import UnavailableError, UntrustedError
from edgewise.report import write_html
from edgewise.report.outcome import goal_words, headline, tiles_of
from edgewise.report.rows import rows_of
from edgewise.results import Estimate
from tests.report.browser import Visit, find_chromium, visit
from tests.report.builders import HOSTILE, changed, history, run_result

# ---- Words -----------------------------------------------------------------------------------------------------


def test_headline_says_what_was_kept_at_which_cost() -> None:
    assert headline(run_result()) == (
        "met",
        "prune70-int8 keeps 96.9 % ± 1.6 macro F1 (base 98.3 %) at 0.141x the latency and 0.031x the size.",
    )


def test_headline_uses_the_metric_of_the_goal() -> None:
    goal = {"metric": "accuracy", "max_drop": 0.02, "min": None, "prefer": "size"}
    assert "96.9 % ± 2.0 accuracy (base 98.3 %)" in headline(run_result(goal=goal))[1]


def test_headline_when_nothing_met_the_goal_names_the_closest_and_calls_nothing_best() -> None:
    goal = {"metric": "macro_f1", "max_drop": None, "min": 0.999, "prefer": "latency"}
    status, sentence = headline(run_result(chosen=None, goal=goal))
    assert status == "missed"
    assert (
        sentence == "Nothing met the goal. prune50-int8 came closest and misses it by 3.0 points on validation images."
    )


def test_headline_never_praises_a_chosen_model_that_misses_the_goal() -> None:
    goal = {"metric": "macro_f1", "max_drop": 0.0, "min": 0.999, "prefer": "latency"}
    status, sentence = headline(run_result(goal=goal))
    assert (status, sentence) == (
        "missed",
        "prune70-int8 was chosen, but it misses the goal on the validation images.",
    )


def test_headline_when_the_base_stays() -> None:
    assert headline(run_result(chosen="base-fp32")) == ("kept", "The base model stays: nothing cheaper met the goal.")


def test_headline_of_a_base_in_int8_is_that_of_a_compressed_model() -> None:
    sentence = "base-int8 keeps 97.3 % ± 1.5 macro F1 (base 98.3 %) at 0.65x the latency and 0.26x the size."
    assert headline(run_result(chosen="base-int8")) == ("met", sentence)


def test_headline_without_measurements() -> None:
    assert headline(run_result(chosen=None, measurements=[])) == ("missed", "Nothing was measured in this run.")


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        ({"ratio": Estimate(0.98, 0.95, 1.01, 40)}, "at a latency not measurably different (0.98x)"),
        ({"ratio": Estimate(0.98, 0.97, 0.99, 40), "aa_spread": 0.03}, "at a latency not measurably different (0.98x)"),
        ({"ratio": Estimate(1.4, 1.3, 1.5, 40)}, "at 1.40x the latency, slower than base,"),
        ({"ratio": None}, "with a latency that was not compared with the base,"),
        ({"aa_spread": None}, "with a latency that was not compared with the base,"),
        ({"valid": False, "invalid_reasons": ["hot"]}, "at 0.141x the latency"),
        ({"comparable": False}, "with a latency that does not compare (the A/A check did not hold),"),
    ],
)
def test_headline_claims_no_more_than_was_measured(latency: dict[str, Any], words: str) -> None:
    sentence = headline(changed(run_result(), "prune70-int8", **latency))[1]
    assert f"(base 98.3 %) {words} and 0.031x the size." in sentence


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (
            {"metric": "macro_f1", "max_drop": 0.02, "min": 0.9, "prefer": "latency"},
            "validation macro F1 at most 2.0 points below base and at least 90.0 %, then the lowest latency",
        ),
        (
            {"metric": "accuracy", "max_drop": None, "min": 0.9, "prefer": "macs"},
            "validation accuracy at least 90.0 %, then the fewest MACs",
        ),
        ({"metric": "accuracy", "max_drop": None, "min": None, "prefer": "size"}, "the smallest file"),
    ],
)
def test_goal_in_words(goal: dict[str, Any], words: str) -> None:
    assert goal_words(goal) == words


@pytest.mark.parametrize(
    ("latency", "tile"),
    [
        ({}, ("Latency p50", "1.72 ms", "0.141 ±0.005 × base", "base 12.2 ms")),
        ({"valid": False}, ("Latency", "0.141 ×", "±0.005 × base", "milliseconds not valid")),
        ({"comparable": False}, ("Latency p50", "1.72 ms", "", "base 12.2 ms")),
        ({"comparable": False, "valid": False}, ("Latency p50", "not valid", "", "base 12.2 ms")),
    ],
)
def test_the_tile_shows_the_latency_that_stands(latency: dict[str, Any], tile: tuple[str, ...]) -> None:
    found = tiles_of(rows_of([changed(run_result(), "prune70-int8", **latency)]))[2]
    assert tuple(found[key] for key in ("label", "value", "change", "base")) == tile


def test_the_tile_shows_no_milliseconds_of_a_base_without_valid_ones() -> None:
    found = tiles_of(rows_of([changed(run_result(), "base-fp32", valid=False)]))[2]
    assert (found["value"], found["base"]) == ("1.72 ms", "base ms not valid")


# ---- The file --------------------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """All tags with attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data


def page_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report in which every text that comes from outside tries to be markup."""
    attack = "</script><script>alert('x')</script><b>"
    path = tmp_path_factory.mktemp("hostile") / "report.html"
    result = run_result(
        HOSTILE, name=attack, warnings=[attack], command=attack, data={attack: attack}, machine={"model": attack}
    )
    measurements = [dataclasses.replace(one, plan=attack, notes=[attack]) for one in result.measurements]
    renamed = dataclasses.replace(measurements[2], name=attack, variant=attack)
    measurements = [*measurements[:2], renamed, *measurements[3:]]
    records = [*history(), {"variant": attack + "%{x}", "epoch": 1, "train_loss": 1.0, "val_macro_f1": 0.5}]
    write_html(dataclasses.replace(result, measurements=measurements, chosen=attack), path, history=records)
    return path


def test_page_names_no_outside_address_and_sets_a_strict_policy(hostile: Path) -> None:
    markup = Markup(hostile.read_text(encoding="utf-8"))
    loading = [
        value
        for tag, attributes in markup.tags
        for key, value in attributes.items()
        if key in ("src", "href", "data", "action", "srcset") and tag != "a"
    ]
    assert loading == ["data:,"]
    assert {value["href"] for tag, value in markup.tags if tag == "a"} <= {"#comparison", "#failures"}
    policy = next(
        value["content"] for tag, value in markup.tags if value.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith(
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    )


def test_hostile_texts_add_no_element(hostile: Path, tmp_path: Path) -> None:
    write_html(run_result(), tmp_path / "plain.html", history=history())
    scripts = [
        sum(tag == "script" for tag, _ in Markup(path.read_text(encoding="utf-8")).tags)
        for path in (hostile, tmp_path / "plain.html")
    ]
    assert scripts == [3, 3]
    markup = Markup(hostile.read_text(encoding="utf-8"))
    assert not [tag for tag, attributes in markup.tags if tag == "img" or "onerror" in attributes]
    assert "</script><script>alert('x')</script><b>" in markup.text


def test_data_round_trips_and_direction_changes_are_written_out(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    data = page_data(page)
    assert data["classes"][:4] == list(HOSTILE[:4])
    assert data["classes"][4] == "\\u202egnp.exe\\x1b[31m"
    assert "\u202e" not in page
    assert "\x1b" not in page


def test_page_holds_plotly_once_and_says_how_large_it_is(hostile: Path) -> None:
    page = hostile.read_text(encoding="utf-8")
    assert len(re.findall(r"\* plotly\.js v\d", page)) == 1
    assert re.search(r"[45]\.\d\d MB of it is plotly\.js \d", page)
    assert hostile.stat().st_size < 6_000_000


def test_page_shows_everything_that_was_asked_for(tmp_path: Path) -> None:
    result = run_result()
    write_html(result, tmp_path / "report.html", history=history())
    text = re.sub(r"\s+", " ", Markup((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    for expected in [
        headline(result)[1],
        result.warnings[0],
        result.failures[0].reason,
        result.command,
        *(one.sha256 for one in result.measurements),
        *(one.scheme for one in result.candidates),
        "CPU clock fell 2400 -> 2136 MHz; other processes used 23% of the CPUs",
        "Milliseconds not valid: CPU clock fell 2400 -> 2136 MHz (1 of 10 files); other processes used 23 % of",
        "drop above 1 point",
        "97.1 ±1.6",
        "Raspberry Pi 5, Cortex-A76, 4 cores, 8.23 GB RAM",
        "ab" * 32,
        "2240",
    ]:
        assert expected in text


def test_latency_is_plotted_by_the_ratio_and_left_out_where_that_does_not_compare(tmp_path: Path) -> None:
    write_html(changed(run_result(), "distilled-fp32", comparable=False), tmp_path / "report.html")
    data = page_data((tmp_path / "report.html").read_text(encoding="utf-8"))
    points = {point["name"]: point for point in data["points"]}
    front = {
        cost: [data["points"][index]["name"] for index in found] for cost, found in data["fronts"]["macro_f1"].items()
    }
    assert points["distilled-fp32"]["values"]["latency_ratio"] is None
    assert points["base-fp32"]["values"]["latency_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    ratio = {"value": 0.31, "low": 0.31 * 0.98, "high": 0.31 * 1.03}
    assert points["prune50-int8"]["values"]["latency_ratio"] == ratio  # its milliseconds are not valid
    # Worked out by hand from the ratios and macro F1 of the gold table.
    assert front["latency_ratio"] == [
        "distilled-scratch-fp32",
        "prune70-int8",
        "prune50-int8",
        "base-int8",
        "base-fp32",
    ]
    assert "distilled-fp32" in front["macs"]


def test_hover_marks_what_does_not_stand(tmp_path: Path) -> None:
    write_html(changed(run_result(), "distilled-fp32", comparable=False), tmp_path / "report.html")
    data = page_data((tmp_path / "report.html").read_text(encoding="utf-8"))
    hover = {point["name"]: point["hover"] for point in data["points"]}
    assert hover["prune50-int8"][2:5] == [
        "latency 0.31 ±0.01 × base",
        "p50 3.77 ±0.06 ms (not valid)",
        "e2e p50 4.39 ms (not valid)",
    ]
    assert hover["distilled-fp32"][2:4] == ["latency 0.107 ±0.004 × base (does not compare)", "p50 1.31 ±0.02 ms"]


def test_milliseconds_are_struck_where_invalid_and_ratios_where_they_do_not_compare(tmp_path: Path) -> None:
    write_html(changed(run_result(), "distilled-fp32", comparable=False), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<s>(.+?)</s>", page) == ["0.107 ±0.004", "3.77 ±0.06", "4.39 ±0.07"]
    why = "CPU clock fell 2400 -&gt; 2136 MHz; other processes used 23% of the CPUs"
    assert page.count(f'title="milliseconds not valid: {why}"><s>') == 2


def test_curves_run_on_over_phases_and_gaps_stay_gaps(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"variant": "base", "epoch": 1, "train_loss": 2.0, "val_macro_f1": 0.5},
        {"variant": "base", "epoch": 2, "train_loss": math.nan, "val_macro_f1": 0.6},
        {"variant": "base", "epoch": 1, "train_loss": 1.0},
        {"variant": "base", "epoch": 2, "train_loss": math.inf},
        {"event": "saved"},
    ]
    write_html(run_result(), tmp_path / "report.html", history=records)
    (curve,) = page_data((tmp_path / "report.html").read_text(encoding="utf-8"))["curves"]
    assert curve["epoch"] == [1, 2, 3, 4]
    assert curve["train_loss"] == [2.0, None, 1.0, None]
    assert curve["val_macro_f1"] == [0.5, 0.6, None, None]


def test_relative_only_is_stamped(tmp_path: Path) -> None:
    machine = {"relative_only": "virtual machine"}
    write_html(run_result(machine=machine), tmp_path / "report.html")
    text = Markup((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "relative only Compare the ratios, not the milliseconds (virtual machine)" in text


def test_page_leaves_out_repeated_facts_and_a_column_without_words(tmp_path: Path) -> None:
    machine = {"ram_bytes": 8_000_000_000, "ram": "8 GB"}
    silent = [dataclasses.replace(one, note="") for one in run_result().candidates]
    write_html(run_result(machine=machine, candidates=silent), tmp_path / "silent.html")
    write_html(run_result(), tmp_path / "report.html")
    page = (tmp_path / "silent.html").read_text(encoding="utf-8")
    assert re.findall(r"<dt>ram</dt><dd>(.+?)</dd>", page) == ["8.00 GB (8,000,000,000 bytes)"]
    why = '<th scope="col" class="words">Why</th>'
    assert [why in text for text in (page, (tmp_path / "report.html").read_text(encoding="utf-8"))] == [False, True]


@pytest.mark.parametrize("package", ["jinja2", "plotly.offline"])
def test_missing_extras_are_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UnavailableError, match="needs plotly and Jinja2") as caught:
        write_html(run_result(), tmp_path / "report.html")
    assert (caught.value.code, caught.value.fix) == ("E40", 'pip install "edgewise[host]"')
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write this file") as caught:
        write_html(run_result(), tmp_path / "file" / "report.html")
    assert caught.value.code == "E41"


def test_results_that_choose_what_they_do_not_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="choose a model that they do not hold"):
        write_html(run_result(chosen="gone"), tmp_path / "report.html")


# ---- In the browser --------------------------------------------------------------------------------------------

SORTING = """
  const table = document.getElementById("table");
  const press = (column) => table.querySelector(`button[data-column="${column}"]`).click();
  const state = () => ({
    rows: [...table.querySelectorAll("tbody th bdi")].map((cell) => cell.textContent),
    sorted: [...table.querySelectorAll("th[aria-sort]")].map((head) => head.getAttribute("aria-sort")),
    focusable: [...table.querySelectorAll("thead button")].every((button) => button.tabIndex === 0),
  });
  const states = [state()];
  for (const column of [6, 6, 2, 0]) { press(column); states.push(state()); }
  const marks = () => document.querySelectorAll("#plot-latency_ratio .scatterlayer .point").length;
  const title = () => document.querySelector("#plot-macs .ytitle").textContent;
  const before = title();
  const axes = [...document.querySelectorAll("#tradeoffs .xtitle")].map((text) => text.textContent);
  const ticks = [...document.querySelectorAll("#plot-file_bytes .xtick text")].map((text) => text.textContent);
  document.querySelector("input[value=accuracy]").click();
  const select = document.getElementById("recall-model");
  select.value = "2";
  select.dispatchEvent(new Event("change"));
  return {
    states, axes, ticks, marks: marks(), titles: [before, title()],
    recall: [...document.querySelectorAll("#plot-recall .legendtext")].map((text) => text.textContent),
    cells: document.querySelectorAll("#plot-confusion-right .hm text").length,
    curves: document.querySelectorAll("#plot-score .scatterlayer .js-line").length,
    narrow: document.documentElement.scrollWidth <= innerWidth,
  };
"""


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("visit")
    write_html(run_result(), folder / "report.html", history=history())
    return visit(folder / "report.html", SORTING, folder)


@pytest.mark.slow
def test_browser_finds_no_fault_and_nothing_is_fetched(visited: Visit) -> None:
    assert (visited.errors, visited.console, visited.dialogs, visited.requests) == ([], [], [], [])


@pytest.mark.slow
def test_table_sorts_and_controls_stay_beneath_their_variant(visited: Visit) -> None:
    first, by_size, by_size_down, by_difference, by_name = visited.answer["states"]
    assert first["focusable"]
    assert first["sorted"] == []
    assert first["rows"][:2] == ["base-fp32", "base-int8"]
    assert by_size["sorted"] == ["ascending"]
    assert by_size["rows"][:3] == ["distilled-int8", "prune70-int8", "prune50-int8"]
    assert by_size_down["sorted"] == ["descending"]
    assert by_size_down["rows"][0] == "base-fp32"
    assert by_difference["rows"][0] == "base-int8"
    assert by_difference["rows"][-1] == "base-fp32"  # it has no difference to itself: unknown goes last
    assert by_name["rows"] == first["rows"]  # these names stand in alphabetical order from the start
    for state in visited.answer["states"]:
        for control in ("distilled", "prune70"):
            assert state["rows"].index(f"{control}-scratch-fp32") == state["rows"].index(f"{control}-fp32") + 1


@pytest.mark.slow
def test_plots_are_drawn_and_answer_to_their_selectors(visited: Visit) -> None:
    answer = visited.answer
    assert answer["marks"] == 10  # one of them without valid milliseconds
    assert answer["axes"] == ["model latency, × base (paired, interleaved)", "file size", "MACs"]
    assert answer["ticks"] == ["10 kB", "20 kB", "50 kB", "100 kB", "200 kB", "500 kB"]
    assert answer["titles"] == ["macro F1, %", "accuracy, %"]
    assert answer["recall"] == ["base-fp32", "distilled-fp32"]
    assert answer["cells"] == 36
    assert answer["curves"] == 4
    assert answer["narrow"]


@pytest.mark.slow
def test_a_plot_without_figures_that_compare_says_so(tmp_path: Path) -> None:
    result = run_result()
    for one in result.measurements:
        result = changed(result, one.name, comparable=False, valid=False)
    write_html(result, tmp_path / "report.html")
    probe = """
      const all = (id, kind) => [...document.querySelectorAll(`#plot-${id} ${kind}`)];
      const texts = (id) => all(id, ".annotation-text").map((text) => text.textContent);
      return ["latency_ratio", "macs"].map((id) => [texts(id), all(id, ".scatterlayer .point").length]);
    """
    seen = visit(tmp_path / "report.html", probe, tmp_path)
    assert (seen.errors, seen.console) == ([], [])
    assert seen.answer == [[["no figures that compare"], 0], [["base-fp32", "prune70-int8"], 10]]


@pytest.mark.slow
def test_hostile_texts_run_nothing_and_are_shown_as_they_are(hostile: Path, tmp_path: Path) -> None:
    probe = """
      const point = document.getElementById("plot-macs");
      Plotly.Fx.hover(point, [{curveNumber: 3, pointNumber: 0}]);
      const drawn = [...document.querySelectorAll(".plot text")];
      return {
        links: document.querySelectorAll(".plot svg a, .plot img, main script, main img").length,
        bold: [...document.querySelectorAll("#plot-recall tspan")].filter((part) => part.style.fontWeight).length,
        hover: [...document.querySelectorAll("#plot-macs .hoverlayer text")].map((text) => text.textContent).join(" "),
        recall: drawn.map((text) => text.textContent).join(" "),
        options: [...document.getElementById("recall-model").options].map((option) => option.text),
      };
    """
    seen = visit(hostile, probe, tmp_path)
    assert (seen.errors, seen.console, seen.dialogs, seen.requests) == ([], [], [], [])
    assert seen.answer["links"] == 0
    assert seen.answer["bold"] == 0
    assert "</script><script>alert('x')</script><b>" in seen.answer["hover"]
    assert "<script>alert(1)</script>" in seen.answer["recall"]
    assert "$x^2$ -1" in seen.answer["recall"]
    assert '<a href="javascript:alert(3)">' in seen.answer["recall"]
    assert "</script><script>alert('x')</script><b>" in seen.answer["options"]


@pytest.mark.slow
def test_the_browser_test_would_see_faults(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><head><meta charset=utf-8><title>x</title></head><body>"
        "<img src='http://evil.example/x.png'>"
        "<script>fetch('https://evil.example/fetched'); alert(1);"
        "console.error('said'); throw new Error('thrown')</script>"
        "</body>",
        encoding="utf-8",
    )
    seen = visit(page, "return document.title", tmp_path)
    assert seen.answer == "x"
    assert seen.dialogs == ["1"]
    assert any("thrown" in error for error in seen.errors)
    assert any("said" in line for line in seen.console)
    assert seen.requests == ["http://evil.example/x.png", "https://evil.example/fetched"]


def test_a_missing_browser_is_an_error_with_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        find_chromium()
