"""The formats that the tests write and run."""

from __future__ import annotations

import os

from edgewise.export import FORMATS

TESTED = tuple(name for name in FORMATS if name != "executorch" or os.environ.get("EDGEWISE_TEST_EXECUTORCH"))
"""All but ExecuTorch, whose conversions take up to a minute each: `make executorch` installs and tests it."""
