"""Run by the litert toolchain's Python, never imported by edgewise: torch.export file in, .tflite file out.

    python -I litert_child.py float net.pt2 named.tflite net.tflite
    python -I litert_child.py int8 named.tflite calibration.npy int8.tflite

Nothing of edgewise is imported here; the toolchain does not have it.
"""

import sys

NORMALISATION = r"\.Deployed(;\d+)*;?$"
"""The operations that belong to no layer of the net: they turn pixels into floats, and int8 would only lose there."""


def write_float(program: str, named: str, output: str) -> None:
    """Translate a torch.export program of one uint8 (1, height, width, channels) input.

    `named` keeps the names of the layers, which `write_int8` needs; `output` is the same file without them.
    """
    import litert_torch
    import torch

    exported = torch.export.load(program)
    (example,), _ = exported.example_inputs
    litert_torch.convert(exported.module(), (example,)).export(named)
    shorten(named, output)


def write_int8(floating: str, calibration: str, output: str) -> None:
    """Full-integer layers, int8 activations per tensor and weights per channel; pixels in uint8, logits in float32."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    images = np.load(calibration, allow_pickle=False)
    ((signature, names),) = Interpreter(model_path=floating).get_signature_list().items()
    (name,) = names["inputs"]
    job = quantizer.Quantizer(floating, recipe.static_wi8_ai8())
    keep = algorithm_manager.AlgorithmName.NO_QUANTIZE
    operations = qtyping.TFLOperationName
    for pattern, operation in ((NORMALISATION, operations.ALL_SUPPORTED), (".*", operations.OUTPUT)):
        job.update_quantization_recipe(regex=pattern, operation_name=operation, algorithm_key=keep)
    # `job.calibrate` takes moving averages of the ranges, which cuts off every image that is not average.
    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(job.get_quantization_recipe())
    ranges = calibrator.Calibrator(floating, qsv_update_func=qsv_utils.min_max_update)
    ranges.calibrate({signature: [{name: image[None]} for image in images]}, rules)
    job.quantize(ranges.get_model_qsvs()).export_model(output, overwrite=True)
    shorten(output, output)


def shorten(path: str, output: str) -> None:
    """Number the tensors; in a small file their long names are a quarter of the bytes. The signature is kept."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = f"t{number:x}".encode()
    flatbuffer_utils.write_model(model, output)


if __name__ == "__main__":
    {"float": write_float, "int8": write_int8}[sys.argv[1]](*sys.argv[2:])
