"""Training: one loop for base models, students, fine-tuning and controls."""

from __future__ import annotations

from edgewise.train.loop import Fitted, fit, logits

__all__ = ["Fitted", "fit", "logits"]
