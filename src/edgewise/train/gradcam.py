"""Grad-CAM: which parts of an image speak for a class (Selvaraju et al., ICCV 2017, arXiv:1610.02391).

The map is taken at the last layer that still tells places apart. It is found by looking at what the layers return, not
at their names, so that plain nets, library nets and pruned ones are treated alike.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgewise.models import Model
from edgewise.runs import cache_dir
from edgewise.train.feed import Pixels

COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=np.float64)
"""From cold to hot, RGB: five points of matplotlib's inferno."""

OPACITY = 0.7
"""How much of the hottest place is colour and not image."""


@dataclass(frozen=True)
class Target:
    """The layer that Grad-CAM looks at; `name` is None where there is none, and `note` says its size or why."""

    name: str | None
    note: str


def find_target(model: Model) -> Target:
    """The layer that ends last among those whose output is a map of places.

    A net is run once. From its end, layers that return one value a channel (pooled, flattened, classified) are passed
    over; the first that returns more is the last that tells places apart. It is the target when it returns
    (N, channels, height, width) in the proportions of the input. When it returns anything else, such as the tokens of a
    transformer, there is no map to draw, and an earlier one would not show what the net decides by. Layers that run
    more than once for an image are passed over, too.
    """
    ended: list[tuple[str, Any]] = []
    names = {module: name for name, module in model.module.named_modules() if name}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: ended.append((name, output)))
        for module, name in names.items()
    ]
    blank = np.zeros((1, *model.input.shape), dtype=np.uint8)
    try:
        with torch.no_grad():
            model.module.eval()(Pixels(model.input, _device(model.module))(blank))
    finally:
        for hook in hooks:
            hook.remove()
    order = [name for name, _ in ended]
    for name, output in reversed(ended):
        if not isinstance(output, torch.Tensor) or not _has_places(output) or order.count(name) > 1:
            continue
        if _is_map(output, model.input.height, model.input.width):
            return Target(name, f"{output.shape[2]} x {output.shape[3]} places, {output.shape[1]} channels")
        shape = " x ".join(str(size) for size in output.shape[1:])
        return Target(None, f'its last layer with places, "{name}", returns {shape} and not channels x height x width')
    return Target(None, "no layer of it returns a map of places")


def heat_maps(model: Model, layer: str, images: NDArray[np.uint8], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """What speaks for a class in each image.

    Args:
        model: in eval mode.
        layer: the name `find_target` gave.
        images: uint8 (N, height, width, channels).
        targets: int64 (N,), the class of each image that is asked about.

    Returns:
        float64 (N, height, width) in 0..1: the positive part of the class's map, scaled up bilinearly and divided by
        its largest value; all 0 where nothing speaks for the class.
    """
    captum = _captum()
    module = model.module.eval()
    pixels = Pixels(model.input, _device(module))(images).requires_grad_()
    asked = torch.from_numpy(targets).to(pixels.device)
    with torch.enable_grad():
        found = captum.LayerGradCam(module, module.get_submodule(layer)).attribute(
            pixels, target=asked, relu_attributions=True
        )
    scaled = captum.LayerAttribution.interpolate(found.detach(), images.shape[1:3], "bilinear")
    maps: NDArray[np.float64] = scaled[:, 0].cpu().numpy().astype(np.float64)
    largest = maps.max(axis=(1, 2), keepdims=True)
    relative: NDArray[np.float64] = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
    return relative


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An image with the heat laid over it: the hotter, the less of the image is seen.

    Args:
        image: uint8 (height, width, channels), RGB or gray.
        heat: float64 (height, width) in 0..1.

    Returns:
        uint8 (height, width, 3).
    """
    steps = np.linspace(0, 1, len(COLOURS))
    colours = np.stack([np.interp(heat, steps, column) for column in COLOURS.T], axis=-1)
    share = OPACITY * heat[..., None]
    return (np.broadcast_to(image, colours.shape) * (1 - share) + colours * share).round().astype(np.uint8)


def _has_places(output: torch.Tensor) -> bool:
    """Whether an output holds more than one value a channel, wherever its channels stand."""
    return output.dim() > 2 and output.numel() > output.shape[0] * max(output.shape[1:])


def _is_map(output: torch.Tensor, height: int, width: int) -> bool:
    """Whether an output is (N, channels, rows, columns) with rows : columns as in the input, up to a place."""
    return output.dim() == 4 and abs(output.shape[2] * width / height - output.shape[3]) < 1


def _captum() -> Any:
    """`captum.attr`. It imports matplotlib, whose font cache is to go to our cache folder, not to the home folder."""
    before = os.environ.get("MPLCONFIGDIR")
    os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))
    try:
        return importlib.import_module("captum.attr")
    finally:
        if before is None:
            del os.environ["MPLCONFIGDIR"]


def _device(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
