"""Classifiers of timm and torchvision, by name, with any number of classes and 1 or 3 input channels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from edgewise.architecture import split_library, unknown_model
from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, UnavailableError
from edgewise.models import route

if TYPE_CHECKING:
    from torch import nn

Library = Literal["timm", "torchvision"]

_AUXILIARY = ("googlenet", "inception_v3")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelEntry:
    """A name that `create_model` takes, and where it comes from."""

    name: str
    family: Literal["convnet", "timm", "torchvision"]


def names() -> list[ModelEntry]:
    """Every classifier of both libraries, under the name that selects it."""
    timm_names = _timm_names()
    shared = set(timm_names)
    return [ModelEntry(name, "timm") for name in timm_names] + [
        ModelEntry(f"torchvision/{name}" if name in shared else name, "torchvision") for name in _torchvision_names()
    ]


def find(name: str) -> tuple[Library, str]:
    """The library that has `name`; a leading `timm.` or `torchvision.` forces one.

    Raises:
        ConfigError: neither has it (C40); the nearest names are offered.
    """
    forced, bare, arch = split_library(name)
    tag = bare.partition(".")[2]
    if forced != "torchvision" and arch in _timm_names() and (not tag or _timm_config(bare) is not None):
        return "timm", bare
    if forced != "timm" and bare in _torchvision_names():
        return "torchvision", bare
    raise unknown_model(name, _timm_names(), _torchvision_names())


def build(library: Library, name: str, input: InputSpec, classes: int, pretrained: bool) -> nn.Module:
    """Make the module; weights are drawn from torch's generator in its present state.

    Raises:
        ConfigError: there are no pretrained weights for it (C42).
        UnavailableError: they cannot be fetched (E20).
    """
    if library == "timm":
        return _build_timm(name, input, classes, pretrained)
    return _build_torchvision(name, input, classes, pretrained)


def made_for(library: Library, name: str) -> InputSpec:
    """The input of the pretrained weights: size, channel statistics and interpolation."""
    if library == "timm":
        config = _timm_config(name)
        if config is None:
            return InputSpec(224, 224)
        channels, height, width = config.input_size
        return InputSpec(
            height,
            width,
            channels,
            interpolation=_interpolation(config.interpolation),
            mean=tuple(config.mean),
            std=tuple(config.std),
        )
    import torchvision

    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    (side,) = preset.crop_size
    return InputSpec(
        side,
        side,
        interpolation=_interpolation(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _interpolation(name: str) -> Literal["nearest", "bilinear", "bicubic"]:
    """Ours for a library's; Lanczos is nearest to bicubic, and a random choice is taken at its middle."""
    table: dict[str, Literal["nearest", "bilinear", "bicubic"]] = {
        "nearest": "nearest",
        "bicubic": "bicubic",
        "lanczos": "bicubic",
    }
    return table.get(name, "bilinear")


@cache
def _timm_names() -> tuple[str, ...]:
    import timm

    return tuple(timm.list_models())


@cache
def _torchvision_names() -> tuple[str, ...]:
    import torchvision

    return tuple(torchvision.models.list_models(module=torchvision.models))


def _timm_config(name: str) -> Any:
    """What timm knows of a name's pretrained weights; None when it knows nothing, as for an unknown tag."""
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None


def _build_timm(name: str, input: InputSpec, classes: int, pretrained: bool) -> nn.Module:
    import timm

    config = _timm_config(name)
    if pretrained and not (config and config.has_weights):
        raise _nothing_pretrained("timm", name)
    options: dict[str, Any] = {"num_classes": classes, "in_chans": input.channels, "pretrained": pretrained}
    if config and config.fixed_input_size:
        options["img_size"] = (input.height, input.width)
    if pretrained and config:
        kept = _kept_by_hub(config)
        if kept:
            options["pretrained_cfg_overlay"] = {"file": kept}
        else:
            route.require(_hub_address(config), f"timm/{name}")
    try:
        try:
            # A branch that starts at zero may be folded away by a converter, and cannot be ranked by weight.
            module: nn.Module = timm.create_model(name, zero_init_last=False, **options)
        except TypeError as problem:
            if "zero_init_last" not in str(problem):
                raise
            module = timm.create_model(name, **options)
    except (OSError, RuntimeError) as problem:
        if not pretrained:
            raise
        raise _cannot_fetch("timm", name, problem) from problem
    return module


def _build_torchvision(name: str, input: InputSpec, classes: int, pretrained: bool) -> nn.Module:
    import torchvision

    from edgewise.models.weights import transfer

    options: dict[str, Any] = {"num_classes": classes}
    if name in _AUXILIARY:
        # Their pretrained weights expect another normalisation, which the net itself applies to RGB images.
        options.update(aux_logits=False, init_weights=False, transform_input=input.channels == 3)
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    if pretrained:
        weights = torchvision.models.get_model_weights(name).DEFAULT
        if not _kept_by_torch(weights.url):
            route.require(weights.url, f"torchvision/{name}")
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as problem:
            raise _cannot_fetch("torchvision", name, problem) from problem
        _log.info("%s: %s", name, transfer(module, state))
    return _gray(module) if input.channels == 1 else module


def _gray(module: nn.Module) -> nn.Module:
    """Replace the first convolution by one for gray images; its weights are those for R, G and B added up."""
    import torch
    from torch import nn

    conv = next(layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 3)
    conv.in_channels = 1
    with torch.no_grad():
        conv.weight = nn.Parameter(conv.weight.sum(dim=1, keepdim=True))
    return module


def _kept_by_hub(config: Any) -> str | None:
    """Where huggingface keeps the weights of a timm model on this machine, or None. Asks no network."""
    if not config.hf_hub_id or config.custom_load or config.hf_hub_filename:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = config.hf_hub_id.partition("@")
    found = try_to_load_from_cache(repository, "model.safetensors", revision=revision or None)
    return found if isinstance(found, str) else None


def _hub_address(config: Any) -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT if config.hf_hub_id else str(config.url)


def _kept_by_torch(url: str) -> bool:
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(url).name).is_file()


def _nothing_pretrained(library: str, name: str) -> ConfigError:
    return ConfigError(
        f"{library} has no pretrained weights for {name}",
        code="C42",
        where={"model": name},
        fix="set pretrained to false, or choose another model; see `edgewise models`",
    )


def _cannot_fetch(library: str, name: str, problem: Exception) -> UnavailableError:
    return route.unreachable(f"{library}/{name}", (str(problem).splitlines() or [type(problem).__name__])[0])
