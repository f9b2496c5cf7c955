"""`edgewise bench` on this machine, through the same program as on a device; and its words."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise import cli
from edgewise.bench import Options, bench, read_cell
from edgewise.bundle import InputSpec, Manifest, read_manifest, write_bundle
from edgewise.data import load_data
from edgewise.device.fake import Script
from edgewise.errors import ConfigError, UnavailableError, UntrustedError
from edgewise.measure.protocol import PROTOCOLS, Protocol, shorten
from edgewise.measure.target import Target
from edgewise.recipe import DataOptions
from edgewise.runs import file_sha256, write_json

sys.path.insert(0, str(Path(__file__).parent / "device"))

from tiny import LABELS, make_bundle

QUICK = shorten(PROTOCOLS["quick"], 0.2, 1)
SHORT = dataclasses.replace(shorten(PROTOCOLS["standard"], 0.5, 5), energy=None, cold=1)


@pytest.fixture
def run(shapes: Callable[..., Path], tmp_path: Path) -> Path:
    """A run with two bundles and a saved split."""
    folder = tmp_path / "run"
    source = shapes(per_class=20, labels=tuple(LABELS))
    for name in ("one", "two"):
        made = make_bundle(tmp_path / name)
        (folder / "bundles").mkdir(parents=True, exist_ok=True)
        made.rename(folder / "bundles" / name)
    load_data(DataOptions(source=str(source)), InputSpec(8, 8)).write_splits(folder / "splits.csv")
    (folder / "recipe.yaml").write_text(f"data: {{source: {source}}}\n")
    return folder


def measured(
    run: Path, tmp_path: Path, *names: str, protocol: Protocol = QUICK, **options: Any
) -> list[dict[str, Any]]:
    bundles = [run / "bundles" / name for name in names]
    return bench(bundles, Options(protocol, tmp_path / "out", **options))


@pytest.mark.slow
def test_bundles_of_a_run_are_measured_on_its_test_images(run: Path, tmp_path: Path) -> None:
    one, two = measured(run, tmp_path, "one", "two")
    assert [cell["name"] for cell in (one, two)] == ["one-t1", "two-t1"]
    for cell in (one, two):
        assert cell["device"]["where"] == "this machine"
        assert cell["accuracy"]["n"] == cell["accuracy"]["of"] > 0
        assert cell["protocol"]["pictures"] > 0
        assert cell["latency_ms"]["e2e"]["p50"] > cell["latency_ms"]["model"]["p50"] > 0
        assert cell["model"]["bytes"] == (run / "bundles/one/model.onnx").stat().st_size
        with gzip.open(tmp_path / "out" / cell["raw_csv"], "rt") as stream:
            assert sum(re.match(r"0,model,\d", line) is not None for line in stream) == cell["latency_ms"]["model"]["n"]
        assert read_cell(tmp_path / "out/cells" / f"{cell['name']}.json") == cell
    assert one["compare"]["reference"] == two["compare"]["reference"] == "one"
    assert one["session"] == two["session"]


@pytest.mark.slow
def test_standard_has_launches_of_its_own(run: Path, tmp_path: Path) -> None:
    (cell,) = measured(run, tmp_path, "one", protocol=SHORT)
    assert cell["protocol"]["launches"] == 5
    assert len(cell["latency_ms"]["model"]["launches"]) == 5
    assert cell["protocol"]["mode"] == "standard, shortened"
    low, high = cell["latency_ms"]["model"]["ci"]
    assert [low, high] == [min(cell["latency_ms"]["model"]["launches"]), max(cell["latency_ms"]["model"]["launches"])]


@pytest.mark.slow
def test_sustained_takes_windows_of_each_bundle_alone(run: Path, tmp_path: Path) -> None:
    protocol = dataclasses.replace(shorten(PROTOCOLS["sustained"], 1.2, 1), energy=None, cold=1)
    cells = measured(run, tmp_path, "one", "two", protocol=protocol)
    for cell in cells:
        assert len(cell["latency_ms"]["windows_p50"]) == 60
        assert cell["latency_ms"]["e2e"] is None
        assert cell["compare"]["ratio"] is None


@pytest.mark.slow
def test_threads_and_pinning_are_series_of_their_own(run: Path, tmp_path: Path) -> None:
    cells = measured(run, tmp_path, "one", threads=(1, 1), pin=True)
    assert [cell["name"] for cell in cells] == ["one-t1", "one-t1-pinned"]
    plain, pinned = cells
    assert plain["runtime"]["affinity"] is None
    assert len(pinned["runtime"]["affinity"]) == 1
    assert plain["device"]["fingerprint"] != pinned["device"]["fingerprint"]


@pytest.mark.slow
def test_resuming_measures_what_is_missing_and_nothing_else(run: Path, tmp_path: Path) -> None:
    (first,) = measured(run, tmp_path, "one")
    with pytest.raises(ConfigError, match=r"error\[C98\]: there are cells of an earlier bench"):
        measured(run, tmp_path, "one")
    assert measured(run, tmp_path, "one", resume=True) == [first]
    kept, added = measured(run, tmp_path, "one", threads=(1, 2), resume=True)
    assert kept == first
    assert added["name"] == "one-t2"
    write_json(tmp_path / "out/cells/one-t1.json", {**first, "complete": False})
    again = measured(run, tmp_path, "one", resume=True)
    assert {cell["name"]: cell["complete"] for cell in again} == {"one-t2": True, "one-t1": True}
    assert again[-1]["session"] != first["session"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": 99, "name": "x"}'])
def test_a_damaged_cell_is_refused(content: str, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out/cells/one-t1.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UntrustedError, match="U50"):
        measured(run, tmp_path, "one", resume=True)


@pytest.mark.slow
def test_energy_comes_from_the_sensor_of_the_machine(run: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    place = root / "sys/class/hwmon/hwmon0"
    place.mkdir(parents=True)
    for name, text in {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1000"}.items():
        (place / name).write_text(f"{text}\n")
    plan = dataclasses.replace(PROTOCOLS["standard"].energy, idle_s=0.5, block_s=0.5, blocks=2, paced_s=0.5)  # type: ignore[type-var]
    (cell,) = measured(run, tmp_path, "one", protocol=dataclasses.replace(QUICK, energy=plan), root=str(root))
    energy = cell["energy"]
    assert (energy["source"], energy["boundary"]) == ("INA3221 (hwmon)", "whole module (VDD_IN)")
    assert energy["idle_w"] == pytest.approx(5.0)
    assert energy["active_w"] == pytest.approx(5.0)
    assert energy["mj_gross"] == pytest.approx(5000.0 / energy["rate"], rel=0.2)
    assert energy["mj_net"] == pytest.approx(0.0, abs=1e-6 * energy["mj_gross"] + 1e-9)
    assert energy["paced"]["rate"] < energy["rate"]
    assert any("coarse" in note for note in energy["notes"])


@pytest.mark.slow
def test_a_file_that_its_runtime_refuses_does_not_stop_the_others(run: Path, tmp_path: Path) -> None:
    broken = run / "bundles/two"
    (broken / "model.onnx").write_bytes(b"junk")
    manifest = read_manifest(broken)
    files = {**manifest.files, "model.onnx": file_sha256(broken / "model.onnx")}
    write_json(broken / "manifest.json", dataclasses.asdict(dataclasses.replace(manifest, files=files)))
    with pytest.raises(UnavailableError, match=r"error\[E95\]: 1 of 2 bundles do not run") as caught:
        measured(run, tmp_path, "one", "two")
    assert caught.value.why.startswith("two: ")
    assert [path.name for path in (tmp_path / "out/cells").iterdir()] == ["one-t1.json"]


def foreign(folder: Path) -> Path:
    """A bundle of a format that only edgewise's own registry knows."""
    model = Script(3).write(folder / "model.json")
    manifest = Manifest("f", "fake", "fp32", "", "model.json", InputSpec(8, 8), LABELS)
    write_bundle(folder / "foreign", manifest, model, {})
    return folder / "foreign"


def test_what_cannot_be_measured_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(QUICK, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"error\[C98\]: bundles of format fake cannot be measured here"):
        bench([foreign(tmp_path)], options)
    from edgewise import bench as module

    monkeypatch.setitem(module.RUNTIMES, "fake", module.RUNTIMES["onnx"])
    with pytest.raises(ConfigError, match="cannot be measured on a device over ssh") as caught:
        bench([tmp_path / "foreign"], dataclasses.replace(options, target=Target("board")))
    assert "only onnx and packed" in caught.value.why
    one = run / "bundles/one"
    with pytest.raises(ConfigError, match="a bundle is named twice"):
        bench([one, one], options)
    alone = make_bundle(tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"error\[C97\]: no test images known"):
        bench([alone], options)
    (one / "labels.txt").write_text("changed")
    with pytest.raises(UntrustedError, match="U03"):
        bench([one], options)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_other_runtimes_are_measured_through_the_registry(run: Path, tmp_path: Path) -> None:
    """A format besides onnx, run by the real registry of the process that measures (here: onnx under another name)."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Also(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'edgewise_board.jobs':\n"
        "            from edgewise.device import RUNTIMES\n"
        "            RUNTIMES['other'] = RUNTIMES['onnx']\n"
        "sys.meta_path.insert(0, Also())\n"
    )
    from edgewise.device import RUNTIMES

    made = make_bundle(tmp_path / "third", format="other")
    made.rename(run / "bundles/other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "other", RUNTIMES["onnx"])
        from edgewise.measure.channel import Channel

        real = Channel.ask

        def ask(channel: Channel, do: str, within_s: float = 60.0, on_line: Any = None, **more: Any) -> dict[str, Any]:
            if do == "run":
                more["path"] = f"{more['path']}:{site}"
            return real(channel, do, within_s, on_line, **more)

        patch.setattr(Channel, "ask", ask)
        one, other = measured(run, tmp_path, "one", "other")
    assert other["model"]["format"] == "other"
    assert other["latency_ms"]["model"]["n"] > 0
    assert other["accuracy"]["top1"] == one["accuracy"]["top1"]
    assert other["memory"]["peak_rss"] > 0


# --- The command --------------------------------------------------------------------------------------------------


TITLES = "rank bundle p50 ms p90 p99 e2e p50 x first load first RSS net mJ net top-1 %"


class Called(Exception):
    pass


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"threads": (1,), "protocol": PROTOCOLS["quick"], "out": Path("runs/bench"), "target": None}),
        (
            ["--protocol", "standard", "--threads", "1, 2,all", "--pin", "--resume", "--out", "o", "--images", "r"],
            {
                "threads": (1, 2, "all"),
                "protocol": PROTOCOLS["standard"],
                "pin": True,
                "resume": True,
                "out": Path("o"),
                "images": Path("r"),
            },
        ),
        (
            [
                "--device",
                "ssh://pi@b:22",
                "--install",
                "--python",
                "p",
                "--cooling",
                "fan",
                "--psu",
                "mains",
                "--seed",
                "3",
            ],
            {
                "target": Target("b", "pi", 22),
                "installs": True,
                "python": "p",
                "said": {"cooling": "fan", "psu": "mains"},
                "seed": 3,
            },
        ),
        (["--seconds", "0.5", "--launches", "2"], {"protocol": shorten(PROTOCOLS["quick"], 0.5, 2)}),
    ],
)
def test_words_become_one_call(words: list[str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def called(bundles: list[Path], options: Options, **more: Any) -> None:
        seen.extend([bundles, options])
        raise Called

    monkeypatch.setattr("edgewise.bench.bench", called)
    with pytest.raises(Called):
        cli.app(["bench", "b", "c", *words], standalone_mode=False)
    assert seen[0] == [Path("b"), Path("c")]
    assert {key: getattr(seen[1], key) for key in expected} == expected


@pytest.mark.parametrize(
    "words",
    [["--threads", "0"], ["--threads", "some"], ["--threads", ""], ["--protocol", "slow"], ["--device", "board"]],
)
def test_impossible_words_are_usage_errors(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"C9[68]"):
        cli.app(["bench", "b", *words], standalone_mode=False)


@pytest.mark.slow
def test_the_command_shows_a_table_and_what_is_next(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["bench", str(run / "bundles/one"), str(run / "bundles/two"), "--out", str(out), "--seconds", "0.2", "-q"]
    cli.app(words, standalone_mode=False)
    shown = capsys.readouterr().out.splitlines()
    assert "onnxruntime" in shown[0]
    assert "batch 1, n=" in shown[0]
    assert " ".join(shown[1].split()) == TITLES
    assert shown[-2] == f"cells: {out / 'cells'}, samples: {out / 'raw'}"
    assert shown[-1].startswith("next: edgewise bench ")
    assert any(line.startswith("no energy: not measured by this protocol") for line in shown)
    cli.app([*words, "--resume", "--json"], standalone_mode=False)
    told = capsys.readouterr()
    assert [cell["name"] for cell in json.loads(told.out)] == ["one-t1", "two-t1"]
    assert told.err.startswith("cells: ")
    assert np.isfinite([cell["latency_ms"]["load"] for cell in json.loads(told.out)]).all()
