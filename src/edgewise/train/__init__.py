"""Training: one loop for base models, students, fine-tuning and controls."""

from __future__ import annotations

from edgewise.train.evaluate import logits
from edgewise.train.loop import fit
from edgewise.train.trainer import Fitted, Setup
from edgewise.train.world import World

__all__ = ["Fitted", "Setup", "World", "fit", "logits"]
