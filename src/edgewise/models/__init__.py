"""The models room: making classifiers by name, counting them, changing their structure, and keeping them on disk.

Importing this room imports no torch; the first call that builds or opens a model does.
"""

from __future__ import annotations

from edgewise.models.base import Edit, Model
from edgewise.models.create import create_model, default_input, list_models, profile, rebuild, with_width
from edgewise.models.libraries import ModelEntry
from edgewise.models.store import open_model, save_model

__all__ = [
    "Edit",
    "Model",
    "ModelEntry",
    "create_model",
    "default_input",
    "list_models",
    "open_model",
    "profile",
    "rebuild",
    "save_model",
    "with_width",
]
