"""Bundles on an ARM processor under qemu-user: what they decide, never how fast. `make arm64`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.export.elsewhere import GOLDEN, Shelf, make_shelf, program

ROOT = Path(os.environ.get("EDGEWISE_RUNTIMES", sys.prefix)) / "arm64"
SCRIPT = Path(__file__).parents[2] / "scripts/arm64.sh"
PROCESSORS = ["cortex-a72", "cortex-a76"]
"""A Raspberry Pi 4's, and a 5's, which multiplies 8-bit integers in fours as VNNI does on x86."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return make_shelf(tmp_path_factory.mktemp("arm") / "shelf")


def run(processor: str, *words: str) -> subprocess.CompletedProcess[str]:
    assert ROOT.exists(), f"{ROOT} is missing: `make arm64` makes it (scripts/arm64.sh)"
    command = ["sh", str(SCRIPT), "run", str(ROOT), *words]
    environment = {**os.environ, "CPU": processor}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_file_decides_as_it_does_here(shelf: Shelf, processor: str) -> None:
    inside = ROOT / "work" / f"shelf-{os.getpid()}-{processor}"
    shutil.copytree(shelf.folder, inside)
    shutil.copyfile(GOLDEN, inside / "golden.npz")
    try:
        done = run(processor, "-c", program(f"/work/{inside.name}/golden.npz"), *shelf.words(f"/work/{inside.name}"))
    finally:
        shutil.rmtree(inside)
    assert done.returncode == 0, done.stderr
    there = shelf.read(done.stdout)
    np.testing.assert_array_equal(there["fp32"], shelf.decisions["fp32"])
    for name, here in shelf.decisions.items():
        same = int((there[name] == here).sum())
        print(f"{processor} {name}: {same} of {len(here)} decisions as on this x86")
        assert same >= 0.98 * len(here), (name, same)


def test_it_is_an_arm_processor_with_the_same_runtime() -> None:
    import onnxruntime

    code = "import platform, onnxruntime, numpy; print(platform.machine(), onnxruntime.__version__, numpy.__version__)"
    done = run("cortex-a72", "-c", code)
    assert done.stdout.split() == ["aarch64", onnxruntime.__version__, np.__version__], done.stderr


def test_another_processor_is_refused() -> None:
    done = run("pentium", "-c", "pass")
    assert (done.returncode, "CPU is cortex-a72 or cortex-a76" in done.stderr) == (2, True)
