"""The threshold of a file is chosen by that file's own answers, int8 included, and holds on test images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edgewise import pipeline
from edgewise.bundle import read_manifest, threshold_of, verify_bundle
from edgewise.data import load_data
from edgewise.device import RUNTIMES
from edgewise.device.preprocess import softmax
from edgewise.handout import Wanted, export_run
from edgewise.measure.decision import enough, tail
from edgewise.recipe import ExportOptions, Recipe, load_recipe
from edgewise.report.status import print_status
from edgewise.results import ExportResult

pytestmark = pytest.mark.slow

ASKED = 0.95


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small net for digits: eight or nine in ten are called rightly."""
    raw = {
        "data": {"source": "digits", "split": [0.5, 0.25, 0.25]},
        "model": "convnet(16, 32)",
        "train": {"epochs": 10, "batch_size": 32, "lr": 0.01, "threads": 1},
        "measure": {"seconds": 0.1},
        "explain": False,
    }
    out = tmp_path_factory.mktemp("runs") / "run"
    pipeline.train_model(Recipe.model_validate(raw), out)
    return out


def export(run: Path, out: Path, **options: object) -> ExportResult:
    chosen = ExportOptions.model_validate({"precisions": ["fp32", "int8"], "int8_max_drop": 0.5, **options})
    return export_run(run, Wanted(("base",), chosen, auto=False), out=out)[0]


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportResult, Path]:
    out = tmp_path_factory.mktemp("out") / "exports"
    return export(trained, out), out


def test_each_file_has_a_threshold_of_its_own_that_is_shown_on_validation_and_holds_on_test(
    trained: Path, exported: tuple[ExportResult, Path]
) -> None:
    result, out = exported
    recipe = load_recipe(trained / "recipe.yaml")
    data = load_data(recipe.data, pipeline.resolve_input(recipe), seed=0)
    found = {}
    for row in result.attempts:
        manifest = verify_bundle(out / row.bundle)
        threshold = threshold_of(manifest)
        assert row.decision is not None
        assert row.decision.threshold == threshold is not None
        assert 0 < threshold < 1
        found[row.precision] = threshold
        session = RUNTIMES["onnx"].load(out / row.bundle / manifest.model_file)
        for part, told in ((data.val, row.decision.validation), (data.test, row.decision.test)):
            scores = session.scores(part.images)
            given = softmax(scores, manifest.thresholds["temperature"]).max(axis=1) >= threshold
            right = (scores.argmax(1) == part.labels)[given]
            assert told is not None
            assert told.precision is not None
            assert (told.coverage.value, told.coverage.n) == (pytest.approx(given.mean()), len(part))
            assert (told.precision.value, told.precision.n) == (pytest.approx(right.mean()), given.sum())
            if part is data.val:
                assert tail(int((~right).sum()), len(right), 1 - ASKED) <= 0.05
                assert manifest.thresholds["coverage"] == told.coverage.value
                assert manifest.thresholds["precision_low"] == told.precision.low
                assert manifest.thresholds["precision_n"] == told.precision.n
                assert manifest.thresholds["precision_asked"] == ASKED
            else:
                assert row.test is not None
                assert row.test.accuracy.high < ASKED  # all answers together are not good enough
                assert told.precision.high >= ASKED  # those that are given are
                assert told.precision.value > row.test.accuracy.value
        assert manifest.measured["decision"]["test"]["coverage"]["value"] == row.decision.test.coverage.value  # type: ignore[union-attr]
    assert found["int8"] != found["fp32"]


def test_the_runner_says_null_for_just_the_pictures_below_it(
    trained: Path, exported: tuple[ExportResult, Path], tmp_path: Path
) -> None:
    recipe = load_recipe(trained / "recipe.yaml")
    data = load_data(recipe.data, pipeline.resolve_input(recipe), seed=0)
    pictures = [str(tmp_path / f"{index:03}.npy") for index in range(60)]
    for path, image in zip(pictures, data.test.images, strict=False):
        np.save(path, image)
    bundle = exported[1] / "base-int8"
    manifest = read_manifest(bundle)
    done = subprocess.run(
        [sys.executable, bundle / "runner.py", "classify", *pictures], capture_output=True, text=True, check=True
    )
    scores = RUNTIMES["onnx"].load(bundle / "model.onnx").scores(data.test.images[:60])
    shares = softmax(scores, manifest.thresholds["temperature"])
    unknown = 0
    for line, share in zip(map(json.loads, done.stdout.splitlines()), shares, strict=True):
        best = manifest.labels[int(share.argmax())]
        assert line["top"][0]["label"] == best
        assert line["confidence"] == pytest.approx(share.max(), abs=1e-5)
        assert line["label"] == (best if share.max() >= manifest.thresholds["unknown"] else None)
        unknown += line["label"] is None
    assert 0 < unknown < 60


def test_it_is_in_the_readme_of_the_bundle_and_in_the_table(exported: tuple[ExportResult, Path]) -> None:
    result, out = exported
    for row in result.attempts:
        assert row.decision is not None
        text = (out / row.bundle / "README.md").read_text(encoding="utf-8")
        assert f"is below {row.decision.threshold:.4f}" in text
        assert f"{row.decision.test.coverage.value:.1%} [" in text  # type: ignore[union-attr]
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    print_status(result, console)
    shown = console.export_text()
    assert "answered %" in shown
    assert "right %" in shown


def test_what_is_asked_for_can_be_changed_and_what_cannot_be_shown_is_said(trained: Path, tmp_path: Path) -> None:
    options = {"precisions": ["fp32"]}
    lower = export(trained, tmp_path / "lower", decide={"precision": 0.9}, **options).attempts[0].decision
    base = export(trained, tmp_path / "base", decide={"precision": 0.95}, **options).attempts[0].decision
    none = export(trained, tmp_path / "none", decide={"precision": 0.999}, **options).attempts[0]
    assert lower is not None
    assert base is not None
    assert none.decision is not None
    assert lower.threshold is not None
    assert base.threshold is not None
    assert lower.threshold < base.threshold
    assert none.decision.threshold is None
    assert f"it takes {enough(0, 0.999)} answers without a mistake" in none.decision.note
    assert none.decision.note in none.reason
    manifest = read_manifest(tmp_path / "none" / none.bundle)
    assert set(manifest.thresholds) == {"temperature"}
    assert "It names a class for every picture" in (tmp_path / "none" / none.bundle / "README.md").read_text()


def test_the_flag_is_the_key_and_is_checked_early(trained: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edgewise", "export", str(trained), "--to", "onnx", "--precision", "fp32"]
    wrong = subprocess.run([*words, "--precision-of-answers", "1.5"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "export.decide.precision = 1.5" in wrong.stderr
    more = ["--precision-of-answers", "0.8", "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["attempts"][0]["decision"]["asked"] == 0.8
