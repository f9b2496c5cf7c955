"""The whole flow on real files, and the choice it makes."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, log_loss

from edgewise import pipeline
from edgewise.bundle import thresholds_of, verify_bundle
from edgewise.data import load_data
from edgewise.device import RUNTIMES
from edgewise.errors import ConfigError, DataError, GateError
from edgewise.models import open_model
from edgewise.recipe import Recipe
from edgewise.report.explanation import read_explanation
from edgewise.results import RunResult, read_result
from edgewise.train import World, logits
from edgewise.variants import default_variants, plan_name

pytestmark = pytest.mark.slow


def recipe(source: Path | str, **more: Any) -> Recipe:
    raw: dict[str, Any] = {
        "data": {"source": str(source), "size": 16},
        "model": "convnet(16, 32)",
        "train": {"epochs": 6, "batch_size": 16, "lr": 0.01, "threads": 1},
        "measure": {"seconds": 0.2},
        "variants": [
            {"name": "small", "plan": "distill(student=convnet(8, 8))"},
            {"name": "half", "plan": "prune(ratio=0.5)"},
            {"name": "nothing", "plan": "prune(ratio=0)"},
        ],
    }
    return Recipe.model_validate(raw | more)


def tree_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(f).encode() + f.read_bytes() for f in files)).hexdigest()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, Path, Path]:
    """One complete run: its result, its folder, its images."""
    from tests.conftest import draw_shape

    images = tmp_path_factory.mktemp("shapes")
    for label in ("cross", "disc", "square"):
        (images / label).mkdir()
        for index in range(60):
            draw_shape(label, index).save(images / label / f"{index:03}.png")
    before = tree_hash(images)
    connections: list[Any] = []
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", lambda _, address: connections.append(address))
        result = pipeline.run(recipe(images), out, opening=pipeline.Opening(argv=["edgewise", "run", "it's"]))
    assert connections == [], "a run used the network"
    assert tree_hash(images) == before, "the user's images were changed"
    return result, out, images


def test_a_run_leaves_what_it_promises(finished: tuple[RunResult, Path, Path]) -> None:
    result, out, _ = finished
    assert {path.name for path in out.iterdir()} == {
        ".lock", "run.json", "recipe.yaml", "splits.csv", "metrics.jsonl", "checkpoints", "model", "bundles",
        "explain", "results.json", "results.csv", "report.html",
    }  # fmt: skip
    assert read_result(out / "results.json") == result
    state = json.loads((out / "run.json").read_text())
    assert (state["status"], state["argv"], state["seed"]) == ("complete", ["edgewise", "run", "it's"], 0)
    assert state["train_threads"] == dict.fromkeys(["base", "small", "half", "small-scratch", "half-scratch"], 1)
    assert result.command == """edgewise run 'it'"'"'s'"""
    assert "plotly" in (out / "report.html").read_text(encoding="utf-8").lower()


def test_every_row_is_there(finished: tuple[RunResult, Path, Path]) -> None:
    result, _, _ = finished
    rows = {row.name: row.role for row in result.measurements}
    assert rows == {
        "base-fp32": "base", "base-int8": "variant", "small-fp32": "variant", "small-int8": "variant",
        "half-fp32": "variant", "half-int8": "variant", "small-scratch-fp32": "control", "half-scratch-fp32": "control",
    }  # fmt: skip


def test_a_plan_that_does_nothing_is_told_and_the_others_go_on(finished: tuple[RunResult, Path, Path]) -> None:
    result, _, _ = finished
    assert [(failure.name, failure.stage) for failure in result.failures] == [("nothing", "compress")]


def test_figures_are_those_of_the_file(finished: tuple[RunResult, Path, Path]) -> None:
    """Each bundle is opened anew and judged by scikit-learn."""
    result, out, images = finished
    run_recipe = recipe(images)
    data = load_data(run_recipe.data, pipeline.resolve_input(run_recipe), seed=0)
    for row in result.measurements:
        manifest = verify_bundle(out / row.bundle)
        file = out / row.bundle / manifest.model_file
        scores = RUNTIMES["onnx"].load(file).scores(data.test.images)
        predicted = scores.argmax(1)
        assert row.test.n == len(data.test)
        assert row.test.accuracy.value == pytest.approx(accuracy_score(data.test.labels, predicted))
        assert row.test.macro_f1.value == pytest.approx(f1_score(data.test.labels, predicted, average="macro"))
        assert row.cost.file_bytes == file.stat().st_size
        assert row.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        model = open_model(out / "model" / row.variant)
        delta = np.abs(logits(model, data.test.images) - scores).max()
        assert row.parity.max_abs_logit_delta >= delta - 1e-6
        assert (row.precision == "int8") or (delta < 1e-3 and row.parity.top1_agreement == 1.0)
        assert row.parity.n >= min(256, len(data.train) + len(data.test))


def test_costs_fall_and_controls_have_their_variants_structure(finished: tuple[RunResult, Path, Path]) -> None:
    rows = {row.name: row for row in finished[0].measurements}
    assert rows["half-fp32"].cost.macs < rows["base-fp32"].cost.macs
    for name in ("half", "small"):
        assert rows[f"{name}-scratch-fp32"].cost.params_total == rows[f"{name}-fp32"].cost.params_total
        assert rows[f"{name}-scratch-fp32"].cost.macs == rows[f"{name}-fp32"].cost.macs
    assert rows["base-fp32"].difference is None
    assert all(
        row.difference and row.difference.reference == "base-fp32" for n, row in rows.items() if n != "base-fp32"
    )
    assert all(
        row.memory and row.memory.peak_rss_bytes >= row.memory.baseline_rss_bytes > 2**20 for row in rows.values()
    )


def test_every_file_is_calibrated_by_its_own_logits(finished: tuple[RunResult, Path, Path]) -> None:
    result, out, images = finished
    run_recipe = recipe(images)
    data = load_data(run_recipe.data, pipeline.resolve_input(run_recipe), seed=0)
    for row in result.measurements:
        manifest = verify_bundle(out / row.bundle)
        session = RUNTIMES["onnx"].load(out / row.bundle / manifest.model_file)
        assert row.calibration is not None
        assert row.decision is not None
        assert manifest.thresholds == thresholds_of(row.calibration.temperature, row.decision)
        assert manifest.measured["calibration"]["before"]["ece"] == row.calibration.before.ece
        scores = session.scores(data.test.images).astype(np.float64)
        for scale, found in ((1.0, row.calibration.before), (row.calibration.temperature, row.calibration.after)):
            shares = np.exp(scores / scale) / np.exp(scores / scale).sum(axis=1, keepdims=True)
            assert found.nll == pytest.approx(log_loss(data.test.labels, shares, labels=range(3)), rel=1e-4)
            right = scores.argmax(1) == data.test.labels
            assert found.gap.value == pytest.approx(shares.max(1).mean() - right.mean(), abs=1e-5)
        assert row.calibration.fitted_on == len(data.val)


def test_the_base_is_explained_and_the_report_shows_it(finished: tuple[RunResult, Path, Path]) -> None:
    result, out, _ = finished
    found = read_explanation(out / "explain/base")
    assert (found.model, found.layer, len(found.looks)) == ("base", "block2", 3)
    base = next(row for row in result.measurements if row.role == "base")
    confusion = np.array(base.test.confusion)
    assert found.errors["test"] == confusion.sum() - np.trace(confusion)
    assert base.calibration is not None
    assert found.calibration.temperature == pytest.approx(base.calibration.temperature, rel=1e-3)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/') == len(found.looks) + len(found.worst)
    assert (out / "explain/base/explain.html").stat().st_size < 1_200_000
    assert result.seconds["explain"] < 20


def test_a_variant_is_explained_afterwards_and_the_base_again_to_the_same_bytes(
    finished: tuple[RunResult, Path, Path],
) -> None:
    _, out, _ = finished
    before = tree_hash(out / "explain/base"), (out / "report.html").read_bytes()
    base, half = pipeline.explain_run(out), pipeline.explain_run(out, "half")
    assert (tree_hash(out / "explain/base"), (out / "report.html").read_bytes()) == before
    assert [one.name for one in half.looks] == [one.name for one in base.looks]
    assert half == read_explanation(out / "explain/half")
    assert half.layer_note == "8 x 8 places, 16 channels"
    assert [one.before for one in half.looks] != [one.after for one in half.looks]


def test_changed_images_and_unknown_models_are_refused(shapes: Callable[..., Path], tmp_path: Path) -> None:
    images = shapes(20)
    out = tmp_path / "run"
    wish = recipe(images, train={"epochs": 1, "batch_size": 16, "threads": 1})
    pipeline.train_model(wish, out)
    with pytest.raises(ConfigError, match='has no model "bas"') as caught:
        pipeline.explain_run(out, "bas")
    assert (caught.value.code, caught.value.why) == ("C80", 'did you mean "base"?')
    with pytest.raises(ConfigError, match=r'has no model "\.\./model/base"'):
        pipeline.explain_run(out, "../model/base")
    (images / "disc/003.png").unlink()
    with pytest.raises(DataError, match="not those of the saved split") as changed:
        pipeline.explain_run(out)
    assert changed.value.why.split() == ["1", "deleted", "disc/003.png"]
    (out / "run.json").write_text('{"status": "interrupted"}')
    with pytest.raises(ConfigError, match="did not finish") as unfinished:
        pipeline.explain_run(out)
    assert (unfinished.value.code, unfinished.value.why) == ("C81", "its status is interrupted")


def test_a_resumed_run_is_explained_as_if_it_had_not_stopped(shapes: Callable[..., Path], tmp_path: Path) -> None:
    wish = recipe(shapes(12), train={"epochs": 2, "batch_size": 16, "threads": 1})
    out = tmp_path / "run"
    pipeline.train_model(wish, out)
    whole = tree_hash(out / "explain/base")
    shutil.rmtree(out / "explain")
    shutil.rmtree(out / "model")
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(facts | {"status": "interrupted"}))
    pipeline.train_model(wish, out, opening=pipeline.Opening(resume=True))
    assert tree_hash(out / "explain/base") == whole


def test_a_recipe_can_leave_the_explanation_out(shapes: Callable[..., Path], tmp_path: Path) -> None:
    wish = recipe(shapes(12), explain=False, train={"epochs": 1, "batch_size": 16, "threads": 1})
    pipeline.train_model(wish, tmp_path / "run")
    assert not (tmp_path / "run/explain").exists()


def test_an_explanation_that_fails_is_a_warning_and_the_run_goes_on(
    shapes: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    wish = recipe(shapes(12), train={"epochs": 1, "batch_size": 16, "threads": 1})
    with pipeline.open_job(wish, tmp_path / "run", pipeline.Opening(), None, World()) as job:
        pipeline.train_base(job)
        pipeline.explain_base(job)
    assert job.warnings[-1].startswith("the base model is not explained: the HTML report needs plotly and Jinja2.")


def test_all_int8_schemes_were_tried_and_one_kept(finished: tuple[RunResult, Path, Path]) -> None:
    result, _, _ = finished
    for variant in ("base", "small", "half"):
        tried = [one for one in result.candidates if one.variant == variant]
        assert len(tried) == 6
        (kept,) = [one for one in tried if one.kept]
        row = next(row for row in result.measurements if row.name == f"{variant}-int8")
        assert row.scheme == kept.scheme
        assert kept.macro_f1 == pytest.approx(row.validation.macro_f1.value)
        passing = [one for one in tried if one.passed]
        assert kept in passing or not passing
        faster = [one for one in passing if one.ratio_to_fp32 <= kept.ratio_to_fp32]
        assert all(one.macro_f1 <= kept.macro_f1 for one in faster)


def test_the_bundles_own_runner_agrees(finished: tuple[RunResult, Path, Path]) -> None:
    _, out, images = finished
    picture = images / "disc/000.png"
    runner = out / "bundles/base-fp32/runner.py"
    done = subprocess.run(
        [sys.executable, str(runner), "classify", str(picture)], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    model = open_model(out / "model/base")
    from edgewise.device.preprocess import load_pixels

    expected = logits(model, load_pixels(picture, **model.input.preprocessing())[None]).argmax()
    assert told["label"] == model.labels[expected]


def test_the_same_seed_gives_the_same_weights(finished: tuple[RunResult, Path, Path], tmp_path: Path) -> None:
    result, out, images = finished
    again = pipeline.run(recipe(images), tmp_path / "again")
    for name in ("base", "small", "half", "half-scratch"):
        files = [folder / "model" / name / "model.safetensors" for folder in (out, tmp_path / "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert (out / "splits.csv").read_bytes() == (tmp_path / "again/splits.csv").read_bytes()
    first = {row.name: row.test for row in result.measurements if row.precision == "fp32"}
    second = {row.name: row.test for row in again.measurements if row.precision == "fp32"}
    assert first == second


def test_a_goal_that_nothing_meets_ends_with_5_and_leaves_everything(
    shapes: Callable[..., Path], tmp_path: Path
) -> None:
    wish = recipe(
        shapes(12), goal={"min": 1.0}, variants=[], controls=False, train={"epochs": 1, "lr": 1e-6, "threads": 1}
    )
    with pytest.raises(GateError, match="nothing meets the goal") as caught:
        pipeline.run(wish, tmp_path / "run")
    assert caught.value.exit_code == 5
    assert read_result(tmp_path / "run/results.json").chosen is None
    assert (tmp_path / "run/report.html").exists()


def test_train_alone_measures_and_keeps_the_model(shapes: Callable[..., Path], tmp_path: Path) -> None:
    summary = pipeline.train_model(recipe(shapes(30)), tmp_path / "run")
    model = open_model(tmp_path / "run/model/base")
    assert summary["params_total"] == sum(p.numel() for p in model.module.parameters())
    assert summary["test"]["accuracy"]["n"] == summary["test"]["n"] > 0
    found = read_explanation(tmp_path / "run/explain/base")
    assert summary["calibration"] == json.loads((tmp_path / "run/explain/base/explain.json").read_text())["calibration"]
    assert found.errors["test"] == round((1 - summary["test"]["accuracy"]["value"]) * summary["test"]["n"])
    assert not (tmp_path / "run/bundles").exists()


def test_names_are_checked_before_anything_is_made(shapes: Callable[..., Path], tmp_path: Path) -> None:
    images = shapes(4)
    with pytest.raises(ConfigError, match=r'two variants are called "prune-0\.5"'):
        pipeline.run(recipe(images, variants=[{"plan": "prune(0.5)"}, {"plan": "prune(0.5)"}]), tmp_path / "run")
    with pytest.raises(ConfigError, match="mobilenetv3"):
        pipeline.run(recipe(images, model="mobilnetv3_small_050"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_only_is_unusable(shapes: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pipeline.run(recipe(shapes(10, labels=("cross",))), tmp_path / "run")
    assert caught.value.exit_code == 3


def test_a_grayscale_manifest_run(tmp_path: Path) -> None:
    """One channel, a manifest, a named scheme, one precision: the other half of the switches."""
    random = np.random.default_rng(0)
    lines = ["file_name,label"]
    for index in range(60):
        label = index % 2
        pixels = random.integers(0, 120, (20, 20), dtype=np.uint8)
        pixels[:, 10 * label : 10 * label + 10] += 120
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'right' if label else 'left'}")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    wish = recipe(
        tmp_path / "all.csv",
        data={"source": str(tmp_path / "all.csv"), "size": 16, "channels": 1},
        variants=[{"plan": "prune(0.5)"}, {"name": "taught", "plan": "prune(0.5) > distill"}],
        export={"precisions": ["int8"], "int8": "u8s8-rr"},
    )
    result = pipeline.run(wish, tmp_path / "run")
    assert [row.name for row in result.measurements] == [
        "base-fp32", "base-int8", "prune-0.5-int8", "taught-int8", "prune-0.5-scratch-fp32"
    ], "equal structures share one control"  # fmt: skip
    assert {row.scheme for row in result.measurements if row.precision == "int8"} == {"u8s8-rr"}
    assert result.measurements[0].test.accuracy.value > 0.8


def test_names_made_from_plans() -> None:
    assert plan_name("prune(ratio=0.7) > distill") == "prune-0.7-distill"
    assert plan_name("distill(student=convnet(8, 16, 32))") == "distill-convnet-8-16-32"


def test_default_variants_follow_the_base() -> None:
    plans = [variant.plan for variant in default_variants("convnet(32, 64, 128, dropout=0.2)")]
    assert plans == ["distill(student=convnet(8, 16, 32))", "prune(ratio=0.5)", "prune(ratio=0.7)"]
