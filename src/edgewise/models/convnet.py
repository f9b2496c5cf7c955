"""Our own two families of plain convolutional nets, whose parameters can be worked out by hand; how all are built."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from edgewise.architecture import check_arguments
from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError
from edgewise.models.dscnn import dscnn
from edgewise.plan import Call


def convnet(*widths: int, dropout: float = 0.0, input: InputSpec, classes: int) -> nn.Sequential:
    """Conv3x3-BN-ReLU blocks with MaxPool2 between them, global average pooling, dropout and a linear classifier.

    `convnet(32, 64, 128, dropout=0.2)` with 3 channels and 2 classes has 93,954 parameters, and 165,150,976 MACs at
    128 x 128. Input (N, channels, height, width), output (N, classes).
    """
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    channels: int = input.channels
    for number, width in enumerate(widths, 1):
        block = [
            ("conv", nn.Conv2d(channels, width, 3, padding=1)),
            ("norm", nn.BatchNorm2d(width)),
            ("act", nn.ReLU()),
        ]
        if number < len(widths):
            block.append(("pool", nn.MaxPool2d(2)))
        blocks[f"block{number}"] = nn.Sequential(OrderedDict(block))
        channels = width
    blocks["pool"] = nn.AdaptiveAvgPool2d(1)
    blocks["flatten"] = nn.Flatten()
    if dropout:
        blocks["dropout"] = nn.Dropout(dropout)
    blocks["classifier"] = nn.Linear(channels, classes)
    return nn.Sequential(blocks)


def flatnet(*widths: int, hidden: int = 128, dropout: float = 0.0, input: InputSpec, classes: int) -> nn.Sequential:
    """Conv3x3-ReLU-BN-MaxPool2 blocks, flattened into a hidden linear layer, dropout and a linear classifier.

    `flatnet(16, 32, 48, hidden=128, dropout=0.3)` at 48 x 48 flattens 48 x 6 x 6 values into 128. Height and width must
    be multiples of 2 to the number of blocks. Input (N, channels, height, width), output (N, classes).

    Raises:
        ConfigError: the input cannot be halved that often (C43).
    """
    step = 2 ** len(widths)
    if input.height % step or input.width % step:
        raise ConfigError(
            f"{len(widths)} poolings need height and width to be multiples of {step}",
            code="C43",
            where={"input": f"{input.height} x {input.width}"},
            fix=f"set data.size to {max(step, round(input.height / step) * step)}, or write fewer widths",
        )
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    channels: int = input.channels
    for number, width in enumerate(widths, 1):
        block = [
            ("conv", nn.Conv2d(channels, width, 3, padding=1)),
            ("act", nn.ReLU()),
            ("norm", nn.BatchNorm2d(width)),
            ("pool", nn.MaxPool2d(2)),
        ]
        blocks[f"block{number}"] = nn.Sequential(OrderedDict(block))
        channels = width
    blocks["flatten"] = nn.Flatten()
    blocks["hidden"] = nn.Linear(channels * (input.height // step) * (input.width // step), hidden)
    blocks["act"] = nn.ReLU()
    if dropout:
        blocks["dropout"] = nn.Dropout(dropout)
    blocks["classifier"] = nn.Linear(hidden, classes)
    return nn.Sequential(blocks)


FAMILIES: dict[str, Callable[..., nn.Sequential]] = {"convnet": convnet, "flatnet": flatnet, "dscnn": dscnn}
"""Name in a recipe -> what builds it; `edgewise.architecture.OWN` has their arguments."""


def build(call: Call, input: InputSpec, classes: int) -> nn.Sequential:
    """Check the written arguments and build.

    Raises:
        ConfigError: widths or named arguments that make no sense (C41), or an input that does not fit (C43).
    """
    check_arguments(call)
    return FAMILIES[call.name](*call.args, **call.kwargs, input=input, classes=classes)
