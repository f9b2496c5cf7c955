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
from edgewise.report.html import goal_words, headline
from edgewise.results import Estimate, RunResult
from tests.report.browser import Visit, find_chromium, visit
from tests.report.builders import HOSTILE, history, run_result


def changed(result: RunResult, name: str, **latency: Any) -> RunResult:
    """The run with the latency of one measurement changed."""
    measurements = [
        dataclasses.replace(one, latency=dataclasses.replace(one.latency, **latency)) if one.name == name else one
        for one in result.measurements
        if one.latency is not None
    ]
    return dataclasses.replace(result, measurements=measurements)


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
        ({"valid": False, "invalid_reasons": ["hot"]}, "with no valid latency"),
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
        "clock fell 11 %; other CPU use 23 %",
        "drop above 1 point",
        "97.1 ±1.6",
        "Raspberry Pi 5, Cortex-A76, 4 cores, 8.23 GB RAM",
        "ab" * 32,
        "2240",
    ]:
        assert expected in text


def test_fronts_leave_out_the_invalid_latency(tmp_path: Path) -> None:
    write_html(run_result(), tmp_path / "report.html")
    data = page_data((tmp_path / "report.html").read_text(encoding="utf-8"))
    names = [point["name"] for point in data["points"]]
    front = {cost: [names[index] for index in data["fronts"]["macro_f1"][cost]] for cost in ("latency_p50_ms", "macs")}
    assert data["points"][names.index("prune50-int8")]["values"]["latency_p50_ms"] is None
    assert front["latency_p50_ms"][-1] == "base-fp32"
    assert "prune50-int8" not in front["latency_p50_ms"]
    assert "prune50-int8" in front["macs"]


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
    machine = {"relative_only": True, "relative_only_reason": "virtual machine"}
    write_html(run_result(machine=machine), tmp_path / "report.html")
    text = Markup((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "relative only virtual machine: compare the ratios, not the milliseconds" in text


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
  const marks = () => document.querySelectorAll("#plot-latency_p50_ms .scatterlayer .point").length;
  const title = () => document.querySelector("#plot-macs .ytitle").textContent;
  const before = title();
  document.querySelector("input[value=accuracy]").click();
  const select = document.getElementById("recall-model");
  select.value = "2";
  select.dispatchEvent(new Event("change"));
  return {
    states, marks: marks(), titles: [before, title()],
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
    assert answer["marks"] == 9  # ten measurements, one of them without a valid latency
    assert answer["titles"] == ["macro F1, %", "accuracy, %"]
    assert answer["recall"] == ["base-fp32", "distilled-fp32"]
    assert answer["cells"] == 36
    assert answer["curves"] == 4
    assert answer["narrow"]


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
