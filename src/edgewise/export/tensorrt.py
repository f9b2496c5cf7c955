"""What a Jetson needs to build its own engine from a bundle: trtexec commands and the int8 calibration cache.

An engine is built on the device that runs it, out of the fp32 file. Written for TensorRT 8.2 (JetPack 4.6, the last for
the Jetson Nano), which takes no uint8 input and no asymmetric int8 graph: `runner.py tensorrt` writes the fp32 model
with float pixels, and the int8 bundle carries the ranges of its calibration in TensorRT's own format. No Jetson was at
hand: names, shapes and the format are checked, the commands were not run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from edgewise.bundle import Manifest
from edgewise.device import Pixels
from edgewise.errors import ExportError

CACHE = "tensorrt.cache"
HEADER = "TRT-8200-EntropyCalibration2"
INPUT = "image"
MODEL = "float-input.onnx"
IMAGES, BATCH = 128, 4

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name -> (lowest, highest)."""


def for_tensorrt(extra: dict[str, str], manifest: Manifest, floating: Path, images: Pixels) -> dict[str, str]:
    """The text files of a bundle with what a Jetson needs: lines in `README.md`, and `CACHE` in an int8 bundle.

    Args:
        extra: name -> contents, with `README.md`; not changed.
        floating: the fp32 file of the same model, as it is delivered.
        images: the training images that calibrate int8.
    """
    if manifest.format != "onnx" or manifest.precision not in {"fp32", "int8"}:
        return extra
    files = {CACHE: tensorrt_cache(tensor_ranges(floating, images))} if manifest.precision == "int8" else {}
    return {**extra, "README.md": extra["README.md"] + readme_part(manifest), **files}


def tensorrt_cache(ranges: Ranges) -> str:
    """TensorRT's calibration cache: for each tensor the scale of one int8 step, a big-endian float32 in hex.

    TensorRT's int8 is symmetric: a scale is the larger end of the range over 127. A tensor that is always 0 gets the
    smallest normal number, because a scale of 0 is refused.

    Raises:
        ExportError: a range is not finite or upside down, or a name cannot stand in the file.
    """
    lines = [HEADER]
    for name, (low, high) in ranges.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high) or not name or {"\n", ":"} & set(name):
            raise ExportError(
                "a calibrated range cannot be written for TensorRT",
                code="X60",
                where={"tensor": name},
                why=f"from {low} to {high}",
                fix="calibrate with other images",
            )
        scale = max(abs(low), abs(high), 127 * 2.0**-126) / 127
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def tensor_ranges(floating: Path, images: Pixels) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each float tensor of a delivered fp32 file on up to `IMAGES` of these images.

    They are measured on the file itself, because the quantizer's own ranges carry the names of another graph.
    """
    import onnx
    import onnxruntime

    model = onnx.load(floating)
    inner = onnx.shape_inference.infer_shapes(model).graph.value_info
    for value in inner:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            model.graph.output.add(name=value.name)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    ranges = {INPUT: (0.0, 255.0)}
    chosen = images[:: max(1, len(images) // IMAGES)][:IMAGES]
    for start in range(0, len(chosen), BATCH):
        for name, values in zip(names, session.run(None, {INPUT: chosen[start : start + BATCH]}), strict=True):
            low, high = ranges.get(name, (math.inf, -math.inf))
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return ranges


def readme_part(manifest: Manifest) -> str:
    """The lines of a bundle's README that build and time an engine on a Jetson."""
    spec = manifest.input
    shape = f"{INPUT}:1x{spec.height}x{spec.width}x{spec.channels}"
    shapes = f"--minShapes={shape} --optShapes={shape} --maxShapes={shape}"
    build = f"    trtexec --onnx={MODEL} {shapes} --fp16"
    if manifest.precision == "fp32":
        how = f"""    python3 runner.py tensorrt {MODEL}
{build} --saveEngine=fp16.engine"""
    else:
        how = f"""    python3 ../FP32-BUNDLE/runner.py tensorrt {MODEL}
{build} --int8 --calib={CACHE} --saveEngine=int8.engine

`{CACHE}` holds the ranges of the fp32 bundle's tensors on this bundle's calibration images; both are of one run."""
    return f"""
## On a Jetson

TensorRT 8.2 or newer builds its engine on the device, from the fp32 bundle. It takes no uint8: the first line writes
the model with `{INPUT}` as float32 (1, {spec.height}, {spec.width}, {spec.channels}), values 0..255.

{how}

These commands were not run on a Jetson by edgewise.
"""
