"""Calibration of int8 ONNX files: what the tensors of the float graph take on real images, once for each workspace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgewise.compress.ranges import METHODS, Seen, observe
from edgewise.errors import ExportError
from edgewise.export.base import ExportSpec

if TYPE_CHECKING:
    from edgewise.device import Pixels

BATCH = 16
"""Images at once: every tensor of the graph is kept for so many."""


def seen_by(source: Path, spec: ExportSpec) -> dict[str, Seen]:
    """What the float tensors of a graph take on the calibration images of an order; kept beside the graph.

    Raises:
        ExportError: X02, there are no images.
    """
    if spec.calibration is None or not len(spec.calibration):
        raise ExportError("int8 needs calibration images", code="X02", fix="give training images")
    images = some_of(spec.calibration, spec.ptq.images)
    kept = spec.workspace / f"{source.stem}-seen-{len(images)}.npz"
    if not kept.exists():
        seen = values_in(source.read_bytes(), images)
        arrays = {"names": np.array(list(seen))}
        arrays |= {f"ends{place}": np.array([one.low, one.high, one.zeros]) for place, one in enumerate(seen.values())}
        arrays |= {f"counts{place}": one.counts for place, one in enumerate(seen.values())}
        arrays |= {f"means{place}": one.means for place, one in enumerate(seen.values())}
        np.savez(kept, **arrays)  # type: ignore[arg-type]
    with np.load(kept, allow_pickle=False) as read:
        return {
            str(name): Seen(*_three(read[f"ends{place}"]), read[f"counts{place}"], read[f"means{place}"])
            for place, name in enumerate(read["names"])
        }


def _three(ends: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high, zeros = ends.tolist()
    return low, high, zeros


def some_of(images: Pixels, count: int) -> Pixels:
    """So many of the images, spread evenly over them; all for 0."""
    if not 0 < count < len(images):
        return images
    chosen: Pixels = np.ascontiguousarray(images[np.linspace(0, len(images) - 1, count).astype(int)])
    return chosen


def values_in(graph: bytes, images: Pixels) -> dict[str, Seen]:
    """What each float tensor of an ONNX graph takes on these images."""
    import onnx
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(graph))
    answers = {value.name for value in model.graph.output}
    floats = [one for one in model.graph.value_info if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    made = {name for node in model.graph.node for name in node.output}
    model.graph.output.extend(one for one in floats if one.name in made - answers)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (given,) = session.get_inputs()

    def batches() -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(images), BATCH):
            yield dict(zip(names, session.run(None, {given.name: images[start : start + BATCH]}), strict=True))

    return observe(batches)


def ranges_file(seen: dict[str, Seen], spec: ExportSpec, *, symmetric: bool) -> Path:
    """The ranges of a method, in the file from which onnxruntime's quantizer reads them."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData, save_tensors_data

    method = METHODS[spec.ptq.method]
    ends = {name: method(one, symmetric=symmetric) for name, one in seen.items()}
    ranges = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ends.items()}
    path = spec.workspace / f"{spec.scheme}-{spec.ptq.slug()}.ranges.json"
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), path)
    return path
