"""Nothing of ours lets onnxruntime write a device id or reach out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import make_bundle


@pytest.mark.slow
@pytest.mark.parametrize("what", ["runner", "verify"])
def test_the_home_folder_stays_empty_and_no_socket_is_opened(what: str, tmp_path: Path) -> None:
    """Without the variable onnxruntime 1.32 makes ~/.cache/Microsoft/DeveloperTools/.onnxruntime in either case."""
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    bundle = make_bundle(tmp_path / "made")
    np.save(tmp_path / "p.npy", np.zeros((9, 9, 3), np.uint8))
    words = [str(bundle / "runner.py"), "classify", str(tmp_path / "p.npy")]
    if what == "verify":
        words = ["-m", "edgewise", "verify", str(bundle)]
    environment = {
        key: value for key, value in os.environ.items() if key not in {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"}
    }
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=connect,socket", "-o", str(trace), sys.executable, *words],
        env={**environment, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert not [line for line in trace.read_text().splitlines() if "connect(" in line or "socket(" in line]
