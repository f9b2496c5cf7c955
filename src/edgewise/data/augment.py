"""Random changes of training images, a whole batch at once; this module loads torch, `edgewise.data` does not.

What is drawn is drawn per image with numpy; the pixels are worked on in pieces of a few images that stay in the CPU's
cache. The order: placing (`geometry`), colour, blur and noise (`colour`), policy (`policies`), blanking and mixing
(`mixing`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.bundle import InputSpec
from edgewise.data.colour import Noise, blur, draw_colours, draw_sigmas, recolour
from edgewise.data.geometry import draw_placement, lookup, move, resamples, warp
from edgewise.data.mixing import cutmix, cutout, erase, mixup, one_hot
from edgewise.data.policies import Policy
from edgewise.errors import ConfigError
from edgewise.recipe import AugmentOptions

MINORITY = 0.5
"""With `classes: minority`, classes with less than this share of the largest class's training images are changed."""
PIECE = 2**18
"""About how many values of a batch are worked on at a time."""


class Augment:
    """Changes batches of training images as a recipe says; all randomness comes from the generator of the call.

    Holds no state that a call changes: it may be called from several threads at once.

    Args:
        options: what to change, and how much.
        spec: the pixels of the images.
        train_labels: int64 (N,), all labels of the training split.
        classes: number of classes.

    Raises:
        ConfigError: only minority classes are to be changed, and there are none (C70).
    """

    def __init__(self, options: AugmentOptions, spec: InputSpec, train_labels: NDArray[np.int64], classes: int) -> None:
        self.options = options
        self.classes = classes
        counts = np.bincount(train_labels, minlength=classes)
        self._eligible = counts < MINORITY * counts.max() if options.classes == "minority" else np.ones(classes, bool)
        if options.active and not self._eligible.any():
            raise ConfigError(
                "no class is small enough to be augmented",
                code="C70",
                where={"key": "augment.classes"},
                why=f"the smallest class has {counts.min()} training images, the largest {counts.max()}; "
                "minority means less than half",
                fix="set augment.classes to all",
            )
        self._side = min(spec.height, spec.width)
        self._fill = np.rint(255 * np.array(spec.mean)).clip(0, 255).astype(np.uint8)
        self._noise = Noise(spec.height * spec.width * spec.channels) if options.strength("noise") else None
        self._policy = Policy(options.policy) if options.policy != "none" else None

    @property
    def changed(self) -> tuple[int, ...]:
        """The classes whose images are changed."""
        return tuple(np.flatnonzero(self._eligible).tolist()) if self.options.active else ()

    def __call__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Change a batch; the given images are left as they are.

        Args:
            images: uint8 (N, height, width, channels), 0..255, one or three channels.
            labels: int64 (N,).
            random: the only source of randomness; equal states give equal results.

        Returns:
            Images of the same shape, and float32 (N, classes) shares that add up to 1 where the options mix images,
            else None. When nothing is to be changed, the images are those that were given.
        """
        targets = one_hot(labels, self.classes) if self.options.mixes else None
        rows = np.flatnonzero(self._eligible[labels])
        if not self.options.active or not len(rows):
            return images, targets
        if len(rows) == len(images):
            return self._change(images, targets, random)
        changed, shares = self._change(images[rows], None if targets is None else targets[rows], random)
        result = images.copy()
        result[rows] = changed
        if targets is not None and shares is not None:
            targets[rows] = shares
        return result, targets

    def _change(
        self, images: NDArray[np.uint8], targets: NDArray[np.float32] | None, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        options = self.options
        result = self._repaint(images, random)
        if self._policy:
            result = self._policy(result, random)
        if options.cutout or options.erase:
            result = result.copy() if result is images else result
            cutout(result, options.cutout, self._fill, random)
            erase(result, options.erase, random)
        if targets is None:
            return result, None
        both = options.mixup > 0 and options.cutmix > 0
        if options.cutmix == 0 or (both and random.random() < 0.5):
            return mixup(result, targets, options.mixup, random)
        return cutmix(result, targets, options.cutmix, random)

    def _repaint(self, images: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Placing, colour, blur and noise; in floats only when whole numbers do not do."""
        options = self.options
        count, height, width, channels = images.shape
        placement = draw_placement(options, height, width, count, random)
        colours = draw_colours(options, channels, count, random)
        sigmas = draw_sigmas(options.strength("blur") * self._side, count, random)
        grain = self._noise.draw(options.strength("noise"), count, random) if self._noise else None
        warps = resamples(options)
        recolours = any(options.strength(key) for key in ("hue", "saturation", "brightness", "contrast"))
        positions = lookup(placement, height, width)
        placed = images if warps else move(images, placement)
        if not (warps or recolours or self._noise or sigmas.any()):
            return placed
        result = np.empty_like(images)
        step = max(1, PIECE // (height * width * channels))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            planes = _planes(placed[rows], contiguous=not warps)
            if warps:
                planes = warp(planes, positions, rows)
            if recolours:
                planes = recolour(planes, colours, rows)
            blur(planes, sigmas[rows])
            if self._noise and grain:
                self._noise.add(planes, grain[0][rows], grain[1][rows])
            _store(planes, result[rows])
        return result


def _planes(images: NDArray[np.uint8], *, contiguous: bool) -> torch.Tensor:
    """Float32 (n, channels, height, width), contiguous or in the memory order of `images`, which is quicker."""
    pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format if contiguous else torch.preserve_format)


def _store(planes: torch.Tensor, target: NDArray[np.uint8]) -> None:
    """Round to uint8 and write to (n, height, width, channels); changes the planes."""
    planes.add_(0.5).clamp_(0, 255)
    pixels = torch.from_numpy(target)
    for channel in range(planes.shape[1]):
        pixels[..., channel].copy_(planes[:, channel])
