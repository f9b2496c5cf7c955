"""What a model file says of itself."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewise.models import Model


def facts_of(model: Model, format_: str, precision: str) -> dict[str, Any]:
    """The facts that `edgewise.device.seal` writes at the end of a file: format, precision, input and labels."""
    return {
        "format": format_,
        "precision": precision,
        "input": dataclasses.asdict(model.input),
        "labels": list(model.labels),
    }
