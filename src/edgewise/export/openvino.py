"""OpenVINO files: fp32, fp16 storage, and int8 by NNCF's post-training quantization.

The graph is that of the ONNX file: it takes uint8 (N, height, width, channels) and normalises itself; N is free.
Nothing is reported to anybody, and nothing is written outside the workspace; see `import_openvino`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.device.openvino import import_openvino
from edgewise.errors import ExportError, UnavailableError
from edgewise.export.base import ExportSpec, missing_modules
from edgewise.export.learned import LEARNT_SCHEME, learnt_file
from edgewise.export.onnx import float_file, hushed

if TYPE_CHECKING:
    from edgewise.models import Model

INSTALL = 'pip install "edgewise[openvino]"'

SCHEMES: dict[str, bool] = {"nncf": False, "nncf-bias": True}
"""int8 scheme -> whether NNCF corrects the biases for the shift that quantization brings. Both have the overflow fix:
without it the 16-bit sums of CPUs without VNNI saturate."""


class OpenVinoExporter:
    """See `edgewise.export.base.Exporter`."""

    suffix = ".xml"
    sidecars: tuple[str, ...] = (".bin",)
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    schemes = tuple(SCHEMES)

    def missing(self, precision: str = "") -> str:
        """OpenVINO itself writes the files, NNCF makes int8."""
        return missing_modules(("openvino",) if precision in ("fp32", "fp16") else ("openvino", "nncf"), INSTALL)

    def can_export(self, model: Model) -> list[str]:  # noqa: ARG002
        """Nothing is known to be impossible before it is tried."""
        return []

    def write(self, model: Model, spec: ExportSpec, path: Path) -> None:
        """Write `.xml` and `.bin` from the fp32 ONNX file of the same workspace; scheme "qat" from the int8 graph."""
        openvino = import_openvino()
        whole = spec.precision == "int8" and spec.scheme == LEARNT_SCHEME
        source = learnt_file(model, spec.workspace, spec.opset) if whole else float_file(model, spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            graph = openvino.Core().read_model(source)
            _name_hard_activations(graph)
            if spec.precision == "int8" and not whole:
                graph = _quantized(graph, spec)
            graph.set_rt_info(list(model.labels), ["edgewise", "labels"])
            # save_model takes fp16 for granted; fp32 has to be asked for.
            openvino.save_model(graph, path, compress_to_fp16=spec.precision == "fp16")
        except RuntimeError as problem:
            raise ExportError(
                "the model cannot be written for OpenVINO",
                code="X10",
                where={"model": model.architecture, "precision": spec.precision},
                why=str(problem).strip().splitlines()[-1],
                fix="choose another format; the onnx file of the same model is not concerned",
            ) from problem


def _name_hard_activations(graph: Any) -> None:
    """Write hard-swish and MobileNetV3's hard-sigmoid as OpenVINO's operations of these names; answers stay the same.

    ONNX of operator set 13 has neither, and OpenVINO runs its general HardSigmoid by a slow reference kernel, in
    another memory layout than the convolutions around it: mobilenetv3_small_050 takes 1.6 times as long.
    """
    from openvino import opset13

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "HardSigmoid" or not _is_relu6_of_3(node):
            continue
        given, readers = node.input_value(0), node.output(0).get_target_inputs()
        only = next(iter(readers)).get_node() if len(readers) == 1 else None
        if (
            only is not None
            and only.get_type_name() == "Multiply"
            and given in (only.input_value(0), only.input_value(1))
        ):
            _replace(only, opset13.hswish(given))
        else:
            _replace(node, opset13.hsigmoid(given))
    graph.validate_nodes_and_infer_types()


def _is_relu6_of_3(node: Any) -> bool:
    """relu6(x + 3) / 6, as MobileNetV3 has it, and no other slope or offset."""
    slope, offset = (node.input_value(index).get_node() for index in (1, 2))
    if {slope.get_type_name(), offset.get_type_name()} != {"Constant"}:
        return False
    return abs(float(slope.data.item()) - 1 / 6) < 1e-6 and abs(float(offset.data.item()) - 0.5) < 1e-6


def _replace(old: Any, new: Any) -> None:
    new.set_friendly_name(old.get_friendly_name())
    for reader in old.output(0).get_target_inputs():
        reader.replace_source_output(new.output(0))


def _quantized(graph: Any, spec: ExportSpec) -> Any:
    """Post-training quantization with calibrated ranges."""
    if spec.calibration is None or not len(spec.calibration):
        raise ExportError("int8 needs calibration images", code="X02", fix="give training images")
    nncf = import_nncf()
    images = [image[None] for image in spec.calibration]
    with hushed(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # progress bars
        warnings.simplefilter("ignore")
        return nncf.quantize(
            graph,
            nncf.Dataset(images),
            subset_size=len(images),
            fast_bias_correction=True,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE, disable_bias_correction=not SCHEMES[spec.scheme]
            ),
        )


def import_nncf() -> Any:
    """NNCF without telemetry (see `import_openvino`) and log lines.

    Raises:
        UnavailableError: it is not installed.
    """
    import_openvino()
    try:
        with hushed():
            import nncf
    except ImportError as problem:
        raise UnavailableError("nncf cannot be imported", code="E81", why=str(problem), fix=INSTALL) from problem
    nncf.set_log_level(logging.ERROR)
    return nncf
