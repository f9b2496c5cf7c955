"""Our own family of depthwise-separable nets, for models of a few thousand parameters."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from edgewise.architecture import strides_of
from edgewise.bundle import InputSpec
from edgewise.plan import Call


class Separable(nn.Module):
    """Depthwise 3x3, batch norm, ReLU, pointwise 1x1, batch norm, the input added where it has the output's shape, ReLU.

    Depthwise-separable convolution: Howard et al. 2017, MobileNets, arXiv:1704.04861; the shortcut: He et al. 2016,
    arXiv:1512.03385. `channels` inputs and `width` outputs take ``11 x channels + channels x width + 2 x width``
    parameters.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.pointwise = nn.Conv2d(channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.residual = stride == 1 and channels == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, height, width) -> (N, width, height / stride, width / stride), rounded up."""
        y = self.norm2(self.pointwise(self.act1(self.norm1(self.depthwise(x)))))
        made: torch.Tensor = self.act2(y + x if self.residual else y)
        return made


def dscnn(
    *widths: int, strides: tuple[int, ...] = (), dropout: float = 0.0, input: InputSpec, classes: int
) -> nn.Sequential:
    """Conv3x3-BN-ReLU, one `Separable` block for each further width, global average pooling, dropout, linear classifier.

    `dscnn(16, 32, 32, 64)` with 1 channel and 10 classes has 5,546 parameters: 144 + 32 of the first convolution and
    its norm; blocks of 752, 1,440 and 2,528 (see `Separable`); 650 of the classifier. Input (N, channels, height,
    width), output (N, classes).

    Args:
        widths: output channels of the first convolution and of each block.
        strides: 1 or 2 for each width; default: 2 wherever the width grows, 1 elsewhere and for the first.
        dropout: share of the pooled features that is dropped in training.
        input: of which the channels matter.
        classes: number of classes.
    """
    strides = strides_of(Call("dscnn", widths, {"strides": strides}))
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    stem = nn.Conv2d(input.channels, widths[0], 3, strides[0], 1, bias=False)
    blocks["block1"] = nn.Sequential(
        OrderedDict([("conv", stem), ("norm", nn.BatchNorm2d(widths[0])), ("act", nn.ReLU())])
    )
    for number, ((channels, width), stride) in enumerate(zip(pairwise(widths), strides[1:], strict=True), 2):
        blocks[f"block{number}"] = Separable(channels, width, stride)
    blocks["pool"] = nn.AdaptiveAvgPool2d(1)
    blocks["flatten"] = nn.Flatten()
    if dropout:
        blocks["dropout"] = nn.Dropout(dropout)
    blocks["classifier"] = nn.Linear(widths[-1], classes)
    return nn.Sequential(blocks)
