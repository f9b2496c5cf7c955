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
    """Depthwise 3x3, pointwise 1x1, batch norm, the input added where it has the output's shape, ReLU.

    Without norm and activation between the two convolutions, as in Xception (Chollet 2017, arXiv:1610.02357), where
    that trained faster and ended better; a training step is a third faster on a CPU too, where norms and activations
    take most of the time of so small a net. The shortcut: He et al. 2016, arXiv:1512.03385. `channels` inputs and
    `width` outputs take ``9 x channels + channels x width + 2 x width`` parameters.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.residual = stride == 1 and channels == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, height, width) -> (N, width, height / stride, width / stride), rounded up."""
        y = self.norm(self.pointwise(self.depthwise(x)))
        made: torch.Tensor = self.act(y + x if self.residual else y)
        return made


def dscnn(
    *widths: int, strides: tuple[int, ...] = (), dropout: float = 0.0, input: InputSpec, classes: int
) -> nn.Sequential:
    """Conv3x3-BN-ReLU, a `Separable` block for each further width, global average pooling, dropout, linear classifier.

    `dscnn(16, 32, 32, 64)` with 1 channel and 10 classes has 5,386 parameters: 144 + 32 of the first convolution and
    its norm; blocks of 720, 1,376 and 2,464 (see `Separable`); 650 of the classifier. Input (N, channels, height,
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
