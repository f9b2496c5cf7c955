"""ONNX files: fp32, fp16 storage, and static int8 in six schemes.

Every file takes uint8 (N, height, width, channels) and gives float32 logits; N is free, normalisation is in the graph,
all weights are inside. Labels and preprocessing stand in the metadata.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.errors import ExportError
from edgewise.export.base import OPSET, ExportSpec, missing_modules
from edgewise.export.graph import answer_in_float, fold_scale, keep_float, store_halves
from edgewise.export.padding import fold_pads, with_fixed_padding

if TYPE_CHECKING:
    import onnx

    from edgewise.bundle import InputSpec
    from edgewise.models import Model

DYNAMO_OPSET = 18
"""The lowest that the dynamo exporter writes."""

INPUT, OUTPUT = "image", "logits"


@dataclass(frozen=True)
class Scheme:
    """How float values become 8-bit integers.

    unsigned: activations are uint8 (else int8); weights are int8 per output channel in all schemes.
    reduced: weights use 7 bits, so that the 16-bit sums of CPUs without VNNI cannot saturate.
    qoperator: quantized operators stand in the graph themselves (else float operators between Q and DQ pairs).
    """

    unsigned: bool
    reduced: bool
    qoperator: bool


SCHEMES: dict[str, Scheme] = {
    "u8s8": Scheme(unsigned=True, reduced=False, qoperator=False),
    "u8s8-rr": Scheme(unsigned=True, reduced=True, qoperator=False),
    "s8s8": Scheme(unsigned=False, reduced=False, qoperator=False),
    "u8s8-qop": Scheme(unsigned=True, reduced=False, qoperator=True),
    "u8s8-rr-qop": Scheme(unsigned=True, reduced=True, qoperator=True),
    "s8s8-qop": Scheme(unsigned=False, reduced=False, qoperator=True),
}


class OnnxExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".onnx"
    sidecars: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    schemes = tuple(SCHEMES)

    def missing(self, precision: str = "") -> str:  # noqa: ARG002 - all need the same
        """onnx writes the file; onnxruntime, which the base install has, quantizes it."""
        return missing_modules(("onnx", "onnxscript"), 'pip install "edgewise[host]"')

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Write fp32, or fp16 and int8 from the fp32 file of the same workspace."""
        import onnx

        from edgewise.export.learned import learnt_scheme, write_learnt

        if spec.precision == "int8" and spec.scheme == learnt_scheme(model):
            proto = write_learnt(model, spec.workspace / "simulated.onnx", spec.opset)
            _take_pixels_as_quantized(proto, model.input)
        elif spec.precision == "int8":
            proto = _quantized(spec, SCHEMES[spec.scheme], model)
        else:
            proto = onnx.load(float_file(model, spec))
            fold_scale(proto)
        if spec.precision == "fp16":
            store_halves(proto)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(finished(proto, model, spec))


def float_file(model: Model, spec: ExportSpec) -> Path:
    """The traced net with its normalisation in front, as torch writes it; made once in a workspace."""
    import onnx

    path = spec.workspace / "float.onnx"
    if not path.exists():
        spec.workspace.mkdir(parents=True, exist_ok=True)
        write_float(model, path, spec.opset)
        proto = onnx.load(path)
        fold_pads(proto)
        onnx.save(proto, path)
    return path


def finished(proto: onnx.ModelProto, model: Model, spec: ExportSpec) -> bytes:
    """The file as it is delivered: short names, no operator sets it does not use, labels and preprocessing inside."""
    import onnx

    _shorten(proto)
    _drop_unused_domains(proto)
    _describe(proto, model, spec)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def write_float(model: Model, path: Path, opset: int = OPSET) -> None:
    """Trace the model with its normalisation in front.

    The TorchScript exporter is taken first: it writes opset 13 directly, which the dynamo exporter (18 and later)
    cannot, and is many times faster on small nets; where it fails, dynamo is tried. See docs/decisions/0003.
    """
    import torch

    module = deployed(model).eval()
    example = torch.zeros((2, *model.input.shape), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as first:
            path.unlink(missing_ok=True)
            try:
                torch.onnx.export(
                    module,
                    (example,),
                    str(path),
                    dynamo=True,
                    opset_version=max(opset, DYNAMO_OPSET),
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    external_data=False,
                    verbose=False,
                )
            except (torch.onnx.OnnxExporterError, ImportError, RuntimeError, TypeError, ValueError) as second:
                path.unlink(missing_ok=True)
                raise ExportError(
                    "the model cannot be written as ONNX",
                    code="X01",
                    where={"model": model.architecture},
                    why=f"TorchScript exporter: {_first_line(first)}\ndynamo exporter: {_first_line(second)}",
                    fix="choose another model; `edgewise models` lists the ones that are tested",
                ) from second


def prepared_file(model: Model, spec: ExportSpec) -> Path:
    """The float file as quantization takes it: shapes inferred, operators fused, channels equalized where wanted."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from edgewise.export.equalize import equalize

    prepared = spec.workspace / "prepared.onnx"
    if not prepared.exists():
        quant_pre_process(str(float_file(model, spec)), str(prepared), skip_symbolic_shape=True)
    if not spec.ptq.equalize:
        return prepared
    even = spec.workspace / "equalized.onnx"
    if not even.exists():
        proto = onnx.load(prepared)
        equalize(proto)
        even.write_bytes(proto.SerializeToString())
    return even


def _quantized(spec: ExportSpec, scheme: Scheme, model: Model) -> onnx.ModelProto:
    """Static quantization. What calibration saw is kept in the workspace and used by all schemes and methods."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from edgewise.export.calibrate import ranges_file, seen_by
    from edgewise.export.equalize import correct_biases

    source = prepared_file(model, spec)
    seen = seen_by(source, spec)
    proto = onnx.load(source)
    if spec.ptq.correct:
        correct_biases(proto, seen, reduced=scheme.reduced)
        source = spec.workspace / f"{spec.scheme}-{spec.ptq.slug()}.corrected.onnx"
        source.write_bytes(proto.SerializeToString())
    output = spec.workspace / f"{spec.scheme}-{spec.ptq.slug()}.quantized.onnx"
    activations = QuantType.QUInt8 if scheme.unsigned else QuantType.QInt8
    with hushed():
        quantize_static(
            str(source),
            str(output),
            None,
            quant_format=QuantFormat.QOperator if scheme.qoperator else QuantFormat.QDQ,
            per_channel=True,
            reduce_range=scheme.reduced,
            activation_type=activations,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[*_front(proto), *spec.ptq.floats],
            extra_options={"ActivationSymmetric": not scheme.unsigned},
            calibration_cache_path=ranges_file(seen, spec, symmetric=not scheme.unsigned),
        )
    proto = onnx.load(output)
    if not spec.ptq.logits:
        answer_in_float(proto)
    keep_float(proto, spec.ptq.floats)
    if scheme.unsigned:
        _take_pixels_as_quantized(proto, model.input)
    return proto


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep quantizers from logging advice about schemes that are tried on purpose."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _take_pixels_as_quantized(proto: onnx.ModelProto, spec: InputSpec) -> None:
    """Drop the float normalisation: uint8 pixels *are* quantized values.

    ``(pixel / 255 - mean) / std`` equals ``scale * (pixel - zero_point)`` with scale 1 / (255 std) and zero point
    255 mean, so where mean is a whole number of 255ths and all channels share mean and std, cast, multiply, add and
    quantize say nothing that the first layer's scale and zero point cannot say. Elsewhere the graph is left as it is.
    """
    from onnx import numpy_helper

    zero_point = 255 * spec.mean[0]
    if len(set(spec.mean)) > 1 or len(set(spec.std)) > 1 or abs(zero_point - round(zero_point)) > 1e-6:
        return
    graph = proto.graph
    (transpose,) = (node for node in graph.node if node.input[0] == INPUT)
    chain, tensor = [], transpose.output[0]
    for wanted in ("Cast", "Mul", "Add", "QuantizeLinear"):
        readers = [node for node in graph.node if tensor in node.input]
        if [node.op_type for node in readers] != [wanted]:
            return
        chain.append(readers[0])
        tensor = readers[0].output[0]
    _, scale_name, zero_name = chain[-1].input
    exact = {scale_name: np.float32(1 / (255 * spec.std[0])), zero_name: np.uint8(round(zero_point))}
    for initializer in graph.initializer:
        if initializer.name in exact:
            initializer.CopyFrom(numpy_helper.from_array(np.asarray(exact[initializer.name]), initializer.name))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == tensor:
                node.input[index] = transpose.output[0]
    for node in chain:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for initializer in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(initializer)


def _front(proto: onnx.ModelProto) -> list[str]:
    """Names of the nodes between the input and the first layer with weights: the normalisation, which stays float."""
    names = []
    for node in proto.graph.node:
        if node.op_type in {"Conv", "Gemm", "MatMul"}:
            break
        names.append(node.name)
    return names


def _shorten(proto: onnx.ModelProto) -> None:
    """Number the tensors inside the graph; in a small int8 file their long names are a third of the bytes.

    Inputs, outputs and the names of the nodes, which tell the layers, stay.
    """
    graph = proto.graph
    short = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.setdefault(name, f"t{len(short):x}") for name in names]
    for initializer in graph.initializer:
        initializer.name = short.setdefault(initializer.name, f"t{len(short):x}")
    del graph.value_info[:]


def _drop_unused_domains(proto: onnx.ModelProto) -> None:
    """Import only operator sets that are used: old runtimes refuse newer versions even of those that are not."""
    used = {node.domain for node in proto.graph.node} | {""}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _describe(proto: onnx.ModelProto, model: Model, spec: ExportSpec) -> None:
    """Put labels and preprocessing into the file, so that it explains itself without its bundle."""
    facts = {
        "edgewise.labels": json.dumps(list(model.labels), ensure_ascii=False),
        "edgewise.input": json.dumps(dataclasses.asdict(model.input)),
        "edgewise.precision": spec.precision,
        "edgewise.scheme": spec.scheme,
    }
    del proto.metadata_props[:]
    for key, value in facts.items():
        proto.metadata_props.add(key=key, value=value)
    proto.producer_name = "edgewise"


def _first_line(problem: BaseException) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]


def deployed(model: Model) -> Any:
    """The net as every format but ncnn takes it: a torch module from uint8 (N, height, width, channels) to logits."""
    import torch

    class Deployed(torch.nn.Module):
        """uint8 NHWC -> normalised float NCHW -> logits."""

        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = with_fixed_padding(model)
            mean = torch.tensor(model.input.mean).view(1, -1, 1, 1)
            std = torch.tensor(model.input.std).view(1, -1, 1, 1)
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", -mean / std)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            pixels = image.permute(0, 3, 1, 2).to(torch.float32)
            out: torch.Tensor = self.net(pixels * self.scale + self.shift)
            return out

    return Deployed()
