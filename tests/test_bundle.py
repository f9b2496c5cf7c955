"""Bundles: whole when written, and any change is found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgewise.bundle import (
    InputSpec,
    Manifest,
    model_bytes,
    read_manifest,
    readme,
    temperature_of,
    threshold_of,
    thresholds_of,
    update_measured,
    verify_bundle,
    write_bundle,
)
from edgewise.errors import UntrustedError
from edgewise.results import Answered, Decision, Estimate

MANIFEST = Manifest(
    name="small-int8",
    format="onnx",
    precision="int8",
    scheme="u8s8-rr",
    model_file="model.onnx",
    input=InputSpec(8, 8, 1, mean=(0.5,), std=(0.5,)),
    labels=["cat", "dög"],
    lineage={"plan": "prune(ratio=0.5)"},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = tmp_path / "some.onnx"
    model.write_bytes(b"not really a model")
    text = readme(MANIFEST, "pip install onnxruntime", "logits = None")
    write_bundle(tmp_path / "bundle", MANIFEST, model, {"README.md": text, "runner.py": "print(1)\n"})
    return tmp_path / "bundle"


def test_what_is_written_is_read(bundle: Path) -> None:
    manifest = verify_bundle(bundle)
    assert set(manifest.files) == {"README.md", "labels.txt", "model.onnx", "runner.py"}
    assert manifest.labels == MANIFEST.labels
    assert manifest.input == MANIFEST.input
    assert (bundle / "labels.txt").read_text(encoding="utf-8") == "cat\ndög\n"
    assert "runner.py classify" in (bundle / "README.md").read_text()


def test_figures_can_be_added_without_breaking_it(bundle: Path) -> None:
    update_measured(bundle, {"latency": 1.5})
    assert verify_bundle(bundle).measured == {"latency": 1.5}


def test_thresholds_are_kept_and_bundles_from_before_there_were_any_are_read(bundle: Path, tmp_path: Path) -> None:
    model = tmp_path / "some.onnx"
    manifest = dataclasses.replace(MANIFEST, thresholds={"temperature": 1.5})
    write_bundle(tmp_path / "newer", manifest, model, {"runner.py": "print(1)\n"})
    assert update_measured(tmp_path / "newer", {"latency": 1.5}).thresholds == {"temperature": 1.5}
    assert verify_bundle(tmp_path / "newer").thresholds == {"temperature": 1.5}
    raw = json.loads((bundle / "manifest.json").read_text())
    del raw["thresholds"]
    (bundle / "manifest.json").write_text(json.dumps(raw))
    assert verify_bundle(bundle).thresholds == {}


DECISION = Decision(
    0.95,
    0.8,
    "",
    Answered(Estimate(0.9, 0.86, 0.93, 300), Estimate(0.98, 0.96, 0.99, 270)),
    Answered(Estimate(0.88, 0.84, 0.91, 310), Estimate(0.97, 0.95, 0.99, 273)),
)


def test_thresholds_are_plain_numbers_with_what_they_were_chosen_by() -> None:
    found = thresholds_of(1.5, DECISION)
    assert found["temperature"] == 1.5
    assert (found["unknown"], found["precision_asked"]) == (0.8, 0.95)
    assert (found["coverage"], found["coverage_low"], found["coverage_high"], found["coverage_n"]) == (
        *(0.9, 0.86),
        *(0.93, 300),
    )
    assert (found["precision"], found["precision_n"]) == (0.98, 270)
    manifest = dataclasses.replace(MANIFEST, thresholds=found)
    assert (temperature_of(manifest), threshold_of(manifest)) == (1.5, 0.8)
    none = Decision(0.95, None, "no threshold: too few", None, None)
    assert thresholds_of(1.5, none) == thresholds_of(1.5, None) == {"temperature": 1.5}
    assert threshold_of(MANIFEST) is temperature_of(MANIFEST) is None


def test_the_readme_says_when_an_answer_is_not_given() -> None:
    text = readme(MANIFEST, "pip install onnxruntime", "", DECISION)
    assert "is below 0.8000" in text
    assert (
        "- validation images: 90.0% [86.0%, 93.0%] of 300 are answered, 98.0% [96.0%, 99.0%] of these 270 rightly"
        in text
    )
    assert "- test images, by which nothing was chosen: 88.0% [84.0%, 91.0%] of 310 are answered" in text
    none = readme(MANIFEST, "", "", Decision(0.95, None, "no threshold: too few", None, None))
    assert "It names a class for every picture: no threshold: too few." in none
    assert "## Unknown" not in readme(MANIFEST, "", "")


@pytest.mark.parametrize("name", ["README.md", "labels.txt", "model.onnx", "runner.py"])
def test_a_changed_missing_or_replaced_file_is_named(bundle: Path, name: str) -> None:
    original = (bundle / name).read_bytes()
    (bundle / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(UntrustedError, match=f"{name}: changed"):
        verify_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(UntrustedError, match=f"{name}: missing"):
        verify_bundle(bundle)
    (bundle / name).symlink_to("/etc/hostname")
    with pytest.raises(UntrustedError, match=f"{name}: not a regular file"):
        verify_bundle(bundle)


def test_an_added_file_is_named(bundle: Path) -> None:
    (bundle / "extra.py").write_text("x")
    with pytest.raises(UntrustedError, match=r"extra\.py: not in the manifest") as caught:
        verify_bundle(bundle)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "..", "", "a\\b"])
def test_names_that_leave_the_folder_are_refused(bundle: Path, name: str) -> None:
    path = bundle / "manifest.json"
    raw = json.loads(path.read_text())
    raw["model_file"] = name
    raw["files"][name] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(UntrustedError, match="outside its folder"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format_version": 99}, "bundle of format version 99"),
        ({"labels": "cat"}, "not a valid Manifest"),
        ({"input": {"height": 8}}, "not a valid Manifest"),
        ({"files": {}}, "no hash for the model file"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(bundle: Path, change: dict[str, object], told: str) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UntrustedError, match=told):
        read_manifest(bundle)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UntrustedError, match="not an edgewise bundle"):
        verify_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[1, 2")
    with pytest.raises(UntrustedError, match="not an edgewise bundle"):
        verify_bundle(tmp_path)


def test_a_bundle_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "bundle", MANIFEST, tmp_path / "missing.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_input_spec_checks_its_channels() -> None:
    with pytest.raises(ValueError, match="need 1 values"):
        InputSpec(8, 8, 1)
    assert InputSpec(4, 6, 3).shape == (4, 6, 3)


def test_a_model_of_several_files_is_copied_hashed_and_checked_whole(tmp_path: Path) -> None:
    structure, weights = tmp_path / "some.xml", tmp_path / "some.bin"
    structure.write_bytes(b"structure")
    weights.write_bytes(b"weights!")
    manifest = dataclasses.replace(MANIFEST, format="openvino", model_file="model.xml", sidecars=["model.bin"])
    written = write_bundle(tmp_path / "two", manifest, structure, {}, [weights])
    assert (tmp_path / "two/model.bin").read_bytes() == b"weights!"
    assert {"model.xml", "model.bin"} <= set(written.files)
    assert model_bytes(tmp_path / "two", written) == len(b"structureweights!")
    assert verify_bundle(tmp_path / "two") == written
    (tmp_path / "two/model.bin").write_bytes(b"weights?")
    with pytest.raises(UntrustedError, match=r"model\.bin: changed"):
        verify_bundle(tmp_path / "two")


@pytest.mark.parametrize("name", ["../model.bin", "/etc/passwd", "unlisted.bin"])
def test_sidecars_stay_in_the_folder_and_have_a_hash(bundle: Path, name: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    (bundle / "manifest.json").write_text(json.dumps({**raw, "sidecars": [name]}), encoding="utf-8")
    with pytest.raises(UntrustedError, match=r"outside its folder|no hash"):
        read_manifest(bundle)
