"""Running a net forward over images, and the validation figures of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgewise.data import Split
from edgewise.data.pages import release_pages
from edgewise.measure.accuracy import confusion_matrix, macro_f1
from edgewise.models import Model
from edgewise.train.feed import Pixels

EVAL_BATCH = 256
EVAL_VALUES = 2**21
"""Most input values of a batch that is only run forward: larger batches are no faster and take memory that stays."""


def logits(model: Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's logits, float32 (N, classes), for uint8 (N, height, width, channels), on the CPU in eval mode."""
    return _forward(model.module.eval(), Pixels(model.input, torch.device("cpu")), images).numpy()


def validate(module: torch.nn.Module, pixels: Pixels, split: Split, classes: int) -> dict[str, Any]:
    """The validation figures of an epoch's record; see `edgewise.train.Fitted`."""
    module.eval()
    scores = _forward(module, pixels, split.images)
    labels = torch.from_numpy(split.labels)
    confusion = confusion_matrix(scores.argmax(1).numpy(), split.labels, classes)
    totals = confusion.sum(1)
    recall = np.diag(confusion)[totals > 0] / totals[totals > 0]
    return {
        "val_loss": torch.nn.functional.cross_entropy(scores, labels).item(),
        "val_accuracy": float(np.trace(confusion) / confusion.sum()),
        "val_macro_f1": float(macro_f1(confusion)),
        "val_balanced_accuracy": float(recall.mean()),
        "val_worst_recall": float(recall.min()),
    }


@torch.inference_mode()
def _forward(module: torch.nn.Module, pixels: Pixels, images: NDArray[np.uint8]) -> torch.Tensor:
    size = max(1, min(EVAL_BATCH, EVAL_VALUES // images[0].size))
    scores = []
    for number, start in enumerate(range(0, len(images), size)):
        scores.append(module(pixels(images[start : start + size])).float().cpu())
        if number % 16 == 15:
            release_pages(images)
    return torch.cat(scores)
