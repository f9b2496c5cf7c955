"""What a model is: a torch module, and all that makes the same module again without pickle."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgewise.bundle import InputSpec

if TYPE_CHECKING:
    from torch import nn

Edit = dict[str, Any]
"""One structural change as plain JSON data; `edgewise.models.surgery.EDITS` applies them."""


@dataclass(frozen=True, eq=False)
class Model:
    """A classifier and all that rebuilds it without pickle.

    module: takes float32 (N, channels, height, width) normalised images, returns float32 (N, classes) logits; it is
        in eval mode.
    architecture: the name `create_model` takes.
    input: the image it was made for.
    labels: one per logit, in order.
    structure: the structural changes since `create_model`, in order.
    """

    module: nn.Module
    architecture: str
    input: InputSpec
    labels: tuple[str, ...]
    structure: tuple[Edit, ...] = ()

    @property
    def num_classes(self) -> int:
        """The number of labels, which is the number of logits."""
        return len(self.labels)

    def copy(self) -> Model:
        """The same model with a module and a structure of its own."""
        return dataclasses.replace(
            self, module=copy.deepcopy(self.module), structure=tuple(copy.deepcopy(edit) for edit in self.structure)
        )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's generators at `seed` inside the block, as they were after it."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
