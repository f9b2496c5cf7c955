"""Losses. A loss is called with the logits of a batch and the batch; it returns a scalar to minimise.

Every loss takes hard labels (`Batch.labels`) or, where images were mixed, soft ones (`Batch.targets`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edgewise.data.sampling import class_weights
from edgewise.recipe import LossOptions
from edgewise.train.soft import Soft, hinton, similarity

Teacher = Callable[[torch.Tensor], torch.Tensor]
"""From images as in `Batch.images` to float32 (N, classes) logits on the same device, features behind them or not."""


@dataclass(frozen=True)
class Batch:
    """What a loss may look at.

    images: float32 (N, channels, height, width), normalised. labels: int64 (N,). rows: int64 (N,), where the images
    stand in the training split. targets: float32 (N, classes), shares of the classes that add up to 1, where images
    were mixed; None stands for the labels. features: what the net's classifier was given for this batch, where the
    loss has `wants_features`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor | None = None
    features: torch.Tensor | None = None


class Loss(Protocol):
    """A differentiable criterion."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch; `logits` is float32 (N, classes)."""
        ...


def make_loss(options: LossOptions, train_labels: NDArray[np.int64], classes: int) -> Loss:
    """The loss that a recipe asks for.

    Args:
        options: which, and its parameters.
        train_labels: int64 (N,), all labels of the training split; class weights are taken from them.
        classes: number of classes.
    """
    weights = None
    if options.class_weights == "balanced":
        weights = torch.from_numpy(class_weights(train_labels, classes))
    if options.name == "f1":
        return soft_f1
    gamma = options.gamma if options.name == "focal" else 0.0
    entropy = Entropy(gamma=gamma, smoothing=options.smoothing, weights=weights)
    return MixedF1(entropy, options.f1_weight) if options.name == "ce+f1" else entropy


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean cross entropy with the labels, or with the shares of mixed ones."""
    return F.cross_entropy(logits, batch.labels if batch.targets is None else batch.targets)


class Entropy:
    """Cross entropy and focal loss, smoothed and weighted: the mean of ``-sum_c w_c t_c (1 - p_c)^gamma log p_c``.

    Focal loss: Lin et al. 2017, arXiv:1708.02002; gamma 0 is cross entropy. Label smoothing: Szegedy et al. 2015,
    arXiv:1512.00567. A soft target is a sum over its classes, each focal on its own probability. Weights divide by the
    weight of the unsmoothed targets in the batch, as torch does for hard labels.

    Args:
        gamma: how much less the images count that are classified well already, >= 0.
        smoothing: share of each target that is spread evenly over all classes, 0..1.
        weights: float32 (classes,); None for equal ones.
    """

    def __init__(self, *, gamma: float = 0.0, smoothing: float = 0.0, weights: torch.Tensor | None = None) -> None:
        self._gamma = gamma
        self._smoothing = smoothing
        self._weights = weights

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch."""
        if self._gamma == 0 and batch.targets is None:
            weights = None if self._weights is None else self._weights.to(logits)
            return F.cross_entropy(logits, batch.labels, weights, label_smoothing=self._smoothing)
        targets = _targets(logits, batch)
        weights = torch.ones_like(logits[0]) if self._weights is None else self._weights.to(logits)
        smoothed = targets * (1 - self._smoothing) + self._smoothing / targets.shape[1]
        log_p = F.log_softmax(logits, dim=1)
        # 1 - p, kept off 0, where the power has no finite slope for gamma below 1.
        doubt = (1 - log_p.exp()).clamp_min(torch.finfo(logits.dtype).eps)
        terms = smoothed * weights * log_p * (doubt**self._gamma if self._gamma else 1)
        return -terms.sum() / (targets * weights).sum()


def soft_f1(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """One minus the macro F1 of the batch, with probabilities in place of decisions, so that it has a slope.

    ``F1_c = 2 sum(p_c t_c) / (sum(p_c) + sum(t_c))``, its mean over the classes that occur in the batch; for
    probabilities of 0 and 1 it is the ordinary macro F1 over these classes. Soft targets count with their shares. The
    form is that of the soft Dice loss (Milletari et al. 2016, arXiv:1606.04797) and of sigmoidF1 (Bénédict et al. 2021,
    arXiv:2108.10566), over softmax. It is as noisy as the F1 of one batch: take batches with several images per class.
    """
    targets = _targets(logits, batch)
    p = logits.softmax(1)
    present = targets.sum(0) > 0
    f1 = 2 * (p * targets).sum(0) / (p.sum(0) + targets.sum(0))
    return 1 - f1[present].mean()


class Running:
    """Means of the parts of a loss over the images seen since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin the means anew."""
        self._sums: dict[str, float] = {}
        self._count = 0

    def state(self) -> dict[str, float]:
        """What `restore` needs to go on with the means, as plain JSON data."""
        return {**self._sums, "count": self._count}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from a `state`; from an empty one, anew."""
        self._sums = {name: value for name, value in state.items() if name != "count"}
        self._count = int(state.get("count", 0))

    def _add(self, images: int, **parts: torch.Tensor) -> None:
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.item() * images
        self._count += images

    def _mean(self, name: str) -> float:
        return self._sums.get(name, 0.0) / max(self._count, 1)


class MixedF1(Running):
    """``(1 - f1_weight) * entropy + f1_weight * soft_f1``.

    Args:
        entropy: the other part.
        f1_weight: weight of `soft_f1`, 0..1.
    """

    def __init__(self, entropy: Loss, f1_weight: float) -> None:
        super().__init__()
        self._entropy = entropy
        self._f1_weight = f1_weight

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch; adds its two parts to the running means."""
        entropy, f1 = self._entropy(logits, batch), soft_f1(logits, batch)
        self._add(len(logits), ce=entropy, f1=f1)
        return (1 - self._f1_weight) * entropy + self._f1_weight * f1

    @property
    def parts(self) -> dict[str, float]:
        """Running means since the last reset: `ce` and `f1` (one minus F1), unweighted."""
        return {name: self._mean(name) for name in ("ce", "f1")}


class DistillationLoss(Running):
    """``(1 - alpha) * CE + alpha * soft + similarity_weight * similarity``.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015), arXiv:1503.02531, where `soft` is
    ``tau^2 * KL(teacher_tau || student_tau)`` and ``x_tau`` the softmax of logits / tau; tau^2 keeps the size of the
    soft gradients when tau changes. Other ways to compare the answers are in `edgewise.train.soft`. CE is taken with
    the soft targets where images were mixed.

    Args:
        teacher: float32 (training images, classes), its logits for the whole training split: it looks at each image
            once, not once an epoch, which is right only while images are not changed. Or a function that is asked
            about each batch, in inference mode, and sees the changed images that the student sees (Beyer et al. 2021,
            arXiv:2106.05237, find that it must). With a `similarity_weight` its features follow as further columns.
        alpha: weight of the soft part, 0..1.
        tau: temperature, > 0.
        soft: how the answers are compared; None for Hinton's way with `tau`.
        similarity_weight: weight of `edgewise.train.soft.similarity` of the features, which comes on top.
    """

    def __init__(
        self,
        teacher: torch.Tensor | Teacher,
        alpha: float,
        tau: float,
        soft: Soft | None = None,
        similarity_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.tau = tau
        self.wants_features = similarity_weight > 0
        self._similarity_weight = similarity_weight
        self._soft = partial(hinton, tau=tau) if soft is None else soft
        self._teacher = teacher.detach() if isinstance(teacher, torch.Tensor) else teacher

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch; adds its parts to the running means."""
        answers = self._answers(logits, batch)
        classes = logits.shape[1]
        truth = batch.labels if batch.targets is None else batch.targets.argmax(1)
        parts = {"hard": cross_entropy(logits, batch), "soft": self._soft(logits, answers[:, :classes], truth)}
        loss = (1 - self.alpha) * parts["hard"] + self.alpha * parts["soft"]
        if batch.features is not None and self.wants_features:
            parts["similarity"] = similarity(batch.features.float(), answers[:, classes:])
            loss = loss + self._similarity_weight * parts["similarity"]
        self._add(len(logits), **parts)
        return loss

    @property
    def parts(self) -> dict[str, float]:
        """Running means since the last reset, unweighted: `hard` (cross entropy), `soft`, and `similarity` if it has a
        weight."""
        names = ("hard", "soft", "similarity") if self.wants_features else ("hard", "soft")
        return {name: self._mean(name) for name in names}

    def _answers(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        if isinstance(self._teacher, torch.Tensor):
            self._teacher = self._teacher.to(logits.device)
            return self._teacher[batch.rows]
        with torch.inference_mode():
            answers = self._teacher(batch.images)
        return answers.clone()  # a tensor of inference mode cannot be kept for the backward pass


def _targets(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The shares of the classes, (N, classes), in the type of the logits."""
    if batch.targets is not None:
        return batch.targets.to(logits)
    return F.one_hot(batch.labels, logits.shape[1]).to(logits)
