"""Losses. A loss is called with the logits of a batch and the batch; it returns a scalar to minimise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Batch:
    """What a loss may look at.

    images: float32 (N, channels, height, width), normalised. labels: int64 (N,). rows: int64 (N,), where the images
    stand in the training split.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor | None = None


class Loss(Protocol):
    """A differentiable criterion."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch; `logits` is float32 (N, classes)."""
        ...


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean cross entropy."""
    return F.cross_entropy(logits, batch.labels)


class DistillationLoss:
    """``(1 - alpha) * CE + alpha * tau^2 * KL(teacher_tau || student_tau)``.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015), arXiv:1503.02531. ``x_tau`` is the
    softmax of logits / tau; tau^2 keeps the size of the soft gradients when tau changes.

    The teacher's logits are given for the whole training split at once: it looks at each image once, not once an epoch.

    Args:
        teacher_logits: float32 (training images, classes).
        alpha: weight of the soft part, 0..1.
        tau: temperature, > 0.
    """

    def __init__(self, teacher_logits: torch.Tensor, alpha: float, tau: float) -> None:
        self.alpha = alpha
        self.tau = tau
        self._soft = F.log_softmax(teacher_logits.detach() / tau, dim=1)
        self.reset()

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch; adds its two parts to the running means."""
        self._soft = self._soft.to(logits.device)
        soft = self._soft[batch.rows]
        hard_part = F.cross_entropy(logits, batch.labels)
        soft_part = self.tau**2 * F.kl_div(
            F.log_softmax(logits / self.tau, dim=1), soft, reduction="batchmean", log_target=True
        )
        self._hard_sum += hard_part.item() * len(batch.labels)
        self._soft_sum += soft_part.item() * len(batch.labels)
        self._count += len(batch.labels)
        return (1 - self.alpha) * hard_part + self.alpha * soft_part

    @property
    def parts(self) -> dict[str, float]:
        """Running means since the last reset: `hard` (cross entropy) and `soft` (tau^2 * KL), unweighted."""
        count = max(self._count, 1)
        return {"hard": self._hard_sum / count, "soft": self._soft_sum / count}

    def reset(self) -> None:
        """Begin the running means anew."""
        self._hard_sum = self._soft_sum = 0.0
        self._count = 0
