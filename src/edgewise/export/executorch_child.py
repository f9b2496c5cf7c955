"""Run as a process of its own, never imported by edgewise: torch.export file in, .pte file out.

python -I executorch_child.py net.pt2 net.pte [calibration.npy]
"""

import sys
from pathlib import Path


def convert(program: str, output: str, calibration: str = "") -> None:
    """Lower a torch.export program of one uint8 (1, height, width, channels) input to XNNPACK.

    With calibration images it is quantized before: int8, activations per tensor, weights per channel, symmetric.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.load(program)
    if calibration:
        exported = quantized(exported, calibration)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    with Path(output).open("wb") as stream:
        lowered.write_to_file(stream)


def quantized(exported, calibration: str):  # type: ignore[no-untyped-def]
    """The program with quantize and dequantize operations, ranges from the images."""
    import numpy as np
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = torch.from_numpy(np.load(calibration, allow_pickle=False))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(exported.module(), quantizer)
    with torch.no_grad():
        for image in images:
            prepared(image[None])
    return torch.export.export(convert_pt2e(prepared), (images[:1],))


if __name__ == "__main__":
    convert(*sys.argv[1:])
