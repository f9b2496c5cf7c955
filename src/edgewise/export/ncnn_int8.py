"""int8 for ncnn, written straight into its two files.

ncnn's own `ncnn2table` and `ncnn2int8` are in no package for Python or Debian, so what they do is done here, to the
same file format: convolutions and fully connected layers take int8, everything between them stays float32.

Weights are int8, symmetric, one scale per output channel (per group in grouped convolutions). Activations are int8,
symmetric, one scale per layer: the clipping threshold with the smallest mean squared error on the calibration images,
found on a histogram of the layer's input as ncnn itself computes it. Where the output of one int8 layer goes to another
one and nowhere else, it is handed over as int8 (`requantize`).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.device import Pixels
from edgewise.device.ncnn import INPUT, OUTPUT, WEIGHTS
from edgewise.device.seal import sidecar
from edgewise.errors import ExportError

Floats = NDArray[np.float32]

_FLOAT_TAG, _INT8_TAG = 0, 0x000D4B38
_INT8_TERM = 8  # the key of `int8_scale_term` in all three kinds of layers
_SCALE_TERM = {"Convolution": 2, "ConvolutionDepthWise": 1, "InnerProduct": 2}
"""The kinds of layers that have an int8 form, and the value that asks for it."""
_HANDED_OVER = 100
"""Added to the term where the output is int8 as well."""
_BINS = 2048
_IMAGES = 256
"""Most calibration images that are run; they are spread over all that were given."""


@dataclass(frozen=True)
class Layer:
    """A line of a `.param` file with its share of the `.bin` file.

    weights: float32, flat, of a layer with an int8 form. rest: the bytes that follow (bias), or all of its bytes.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    weights: Floats | None = None
    rest: bytes = b""

    def number(self, key: int, default: int = 0) -> int:
        """An integer parameter."""
        return next((int(text.partition("=")[2]) for text in self.params if text.startswith(f"{key}=")), default)


def quantize(structure: str, weights: bytes, images: Pixels) -> tuple[bytes, bytes]:
    """The int8 files of a float32 pair.

    Args:
        structure: the text of the `.param` file. weights: the `.bin` file, float32.
        images: uint8 (N, height, width, channels), N >= 1.

    Returns:
        The `.param` and the `.bin` file.

    Raises:
        ExportError: X24, a layer keeps weights in a way that is not known here, or no layer has an int8 form.
    """
    layers = _read(structure, weights)
    wanted = [layer for layer in layers if layer.weights is not None]
    if not wanted:
        raise ExportError("no layer of this model has an int8 form in ncnn", code="X24", fix="take fp16 or fp32")
    chosen = images[np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(int)]
    scales = _input_scales(structure, weights, sorted({layer.inputs[0] for layer in wanted}), chosen)
    readers = [blob for layer in layers for blob in layer.inputs]
    into = {layer.inputs[0] for layer in wanted if readers.count(layer.inputs[0]) == 1}
    written = [
        _quantized(layer, scales, into) if layer.weights is not None else (layer, layer.rest) for layer in layers
    ]
    lines = [*structure.splitlines()[:2], *(_line(layer) for layer, _ in written)]
    return ("\n".join(lines) + "\n").encode(), b"".join(data for _, data in written)


def _read(structure: str, weights: bytes) -> list[Layer]:
    """Deal the weights out to the layers; every byte has to find its layer.

    Raises:
        ExportError: X24.
    """
    layers, at = [], 0
    for line in structure.splitlines()[2:]:
        kind, name, inputs, outputs, *words = line.split()
        split, end = int(inputs), int(inputs) + int(outputs)
        layer = Layer(kind, name, tuple(words[:split]), tuple(words[split:end]), tuple(words[end:]))
        if kind in _SCALE_TERM:
            size = layer.number(2 if kind == "InnerProduct" else 6)
            bias = layer.number(0) * layer.number(1 if kind == "InnerProduct" else 5)
            start = at + 4
            values = np.frombuffer(weights[start : start + 4 * size], np.float32)
            tag = int.from_bytes(weights[at:start], "little")
            at = start + 4 * size + 4 * bias
            if tag != _FLOAT_TAG or at > len(weights) or len(values) != size:
                raise _unknown(f"layer {name} ({kind}) has no plain float32 weights")
            layer = dataclasses.replace(layer, weights=values, rest=weights[at - 4 * bias : at])
        else:
            size = 4 * _floats(layer)
            layer = dataclasses.replace(layer, rest=weights[at : at + size])
            at += size
        layers.append(layer)
    if at != len(weights):
        raise _unknown(f"{len(weights) - at} bytes of weights belong to no layer that is known here")
    return layers


def _floats(layer: Layer) -> int:
    """How many float32 a layer without an int8 form keeps in the weights file."""
    if layer.kind == "BatchNorm":
        return 4 * layer.number(0)
    if layer.kind == "MemoryData":
        sides = [layer.number(key) for key in (0, 1, 2, 11)]
        return int(np.prod([side for side in sides if side]))
    if layer.kind == "PReLU":
        return layer.number(0)
    return 0


def _input_scales(structure: str, weights: bytes, blobs: list[str], images: Pixels) -> dict[str, float]:
    """Blob -> 127 / threshold. The float32 files are run on the images twice: for the ranges, then the histograms."""
    top = dict.fromkeys(blobs, 0.0)
    for values in _run(structure, weights, blobs, images):
        top = {blob: max(top[blob], float(np.abs(values[blob]).max())) for blob in blobs}
    counts = {blob: np.zeros(_BINS) for blob in blobs}
    for values in _run(structure, weights, blobs, images):
        for blob in blobs:
            places = (np.abs(values[blob]).ravel() * ((_BINS - 1) / (top[blob] or 1.0))).astype(np.int32)
            counts[blob] += np.bincount(places, minlength=_BINS)
    return {blob: 127.0 / threshold(counts[blob], top[blob] or 1.0) for blob in blobs}


def threshold(counts: NDArray[np.float64], top: float) -> float:
    """The clipping threshold with the smallest mean squared error of symmetric 8-bit rounding.

    Args:
        counts: histogram of magnitudes over 0..`top`.

    Returns:
        Between a fifth of `top` and `top`.
    """
    middles = (np.arange(len(counts)) + 0.5) * top / len(counts)
    candidates = top * np.linspace(0.2, 1.0, 81)
    clipped = [float(counts @ np.maximum(middles - limit, 0.0) ** 2) for limit in candidates]
    rounding = [float(counts[middles <= limit].sum()) * (limit / 127) ** 2 / 12 for limit in candidates]
    return float(candidates[int(np.argmin(np.add(clipped, rounding)))])


def _run(structure: str, weights: bytes, blobs: list[str], images: Pixels) -> Iterator[dict[str, Floats]]:
    """The values of some blobs in ncnn, image by image, in float32 without 16-bit shortcuts."""
    import ncnn

    with tempfile.TemporaryDirectory(prefix="edgewise-ncnn-") as folder:
        path = Path(folder) / "float.param"
        path.write_text(structure, encoding="ascii")
        sidecar(path, WEIGHTS).write_bytes(weights)
        net: Any = ncnn.Net()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "lightmode"):
            setattr(net.opt, option, False)
        net.load_param(str(path))
        net.load_model(str(sidecar(path, WEIGHTS)))
    _, height, width, channels = images.shape
    kind = ncnn.Mat.PixelType.PIXEL_RGB if channels == 3 else ncnn.Mat.PixelType.PIXEL_GRAY
    for image in np.ascontiguousarray(images):
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat.from_pixels(image, kind, width, height))
        extractor.extract(OUTPUT)  # computes every blob once; without `lightmode` they stay
        yield {blob: np.array(extractor.extract(blob)[1]) for blob in blobs}


def _quantized(layer: Layer, scales: dict[str, float], into: set[str]) -> tuple[Layer, bytes]:
    """An int8 layer and its bytes; `into` are the blobs that only one int8 layer reads."""
    values = layer.weights
    assert values is not None
    rows = layer.number(7, 1) if layer.kind == "ConvolutionDepthWise" else layer.number(0)
    table = values.reshape(rows, -1)
    peak = np.abs(table).max(axis=1)
    scale = np.where(peak > 0, 127.0 / np.maximum(peak, 1e-30), 1.0).astype(np.float32)
    whole = np.clip(np.rint(table * scale[:, None]), -127, 127).astype(np.int8).tobytes()
    data = _INT8_TAG.to_bytes(4, "little") + whole + b"\0" * (-len(whole) % 4) + layer.rest + scale.tobytes()
    data += np.float32(scales[layer.inputs[0]]).tobytes()
    term = _SCALE_TERM[layer.kind]
    if layer.outputs[0] in into and layer.kind != "InnerProduct":
        term += _HANDED_OVER
        data += np.float32(scales[layer.outputs[0]]).tobytes()
    return dataclasses.replace(layer, params=(*layer.params, f"{_INT8_TERM}={term}")), data


def _line(layer: Layer) -> str:
    words = [f"{layer.kind:24} {layer.name:24} {len(layer.inputs)} {len(layer.outputs)}"]
    return " ".join([*words, *layer.inputs, *layer.outputs, *layer.params])


def _unknown(why: str) -> ExportError:
    return ExportError("int8 cannot be written for this model in ncnn", code="X24", why=why, fix="take fp16 or fp32")
