"""The published table of system 3: half of its rows, as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PUBLISHED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "stitching_table.json").read_text(encoding="utf-8")
)

TRAINING_MODE = {
    "mobilenetv1_100",
    "mobilenetv2_050",
    "mobilenetv2_100",
    "mobilenetv2_120d",
    "mobilenetv3_large_100",
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
}
"""Rows whose published operations were counted with batch norm in training mode."""
