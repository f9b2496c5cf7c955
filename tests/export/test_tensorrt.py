"""What a Jetson gets: the cache in TensorRT's format for tensors that exist, and a model that TensorRT can take."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.bundle import InputSpec, Manifest, readme, verify_bundle, write_bundle
from edgewise.device.float_input import with_float_input
from edgewise.device.onnxfile import BadModel
from edgewise.device.standalone import runner_source
from edgewise.errors import ExportError
from edgewise.export import FORMATS, ExportSpec
from edgewise.export.tensorrt import CACHE, HEADER, MODEL, for_tensorrt, tensor_ranges, tensorrt_cache
from edgewise.models import create_model

SPEC = InputSpec(16, 12, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (32, 16, 12, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trt")
    model = create_model("convnet(4, 8)", labels=["a", "b", "c"], input=SPEC, seed=0)
    for precision, scheme in (("fp32", ""), ("int8", "u8s8")):
        spec = ExportSpec(precision, folder, scheme, IMAGES)
        FORMATS["onnx"].write(model, spec, folder / f"{precision}{scheme}.onnx")
    return folder


def manifest(precision: str, **changes: object) -> Manifest:
    made = Manifest("m", "onnx", precision, "", "model.onnx", SPEC, ["a", "b", "c"])
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


@given(
    st.dictionaries(st.from_regex(r"[a-z/_.0-9]+", fullmatch=True), st.tuples(st.floats(-1e9, 0), st.floats(0, 1e9)))
)
def test_the_cache_says_each_range(ranges: dict[str, tuple[float, float]]) -> None:
    first, *lines = tensorrt_cache(ranges).splitlines()
    assert first == HEADER == "TRT-8200-EntropyCalibration2"
    assert len(lines) == len(ranges)
    for line, (name, (low, high)) in zip(lines, ranges.items(), strict=True):
        found = re.fullmatch(r"(.+): ([0-9a-f]{8})", line)
        assert found is not None
        assert found[1] == name
        (scale,) = struct.unpack(">f", bytes.fromhex(found[2]))
        assert math.isclose(scale * 127, max(-low, high, 127 * 2**-126), rel_tol=1e-6)
        assert scale > 0


def test_a_known_line() -> None:
    """1.0 is 3f800000 in big-endian hex, as in the caches that TensorRT writes."""
    assert tensorrt_cache({"image": (0.0, 127.0)}) == "TRT-8200-EntropyCalibration2\nimage: 3f800000\n"


@pytest.mark.parametrize("entry", [("a", (0.0, math.inf)), ("a", (1.0, 0.0)), ("a: b", (0.0, 1.0)), ("", (0.0, 1.0))])
def test_ranges_that_make_no_sense(entry: tuple[str, tuple[float, float]]) -> None:
    with pytest.raises(ExportError, match=r"error\[X60\]"):
        tensorrt_cache(dict([entry]))


def test_the_tensors_are_those_of_the_delivered_file_with_the_ranges_they_have(workspace: Path) -> None:
    """Against onnxruntime's own calibrator on the same images."""
    ranges = tensor_ranges(workspace / "fp32.onnx", IMAGES)
    model = onnx.load(workspace / "fp32.onnx")
    made = {name for node in model.graph.node for name in node.output}
    assert set(ranges) <= made | {"image"}
    weighted = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm"}]
    assert weighted
    assert all(node.input[0] in ranges for node in weighted)  # each layer with weights has a scale for what it reads
    assert "logits" in ranges
    assert ranges["image"] == (0.0, 255.0)
    (calibrated,) = workspace.glob("*.ranges.json")
    cached = json.loads(calibrated.read_text())["data"]
    names = {node.name: node.output[0] for node in model.graph.node}
    compared = 0
    for node in onnx.load(workspace / "float.onnx").graph.node:
        if node.op_type in {"Relu", "MaxPool", "Gemm"} and node.output[0] in cached and node.name in names:
            low, high = (cached[node.output[0]][key] for key in ("lowest", "highest"))
            np.testing.assert_allclose(ranges[names[node.name]], [low, high], atol=1e-4)
            compared += 1
    assert compared >= 3


def test_a_bundle_gets_the_lines_and_int8_the_cache(workspace: Path) -> None:
    text = readme(manifest("fp32"), "pip install onnxruntime", "")
    texts = {"README.md": text}
    floating = workspace / "fp32.onnx"
    plain = for_tensorrt(texts, manifest("fp32"), floating, IMAGES)
    shape = "image:1x16x12x3"
    assert set(plain) == {"README.md"}
    assert (
        f"trtexec --onnx={MODEL} --minShapes={shape} --optShapes={shape} --maxShapes={shape} --fp16"
        in plain["README.md"]
    )
    assert "were not run on a Jetson" in plain["README.md"]
    small = for_tensorrt(texts, manifest("int8"), floating, IMAGES)
    assert f"--int8 --calib={CACHE}" in small["README.md"]
    assert small[CACHE] == tensorrt_cache(tensor_ranges(floating, IMAGES))
    assert for_tensorrt(texts, manifest("fp32", format="ncnn"), floating, IMAGES) == texts
    assert for_tensorrt(texts, manifest("fp16"), floating, IMAGES) == texts
    assert texts == {"README.md": text}


def test_the_runner_writes_the_model_with_float_pixels(workspace: Path, tmp_path: Path) -> None:
    extra = for_tensorrt(
        {"README.md": "", "runner.py": runner_source()}, manifest("fp32"), workspace / "fp32.onnx", IMAGES
    )
    write_bundle(tmp_path / "b", manifest("fp32"), workspace / "fp32.onnx", extra)
    out = tmp_path / MODEL

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, tmp_path / "b/runner.py", "tensorrt", out]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith('"input": "image", "shape": [1, 16, 12, 3], "type": "float32"}')
    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert onnx.load(out).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    theirs = onnxruntime.InferenceSession(out).run(None, {"image": IMAGES.astype(np.float32)})[0]
    ours = onnxruntime.InferenceSession(workspace / "fp32.onnx").run(None, {"image": IMAGES})[0]
    np.testing.assert_array_equal(theirs, ours)
    verify_bundle(tmp_path / "b")
    again = run()
    assert (again.returncode, "error[E37]" in again.stderr) == (4, True)


def test_an_int8_file_cannot_take_float_pixels(workspace: Path) -> None:
    with pytest.raises(BadModel, match="take the fp32 bundle"):
        with_float_input((workspace / "int8u8s8.onnx").read_bytes())
