"""Fault 32: an exporter that is missing, an operation it cannot write, an output that differs: told, and survived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgewise.device import RUNTIMES
from edgewise.errors import ExportError, UntrustedError
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.onnx import OnnxExporter
from edgewise.export.openvino import OpenVinoExporter
from edgewise.handout import Wanted, export_run
from edgewise.models import Model
from edgewise.recipe import load_recipe
from edgewise.results import Attempt
from tests.export.runs import train_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_run(tmp_path_factory)


def attempts(run: Path, out: Path, *, precisions: tuple[str, ...] = ("fp32",)) -> dict[tuple[str, str], Attempt]:
    """What becomes of onnx and openvino."""
    export = load_recipe(run / "recipe.yaml").export
    chosen = export.model_copy(update={"formats": ("onnx", "openvino"), "precisions": precisions})
    result, _ = export_run(run, Wanted(("base",), chosen, auto=False), out=out)
    return {(row.format, row.precision): row for row in result.attempts}


_WITHOUT_OPENVINO = """
import importlib.metadata, importlib.util, sys
found, version = importlib.util.find_spec, importlib.metadata.version
def hidden(name, *rest):
    return None if name.partition(".")[0] in {"openvino", "nncf"} else found(name, *rest)
def unknown(name):
    if name == "openvino":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.util.find_spec, importlib.metadata.version = hidden, unknown
sys.modules["openvino"] = None
sys.argv = ["edgewise", *sys.argv[1:]]
from edgewise.cli import main
main()
"""


def edgewise_without_openvino(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_OPENVINO, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def test_a_missing_runtime_is_a_row_with_its_install_line(trained: Path, tmp_path: Path) -> None:
    words = ("export", str(trained), "--to", "onnx,openvino", "--precision", "fp32", "--out", str(tmp_path / "out"))
    done = edgewise_without_openvino(*words, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["format"]: row for row in json.loads(done.stdout)["attempts"]}
    assert rows["onnx"]["kept"]
    assert rows["openvino"]["state"] == "missing"
    assert "pip install openvino" in rows["openvino"]["reason"]


def test_exit_1_where_nothing_could_be_written(trained: Path, tmp_path: Path) -> None:
    words = ("export", str(trained), "--to", "openvino", "--precision", "fp32", "--out", str(tmp_path / "out"))
    done = edgewise_without_openvino(*words)
    assert done.returncode == 1
    assert "pip install openvino" in done.stdout
    assert "error[X11]" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor_tells_runtime_and_converter_apart() -> None:
    done = edgewise_without_openvino("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert not checks["runtime for openvino"]["ok"]
    assert checks["runtime for openvino"]["detail"] == "pip install openvino"
    assert not checks["converter to openvino"]["ok"]
    assert checks["converter to openvino"]["detail"] == 'pip install "edgewise[openvino]"'
    assert checks["runtime for onnx"]["ok"]
    assert checks["converter to onnx"]["ok"]


class Unable(OpenVinoExporter):
    """Cannot write one operation, as a converter would say it: with an exception of its own kind."""

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        raise KeyError("aten::grid_sampler")


class UnableInt8(OpenVinoExporter):
    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        if spec.precision == "int8":
            raise ExportError("no kernel", code="X10", why="aten::grid_sampler")
        super().write(model, spec, path)


def test_an_operation_that_cannot_be_written_is_named_and_the_other_formats_go_on(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "openvino", Unable())
    rows = attempts(trained, tmp_path / "out")
    assert rows["onnx", "fp32"].kept
    assert rows["openvino", "fp32"].state == "failed"
    assert "aten::grid_sampler" in rows["openvino", "fp32"].reason


def test_a_precision_that_fails_stops_no_other(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "openvino", UnableInt8())
    rows = attempts(trained, tmp_path / "out", precisions=("fp32", "int8"))
    assert [rows["openvino", one].state for one in ("fp32", "int8")] == ["written", "failed"]
    assert "aten::grid_sampler" in rows["openvino", "int8"].reason
    assert rows["onnx", "int8"].kept


class Halved(OnnxExporter):
    """Writes the second convolution with half of its weights."""

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        copy = model.copy()
        layers = [module for module in copy.module.modules() if isinstance(module, torch.nn.Conv2d)]
        with torch.no_grad():
            layers[1].weight.mul_(0.5)
        super().write(copy, spec, path)


def test_an_output_that_differs_is_refused_and_the_layer_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", Halved())
    rows = attempts(trained, tmp_path / "out")
    wrong, right = rows["onnx", "fp32"], rows["openvino", "fp32"]
    assert (wrong.state, wrong.kept, right.kept) == ("refused", False, True)
    assert "differs from its torch model: max |delta logits|" in wrong.reason
    assert "first differing layer: " in wrong.reason
    assert wrong.reason.endswith("(Conv2d)")
    assert not (tmp_path / "out/base-fp32").exists()
    assert wrong.parity is not None
    assert wrong.parity.n >= 60  # all test and training images there are, where these are fewer than 256


def test_an_opset_that_the_device_cannot_read_is_refused_with_the_reason(trained: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgewise", "export", str(trained), "--opset", "11"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "13 is the lowest" in done.stderr


def test_every_runtime_refuses_a_file_of_another_format(tmp_path: Path) -> None:
    for format_, runtime in RUNTIMES.items():
        path = tmp_path / f"foreign-{format_}{FORMATS[format_].suffix}"
        path.write_bytes(b"MZ\x00 not a model")
        with pytest.raises(UntrustedError, match=r"U04|U53|U61"):
            runtime.load(path)
