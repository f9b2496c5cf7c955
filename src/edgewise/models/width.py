"""The same family with more or fewer channels: how a written name is scaled, and how a library's net is built so.

Our own families have their widths in their name. Some families of timm and torchvision bring a multiplier of their own
(Howard et al. 2017, MobileNets, arXiv:1704.04861), with their own rules for the channels that are rounded (to multiples
of 8, of 4 in GhostNet) or stay. timm offers it only under the ready-made names, so that the functions behind these are
called here; a test holds each against a ready-made net.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edgewise.architecture import OWN, strides_of
from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, nearest
from edgewise.models import libraries
from edgewise.plan import Call

if TYPE_CHECKING:
    from torch import nn

LEAST, MOST = 0.1, 2.0
"""Range of a multiplier."""


@dataclass(frozen=True)
class _Family:
    """How timm builds a net: a function of one of its modules, the multiplier it passes there, and the rest."""

    module: str
    function: str
    own: float = 1.0
    key: str = "channel_multiplier"
    more: dict[str, Any] = field(default_factory=dict)


def _several(names: str, sizes: dict[str, float], module: str, function: str, **more: Any) -> dict[str, _Family]:
    key = more.pop("key", "channel_multiplier")
    return {names.format(size): _Family(module, function, own, key, more) for size, own in sizes.items()}


_MOBILE_V4 = ("conv_small", "conv_medium", "conv_large", "hybrid_medium")
_TINY = {"a": (1.0, 1.2), "b": (0.75, 1.1), "c": (0.54, 0.85), "d": (0.54, 0.695), "e": (0.51, 0.6)}
FAMILIES: dict[str, _Family] = {
    **_several("mobilenetv1_{}", {"100": 1.0, "125": 1.25}, "efficientnet", "_gen_mobilenet_v1"),
    **_several(
        "mobilenetv2_{}",
        {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "140": 1.4},
        "efficientnet",
        "_gen_mobilenet_v2",
    ),
    "mobilenetv2_120d": _Family(
        "efficientnet", "_gen_mobilenet_v2", 1.2, more={"depth_multiplier": 1.4, "fix_stem_head": True}
    ),
    **_several("mobilenetv3_small_{}", {"050": 0.5, "075": 0.75, "100": 1.0}, "mobilenetv3", "_gen_mobilenet_v3"),
    **_several("mobilenetv3_large_{}", {"075": 0.75, "100": 1.0}, "mobilenetv3", "_gen_mobilenet_v3"),
    **_several("mobilenetv4_{}", dict.fromkeys(_MOBILE_V4, 1.0), "mobilenetv3", "_gen_mobilenet_v4"),
    **_several("lcnet_{}", {"035": 0.35, "050": 0.5, "075": 0.75, "100": 1.0, "150": 1.5}, "mobilenetv3", "_gen_lcnet"),
    "mixnet_s": _Family("efficientnet", "_gen_mixnet_s"),
    "mixnet_m": _Family("efficientnet", "_gen_mixnet_m"),
    "mixnet_l": _Family("efficientnet", "_gen_mixnet_m", 1.3),
    "mnasnet_100": _Family("efficientnet", "_gen_mnasnet_b1"),
    "efficientnet_b0": _Family("efficientnet", "_gen_efficientnet"),
    "efficientnet_lite0": _Family("efficientnet", "_gen_efficientnet_lite"),
    **{
        f"tinynet_{size}": _Family("efficientnet", "_gen_tinynet", own, "model_width", {"depth_multiplier": depth})
        for size, (own, depth) in _TINY.items()
    },
    **_several("ghostnet_{}", {"050": 0.5, "100": 1.0, "130": 1.3}, "ghostnet", "_create_ghostnet", key="width"),
    **_several(
        "repghostnet_{}",
        {"050": 0.5, "058": 0.58, "080": 0.8, "100": 1.0, "111": 1.11, "130": 1.3, "150": 1.5, "200": 2.0},
        "repghost",
        "_create_repghostnet",
        key="width",
    ),
}
"""timm nets with a width multiplier, by name."""

TORCHVISION = {"mobilenet_v2": "width_mult"}
"""torchvision nets with a width multiplier, and what it is called there."""


def scaled(call: Call, alpha: float, unit: int) -> Call | None:
    """The name of a net with its channels multiplied, or None when the family has no multiplier.

    Args:
        call: the name as `create_model` reads it.
        alpha: what the channels are multiplied with.
        unit: the multiple that widths of our own families are rounded to.
    """
    if call.name in OWN:
        more = dict(call.kwargs)
        if call.name == "flatnet":
            more["hidden"] = scaled_width(more.get("hidden", 128), alpha, unit)
        if call.name == "dscnn":  # rounded widths may grow elsewhere, and the strides would with them
            more["strides"] = strides_of(call)
        return Call(call.name, tuple(scaled_width(width, alpha, unit) for width in call.args), more)
    if call.name == "width":
        name, own = arguments(call)
        return Call("width", (name, float(Fraction(str(own)) * Fraction(str(alpha)))))
    return Call("width", (call.name, alpha)) if not (call.args or call.kwargs) and _known(call.name) else None


def scaled_width(width: int, alpha: float, unit: int) -> int:
    """The multiple of `unit` nearest to width x alpha, ties down, at least one; never past `width` the wrong way.

    >>> [scaled_width(width, 0.5, 8) for width in (32, 64, 24, 4)], scaled_width(32, 1.4, 8)
    ([16, 32, 8, 4], 48)
    """
    exact = width * Fraction(str(alpha))
    rounded = max(1, math.ceil(exact / unit - Fraction(1, 2))) * unit
    return min(width, rounded) if alpha <= 1 else max(width, rounded)


def arguments(call: Call) -> tuple[str, float]:
    """The net and the multiplier of a written ``width(NAME, ALPHA)``.

    Raises:
        ConfigError: it is not written so, or the net has no multiplier (C41).
    """
    name, alpha = call.args if len(call.args) == 2 and not call.kwargs else (None, None)
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not isinstance(name, str) or not isinstance(alpha, int | float) or not number or not LEAST <= alpha <= MOST:
        raise ConfigError(
            f"width takes a model and a multiplier from {LEAST} to {MOST:g}",
            code="C41",
            where={"model": call},
            fix="write it like width(mobilenetv3_small_100, 0.75)",
        )
    if not _known(name):
        raise ConfigError(
            f'"{name}" has no width multiplier',
            code="C41",
            where={"model": call},
            why=nearest(name, [*FAMILIES, *TORCHVISION]),
            fix=f"write the widths of {', '.join(OWN)} out; for other nets the plan width(ALPHA) shrinks them",
        )
    return name, float(alpha)


def build(call: Call, input: InputSpec, classes: int) -> nn.Module:
    """Make a written ``width(NAME, ALPHA)``; weights are drawn from torch's generator in its present state.

    Raises:
        ConfigError: as `arguments`.
    """
    name, alpha = arguments(call)
    library, bare = libraries.find(name)
    if library == "torchvision":
        return libraries.build(library, bare, input, classes, False, {TORCHVISION[bare]: alpha})
    family = FAMILIES[bare]
    make = getattr(importlib.import_module(f"timm.models.{family.module}"), family.function)
    multiplier = float(Fraction(str(family.own)) * Fraction(str(alpha)))
    made: nn.Module = make(
        bare, **{family.key: multiplier}, **family.more, num_classes=classes, in_chans=input.channels
    )
    return made


def _known(name: str) -> bool:
    library, bare = libraries.find(name)
    return bare in (FAMILIES if library == "timm" else TORCHVISION)
