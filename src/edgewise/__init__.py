"""edgewise: labelled images in; the smallest, fastest classifier that still meets your accuracy on your device out.

The verbs below are imported when they are first used, so that ``import edgewise`` costs nothing and needs no torch.

>>> import edgewise
>>> recipe = edgewise.load_recipe(path)                            # doctest: +SKIP
>>> result = edgewise.run(recipe, out)                             # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewise.bundle import InputSpec, read_manifest, verify_bundle
    from edgewise.data import load_data
    from edgewise.data.explore import explore
    from edgewise.further import compress_run
    from edgewise.handout import Wanted, export_run
    from edgewise.jobs import Opening
    from edgewise.models import create_model, list_models, open_model, profile, save_model
    from edgewise.models.cost import cost
    from edgewise.models.weights import load_weights
    from edgewise.pipeline import run, train_model
    from edgewise.recipe import Recipe, load_recipe
    from edgewise.report import comparison
    from edgewise.results import read_result

__version__ = "0.1.0"

# onnxruntime 1.32 for Linux writes a device id into ~/.cache/Microsoft and can report to its maker unless this stands
# in the environment before it is imported; its own disable_telemetry_events() comes too late.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

_HOME = {
    "InputSpec": "edgewise.bundle",
    "Opening": "edgewise.jobs",
    "Recipe": "edgewise.recipe",
    "Wanted": "edgewise.handout",
    "comparison": "edgewise.report",
    "compress_run": "edgewise.further",
    "cost": "edgewise.models.cost",
    "create_model": "edgewise.models",
    "explore": "edgewise.data.explore",
    "export_run": "edgewise.handout",
    "list_models": "edgewise.models",
    "load_data": "edgewise.data",
    "load_recipe": "edgewise.recipe",
    "load_weights": "edgewise.models.weights",
    "open_model": "edgewise.models",
    "profile": "edgewise.models",
    "read_manifest": "edgewise.bundle",
    "read_result": "edgewise.results",
    "run": "edgewise.pipeline",
    "save_model": "edgewise.models",
    "train_model": "edgewise.pipeline",
    "verify_bundle": "edgewise.bundle",
}

__all__ = [
    "InputSpec",
    "Opening",
    "Recipe",
    "Wanted",
    "comparison",
    "compress_run",
    "cost",
    "create_model",
    "explore",
    "export_run",
    "list_models",
    "load_data",
    "load_recipe",
    "load_weights",
    "open_model",
    "profile",
    "read_manifest",
    "read_result",
    "run",
    "save_model",
    "train_model",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'edgewise' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
