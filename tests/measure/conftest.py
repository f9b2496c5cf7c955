"""The room of measuring borrows the tiny bundle of the device room."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))
