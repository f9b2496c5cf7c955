"""`edgewise export`: what it writes, what it refuses, what it picks, and what it says."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgewise import cli, handout, pipeline
from edgewise.bundle import RUNNER_FORMATS, model_bytes, read_manifest, verify_bundle
from edgewise.data import load_data
from edgewise.device import RUNTIMES
from edgewise.errors import ConfigError, UnavailableError
from edgewise.export import FORMATS
from edgewise.export.status import pick
from edgewise.handout import Page, Wanted, export_run
from edgewise.recipe import ExportOptions, Recipe, load_recipe
from edgewise.report.status import print_status
from edgewise.results import Attempt, Estimate, ExportResult, parse
from tests.export.runs import train_run
from tests.export.tested import TESTED
from tests.report.builders import quality

pytestmark = pytest.mark.usefixtures("converting")

ROOT = Path(__file__).parents[1]

# ---- the choice ------------------------------------------------------------------------------------------------


def row(precision: str, ratio: float, f1: float = 0.9, size: int = 100, **more: Any) -> Attempt:
    validation = quality(0.9, ("a", "b"), 20, 0)
    f1_ = dataclasses.replace(validation.macro_f1, value=f1)
    base = Attempt("base", "onnx", precision, "written", bundle=f"{precision}-{ratio}", file_bytes=size)
    timed = dataclasses.replace(base, ratio=Estimate(ratio, ratio, ratio, 100), reference="ref")
    return dataclasses.replace(timed, validation=dataclasses.replace(validation, macro_f1=f1_), **more)


def test_the_fastest_that_passed_is_kept() -> None:
    rows = [row("fp32", 1.0), row("int8", 0.5), row("fp16", 0.2, state="refused"), row("fp16", 0.7)]
    assert pick(rows, 0.01) is rows[1]


def test_of_the_equally_fast_the_most_accurate_then_the_smallest_is_kept() -> None:
    rows = [row("fp32", 0.50), row("fp16", 0.51, f1=0.95), row("fp16", 0.515, f1=0.95, size=50), row("fp32", 0.53)]
    assert pick(rows, 0.04) is rows[2]
    assert pick(rows, 0.0) is rows[0]


def test_noise_never_takes_the_choice_far_from_the_fastest() -> None:
    rows = [row("fp32", 0.50), row("fp16", 0.56, f1=0.99)]
    assert pick(rows, 0.5) is rows[0]


def test_int8_that_is_no_faster_than_floats_is_never_kept() -> None:
    rows = [row("fp32", 0.50, f1=0.8), row("int8", 0.51, f1=0.99)]
    assert pick(rows, 0.5) is rows[0]
    assert pick([row("int8", 0.5)], 0.0) is not None


def test_nothing_is_kept_where_nothing_passed() -> None:
    assert pick([row("fp32", 0.5, state="refused"), Attempt("base", "ncnn", "fp32", "missing")], 0.0) is None


# ---- usage -----------------------------------------------------------------------------------------------------


def edgewise(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-m", "edgewise", *words], capture_output=True, text=True, env=environment)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """As much of a run as usage errors need."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text('{"status": "complete"}')
    (tmp_path / "run/recipe.yaml").write_text("data: {source: digits}\nexport: {precisions: [int8]}\n")
    return tmp_path / "run"


def called(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    found: list[tuple[Any, ...]] = []

    def record(*args: Any, **kwargs: Any) -> Any:
        found.append((args, kwargs))
        raise ConfigError("stop", code="C03")

    monkeypatch.setattr(handout, "export_run", record)
    with pytest.raises(ConfigError, match="stop"):
        cli.app(words, standalone_mode=False)
    return found[0]


def test_words_become_one_call(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ExportOptions(
        formats=("onnx", "packed", "openvino", "ncnn", "litert"), precisions=("fp32", "fp16", "int8")
    )
    (run, wanted), kwargs = called(["export", str(named), "--quiet"], monkeypatch)
    assert (run, wanted) == (named, Wanted((), everything, auto=True))
    assert (kwargs["out"], kwargs["force"]) == (None, False)
    words = ["--to", "onnx,openvino", "--model", "a", "--model", "b", "--opset", "17", "--int8", "s8s8", "--force"]
    (_, wanted), kwargs = called(["export", str(named), *words, "--out", "there", "--quiet"], monkeypatch)
    options = ExportOptions(formats=("onnx", "openvino"), precisions=("int8",), opset=17, int8="s8s8")
    assert wanted == Wanted(("a", "b"), options, auto=False)
    assert (kwargs["out"], kwargs["force"]) == (Path("there"), True)
    words = ["--to", "onnx", "--set", "export.int8_method=mse", "--set", "export.int8_max_drop=0.01", "--quiet"]
    (_, wanted), _ = called(["export", str(named), *words], monkeypatch)
    assert (wanted.options.int8_method, wanted.options.int8_max_drop) == ("mse", 0.01)
    (_, wanted), _ = called(["export", str(named), "--to", "web", "--runtime", "npm", "--quiet"], monkeypatch)
    assert (wanted.options.formats, wanted.page) == (("onnx",), Page(Path("npm")))
    (_, wanted), _ = called(["export", str(named), "--precision", "fp16, fp32", "--quiet"], monkeypatch)
    assert wanted.auto
    assert wanted.options.precisions == ("fp16", "fp32")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "onx"], r"C02[\s\S]*onx"),
        (["--to", "auto,onnx"], "C92"),
        (["--to", "auto,web"], "C92"),
        (["--precision", "int4"], r"C02[\s\S]*int4"),
        (["--opset", "12"], r"C02[\s\S]*13 is the lowest: before it, ONNX has no int8 weights per channel"),
        (["--opset", "21"], r"C02[\s\S]*20 is the highest"),
        (["--to", ","], "C02"),
        (["--set", "train.lr=1"], r"C05[\s\S]*only exported"),
        (["--set", "export.int8_method=best"], r"C02[\s\S]*int8_method"),
    ],
)
def test_mistyped_words_are_told_before_anything_heavy_is_imported(
    named: Path, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=told):
        cli.app(["export", str(named), *words], standalone_mode=False)


def test_usage_errors_import_no_torch(named: Path) -> None:
    code = (
        "import sys, edgewise.cli as cli, edgewise.errors as errors\n"
        f"try:\n    cli.app(['export', {str(named)!r}, '--opset', '12'], standalone_mode=False)\n"
        "except errors.ConfigError:\n    print([name for name in ('numpy', 'torch', 'onnx') if name in sys.modules])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="C25"):
        cli.app(["export", str(tmp_path)], standalone_mode=False)


# ---- a finished run --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `edgewise train`."""
    return train_run(tmp_path_factory)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def options(run: Path, **more: Any) -> ExportOptions:
    return load_recipe(run / "recipe.yaml").export.model_copy(update=more)


@pytest.mark.slow
def test_auto_keeps_one_bundle_with_the_whole_table_in_it(trained: Path, tmp_path: Path) -> None:
    before = tree(trained)
    wanted = Wanted(options=options(trained, formats=("onnx", "openvino"), precisions=("fp32", "int8")))
    result, out = export_run(trained, wanted)
    assert out == trained / "exports/1"
    assert {name: data for name, data in tree(trained).items() if not name.startswith("exports")} == before
    (kept,) = [one for one in result.attempts if one.kept]
    assert sorted(path.name for path in out.iterdir()) == sorted([kept.bundle, "export.json"])
    manifest = verify_bundle(out / kept.bundle)
    assert "formats.json" in manifest.files
    table = parse(ExportResult, json.loads((out / kept.bundle / "formats.json").read_text()), out)
    assert table == result
    assert parse(ExportResult, json.loads((out / "export.json").read_text()), out) == result
    assert {(one.format, one.precision) for one in table.attempts} == {
        (format_, precision) for format_ in ("onnx", "openvino") for precision in ("fp32", "int8")
    }
    assert all(one.ratio is not None and one.reference for one in result.attempts if one.state == "written")
    assert manifest.measured["latency"]["threads"] == 1
    assert kept.file_bytes == model_bytes(out / kept.bundle, manifest)
    # a second one stands beside it, and neither is touched
    first = tree(out)
    assert export_run(trained, wanted)[1] == trained / "exports/2"
    assert tree(out) == first
    shutil.rmtree(trained / "exports")


@pytest.mark.slow
def test_a_page_is_made_of_the_fastest_onnx_bundle(trained: Path, tmp_path: Path) -> None:
    """onnxruntime-web is what `scripts/web.sh` brought; tests/web opens such pages in a browser."""
    (package,) = (ROOT / "build").glob("onnxruntime-web-*.tgz")
    wanted = Wanted(("base",), options(trained, formats=("onnx",)), auto=False, page=Page(package))
    result, out = export_run(trained, wanted, out=tmp_path / "out")
    assert (out / "base-web/index.html").is_file()
    bundles = {row.bundle for row in result.attempts if row.kept}
    assert {path.name for path in out.iterdir()} == bundles | {"export.json", "base-web"}
    models = {(out / name / "model.onnx").read_bytes() for name in bundles}
    assert (out / "base-web/model.onnx").read_bytes() in models
    assert all("tensorrt.cache" in read_manifest(out / name).files for name in bundles if name.endswith("int8"))
    with pytest.raises(UnavailableError, match="E60"):  # before anything is written
        export_run(trained, dataclasses.replace(wanted, page=Page(tmp_path)), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_named_formats_are_all_handed_out_with_their_own_figures(trained: Path, tmp_path: Path) -> None:
    formats = TESTED
    chosen = options(trained, formats=formats, precisions=("fp32", "fp16", "int8"))
    result, out = export_run(trained, Wanted(("base",), chosen, auto=False), out=tmp_path / "out")
    recipe = load_recipe(trained / "recipe.yaml")
    data = load_data(recipe.data, pipeline.resolve_input(recipe), seed=0)
    for one in result.attempts:
        if one.precision not in FORMATS[one.format].precisions:
            assert one.state == "not written"
            assert f"{one.format} has no {one.precision} files" in one.reason
            continue
        assert one.kept, one
        manifest = verify_bundle(out / one.bundle)
        expected = f"base-{one.precision}" if one.format == "onnx" else f"base-{one.format}-{one.precision}"
        assert (manifest.name, manifest.format, manifest.precision) == (expected, one.format, one.precision)
        scores = RUNTIMES[one.format].load(out / one.bundle / manifest.model_file).scores(data.test.images)
        assert one.test is not None
        assert one.test.accuracy.value == pytest.approx((scores.argmax(1) == data.test.labels).mean())
        assert one.parity is not None
        assert one.parity.n >= len(data.test)
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    print_status(result, console)
    text = console.export_text()
    assert all(re.search(rf"^\s+{one.format}\s+{one.precision}", text, re.M) for one in result.attempts)


@pytest.mark.slow
@pytest.mark.parametrize("format_", [name for name in TESTED if name not in RUNNER_FORMATS])
def test_the_readme_of_a_bundle_says_how_it_is_run_and_that_runs(format_: str, trained: Path, tmp_path: Path) -> None:
    """The Python lines of the README, in a process of their own, classify like the runtime of edgewise."""
    chosen = options(trained, formats=(format_,), precisions=("fp32",))
    result, out = export_run(trained, Wanted(("base",), chosen, auto=False), out=tmp_path / "out")
    bundle = out / result.attempts[0].bundle
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert RUNTIMES[format_].install in text
    assert "runs onnx and packed bundles only" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    recipe = load_recipe(trained / "recipe.yaml")
    data = load_data(recipe.data, pipeline.resolve_input(recipe), seed=0)
    shutil.copy(data.test.paths[0], bundle / "picture.jpg")
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(bundle)
    scores = RUNTIMES[format_].load(bundle / manifest.model_file).scores(data.test.images[:1])
    assert done.stdout.strip().splitlines()[-1] == manifest.labels[int(scores.argmax())]
    refused = subprocess.run(
        [sys.executable, "runner.py", "classify", "picture.jpg"],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 4
    assert "E33" in refused.stderr


@pytest.mark.slow
def test_folders_are_never_overwritten_unless_told(trained: Path, tmp_path: Path) -> None:
    wanted = Wanted(("base",), options(trained, formats=("onnx",), precisions=("fp32",)), auto=False)
    out = tmp_path / "out"
    export_run(trained, wanted, out=out)
    first = tree(out)
    with pytest.raises(ConfigError, match="C90"):
        export_run(trained, wanted, out=out)
    assert tree(out) == first
    (out / "base-fp32/labels.txt").write_text("changed")
    export_run(trained, wanted, out=out, force=True)
    verify_bundle(out / "base-fp32")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="C91"):
        export_run(trained, wanted, out=tmp_path / "mine", force=True)
    assert (tmp_path / "mine/note.txt").read_text() == "keep me"
    with pytest.raises(ConfigError, match="C80"):
        export_run(trained, Wanted(("bese",)), out=tmp_path / "none")
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is needed")
    with pytest.raises(UnavailableError, match="E82"):
        export_run(trained, wanted, out=blocked / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "out"]


@pytest.mark.slow
def test_a_run_in_two_formats_reports_both(shapes: Callable[..., Path], tmp_path: Path) -> None:
    raw = {
        "data": {"source": str(shapes(per_class=30)), "size": 16},
        "model": "convnet(8, 16)",
        "train": {"epochs": 4, "batch_size": 16, "lr": 0.01, "threads": 1},
        "measure": {"seconds": 0.1},
        "variants": [],
        "explain": False,
        "goal": {"max_drop": 1.0},
        "export": {"formats": ["onnx", "openvino"], "precisions": ["fp32", "int8"], "int8_max_drop": 1.0},
    }
    result = pipeline.run(Recipe.model_validate(raw), tmp_path / "run")
    rows = {one.name: one for one in result.measurements}
    assert set(rows) == {"base-fp32", "base-int8", "base-openvino-fp32", "base-openvino-int8"}
    assert [one.name for one in result.measurements if one.role == "base"] == ["base-fp32"]
    for one in rows.values():
        manifest = verify_bundle(tmp_path / "run" / one.bundle)
        assert one.cost.file_bytes == model_bytes(tmp_path / "run" / one.bundle, manifest)
        assert one.latency is not None
        assert one.memory is not None
        assert one.memory.peak_rss_bytes > one.memory.baseline_rss_bytes
        assert one.latency.load_ms is not None
    assert rows["base-openvino-fp32"].parity.passed
    assert {one.format for one in result.candidates} == {"onnx", "openvino"}
    assert sum(one.kept for one in result.candidates) == 2
    assert (tmp_path / "run/report.html").exists()
