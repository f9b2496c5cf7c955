"""Cold starts in fresh processes of our own runner, never of the bundle's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny import make_bundle

from edgewise.bundle import read_manifest
from edgewise.errors import UnavailableError, UntrustedError
from edgewise.measure import memory
from edgewise.measure.memory import probe
from edgewise.runs import file_sha256, write_json


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


def test_a_cold_start_is_measured_without_running_the_bundles_code(bundle: Path) -> None:
    (bundle / "runner.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    found = probe(bundle, launches=2, runs=3)
    assert not (bundle / "ran").exists()
    assert found.launches == 2
    assert found.load_ms > found.load_spread_ms >= 0
    assert found.first_ms > 0
    assert found.memory.peak_rss_bytes > found.memory.baseline_rss_bytes > 10e6


def test_a_larger_model_peaks_higher_over_the_same_baseline(tmp_path: Path) -> None:
    tiny, large = make_bundle(tmp_path / "tiny"), make_bundle(tmp_path / "large")
    model = onnx.load(large / "model.onnx")
    ballast = np.random.default_rng(0).standard_normal((4, 1_000_000)).astype(np.float32)  # 16 MB
    model.graph.initializer.append(numpy_helper.from_array(ballast, "ballast"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("ballast", onnx.TensorProto.FLOAT, ballast.shape))
    onnx.save(model, large / "model.onnx")
    manifest = read_manifest(large)
    files = {**manifest.files, "model.onnx": file_sha256(large / "model.onnx")}
    write_json(large / "manifest.json", dataclasses.asdict(dataclasses.replace(manifest, files=files)))
    of_tiny, of_large = (probe(bundle, launches=1, runs=1).memory for bundle in (tiny, large))
    assert of_large.peak_rss_bytes - of_tiny.peak_rss_bytes > ballast.nbytes
    assert of_large.baseline_rss_bytes == pytest.approx(of_tiny.baseline_rss_bytes, rel=0.1)


def test_the_figures_are_medians_over_launches(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = iter(
        {"load_ms": load, "first_ms": load / 10, "peak_rss_bytes": int(load) * 7, "baseline_rss_bytes": int(load) * 5}
        for load in (300.0, 100.0, 900.0)
    )
    monkeypatch.setattr(memory, "_launch", lambda *arguments: next(launches))
    found = probe(bundle)
    assert (found.launches, found.load_ms, found.load_spread_ms, found.first_ms) == (3, 300.0, 800.0, 30.0)
    assert (found.memory.peak_rss_bytes, found.memory.baseline_rss_bytes) == (2100, 1500)


def test_a_changed_bundle_is_refused(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(UntrustedError, match=r"error\[U21\]: the probe refuses the bundle") as caught:
        probe(bundle, launches=1)
    assert "model.onnx: changed" in caught.value.why


@pytest.mark.parametrize(
    ("body", "why", "fix"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed by SIGILL", "needs a newer CPU"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL", "out of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "killed by SIGABRT", "by hand"),
        ("raise OSError('no such library')", "OSError: no such library", "by hand"),
        ("raise SystemExit(9)", "exit code 9", "by hand"),
    ],
)
def test_a_runtime_that_dies_is_reported(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str, fix: str
) -> None:
    monkeypatch.setattr(memory, "runner_source", lambda: body)
    with pytest.raises(UnavailableError, match=r"error\[E30\]") as caught:
        probe(bundle, launches=1)
    assert why in caught.value.why
    assert fix in caught.value.fix


def test_a_runtime_that_hangs_is_ended(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "runner_source", lambda: "import time; time.sleep(60)")
    monkeypatch.setattr(memory, "LAUNCH_TIMEOUT_S", 0.2)
    with pytest.raises(UnavailableError, match=r"error\[E31\]: the probe did not end"):
        probe(bundle, launches=1)


def test_measuring_imports_no_torch() -> None:
    code = (
        "import sys, edgewise.measure, edgewise.device.runner\n"
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
