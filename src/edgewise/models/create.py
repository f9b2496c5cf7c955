"""Making a model from its written name.

A name is one of::

    convnet(32, 64, 128, dropout=0.2)           our plain net; see `edgewise.models.convnet`
    flatnet(16, 32, 48, hidden=128, dropout=0.3) our net with a hidden linear layer; same file
    dscnn(16, 32, 32, 64)                       our depthwise-separable net; see `edgewise.models.dscnn`
    mobilenetv3_small_050                        a timm classifier, else a torchvision one of that name
    torchvision/resnet18, timm/resnet18          the one of that library
    truncate(shufflenet_v2_x0_5, stage3)         any of the above, cut after a part, with a new classifier
"""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgewise.architecture import OWN, format_architecture, parse_architecture, truncation
from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError
from edgewise.models import libraries, width
from edgewise.models.base import Model, seeded
from edgewise.models.libraries import ModelEntry
from edgewise.models.marks import structural
from edgewise.plan import Call

if TYPE_CHECKING:
    from torch import nn

OWN_EXAMPLES = (
    ModelEntry("convnet(32, 64, 128, dropout=0.2)", "convnet"),
    ModelEntry("flatnet(16, 32, 48, hidden=128, dropout=0.3)", "convnet"),
    ModelEntry("dscnn(16, 32, 32, 64)", "convnet"),
)
"""Our own families by example; any widths can be written."""


def create_model(
    architecture: str, *, labels: Sequence[str], input: InputSpec, pretrained: bool = False, seed: int = 0
) -> Model:
    """Make a classifier by name, in eval mode.

    Args:
        architecture: see the top of this file.
        labels: the class names, at least two.
        input: the image it will take; 1 or 3 channels.
        pretrained: start from the library's weights wherever the shapes agree (needs the network the first time).
        seed: of the weights; the random state of the process is left as it was.

    Raises:
        ConfigError: unknown name (C40), wrong arguments or labels (C41), nothing pretrained to be had (C42), an input
            the net cannot take (C43), a net that cannot be cut there (C44).
        UnavailableError: the pretrained weights cannot be fetched (E20).
    """
    if len(labels) < 2:
        raise ConfigError(
            f"a classifier needs at least two classes, not {len(labels)}",
            code="C41",
            where={"model": architecture},
            fix="give a folder for every class",
        )
    call = parse_architecture(architecture)
    with seeded(seed):
        module = _build(call, input, len(labels), pretrained).eval()
    _check_forward(module, call, input, len(labels))
    return Model(module, format_architecture(call), input, tuple(labels))


def rebuild(model: Model, seed: int) -> Model:
    """The same architecture and structural changes with fresh weights: the from-scratch control of a compressed model.

    What was made of the weights themselves (few values, zeros) is not made again.

    A layer that was resized draws its weights as the full layer does, scaled by sqrt(old fan-in / new fan-in), so that
    the variance of its outputs is that of the full net; with our own families this is exactly the initialisation a
    net of those widths gets.
    """
    from edgewise.models import surgery

    fresh = create_model(model.architecture, labels=model.labels, input=model.input, seed=seed)
    structure = structural(model.structure)
    with seeded(seed):
        module = surgery.apply(fresh.module, structure)
    return dataclasses.replace(fresh, module=module.eval(), structure=copy.deepcopy(structure))


def default_input(architecture: str) -> InputSpec | None:
    """The image a timm or torchvision model was made for (size, mean, std, interpolation); None for our own families.

    Raises:
        ConfigError: unknown name (C40).
    """
    call = parse_architecture(architecture)
    if call.name == "truncate":
        return default_input(truncation(call)[0])
    if call.name == "width":
        return default_input(width.arguments(call)[0])
    if call.name in OWN:
        return None
    return libraries.made_for(*libraries.find(call.name))


def list_models(pattern: str = "") -> list[ModelEntry]:
    """All model names, or those with `pattern` in them; with `*`, `?` or `[` in it, it is matched against whole names.

    A torchvision model that has a namesake in timm is listed as `torchvision/NAME`.
    """
    entries = [*OWN_EXAMPLES, *libraries.names()]
    if any(sign in pattern for sign in "*?["):
        return [entry for entry in entries if fnmatch.fnmatchcase(entry.name, pattern)]
    return [entry for entry in entries if pattern in entry.name]


def profile(architecture: str, *, classes: int, size: int, channels: int = 3) -> dict[str, Any]:
    """The counts of an untrained model by name, as one flat row of a table.

    Raises:
        ConfigError: as `create_model`.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels is 1 or 3, not {channels}")
    half = (0.5,) * channels
    input = InputSpec(size, size, 1 if channels == 1 else 3, mean=half, std=half)
    model = create_model(architecture, labels=[f"class {index}" for index in range(classes)], input=input)
    from edgewise.models.cost import cost

    counted = cost(model.module, input)
    return {
        "model": model.architecture,
        "params_total": counted.params_total,
        "params_nonzero": counted.params_nonzero,
        "params_zero": counted.params_zero,
        "macs": counted.macs,
        "flops": counted.flops,
        "size_bytes": counted.size_bytes,
    }


def with_width(architecture: str, alpha: float, unit: int) -> str | None:
    """The name of the same family with its channels multiplied; None when it has no multiplier of its own.

    Raises:
        ConfigError: the multiplier is out of range (C41).
    """
    call = width.scaled(parse_architecture(architecture), alpha, unit)
    return None if call is None else format_architecture(call)


def _build(call: Call, input: InputSpec, classes: int, pretrained: bool) -> nn.Module:
    if call.name == "truncate":
        from edgewise.models import surgery

        inner, after = truncation(call)
        whole = _build(parse_architecture(inner), input, classes, pretrained).eval()
        return surgery.truncate(whole, after, (input.channels, input.height, input.width), classes)
    if pretrained and (call.name in OWN or call.name == "width"):
        raise ConfigError(
            "there are no pretrained weights for this family",
            code="C42",
            where={"model": format_architecture(call)},
            fix="train it from scratch, or take a timm or torchvision model; see `edgewise models`",
        )
    if call.name == "width":
        return width.build(call, input, classes)
    if call.name in OWN:
        from edgewise.models.convnet import build

        return build(call, input, classes)
    library, name = libraries.find(call.name)
    if call.args or call.kwargs:
        raise ConfigError("library models take no arguments", code="C41", where={"model": format_architecture(call)})
    return libraries.build(library, name, input, classes, pretrained)


def _check_forward(module: nn.Module, call: Call, input: InputSpec, classes: int) -> None:
    """One forward pass, so that a size that does not fit is told now and not in the first epoch."""
    from edgewise.models.cost import dry_run

    try:
        shape = dry_run(module, input)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as problem:
        made_for = default_input(format_architecture(call))
        raise ConfigError(
            f"this model cannot take {input.height} x {input.width} images of {input.channels} channel(s)",
            code="C43",
            where={"model": format_architecture(call)},
            why=(str(problem).splitlines() or [type(problem).__name__])[0],
            fix=f"set data.size to {made_for.height}" if made_for else "choose another data.size",
        ) from problem
    if shape != (1, classes):
        raise ConfigError(
            f"this model returns {shape} for one image instead of {(1, classes)}",
            code="C43",
            where={"model": format_architecture(call)},
            why="it is not a classifier with one logit per class",
            fix="choose another model; see `edgewise models`",
        )
