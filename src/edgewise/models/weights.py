"""Weights of others: copied into a module wherever name and shape agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgewise.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Transfer:
    """What `transfer` did: names of tensors copied, and of those of the target that were left as they are."""

    copied: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a log."""
        left = f", left fresh: {', '.join(self.left)}" if self.left else ""
        return f"{len(self.copied)} tensors copied{left}"


def transfer(module: nn.Module, state: Mapping[str, torch.Tensor]) -> Transfer:
    """Copy weights by name into a module, in place, wherever the shapes agree.

    A classifier for another number of classes therefore stays fresh, and is named in the result.

    Raises:
        ConfigError: nothing at all agrees (C42).
    """
    import torch

    own = module.state_dict()
    copied = [name for name, tensor in own.items() if name in state and state[name].shape == tensor.shape]
    if not copied:
        raise ConfigError(
            "none of these weights fits the model", code="C42", fix="use weights of the same architecture"
        )
    with torch.no_grad():
        for name in copied:
            own[name].copy_(state[name])
    return Transfer(tuple(copied), tuple(name for name in own if name not in set(copied)))
