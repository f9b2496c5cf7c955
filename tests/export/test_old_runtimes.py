"""Bundles decide the same under the oldest runtimes that they promise to run under. `make old-runtime`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.elsewhere import GOLDEN, Shelf, make_shelf, program

LISTED = Path(os.environ.get("EDGEWISE_RUNTIMES", sys.prefix)) / "old/environments.json"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return make_shelf(tmp_path_factory.mktemp("old") / "shelf")


def environments() -> list[dict[str, Any]]:
    assert LISTED.exists(), f"{LISTED} is missing: `make old-runtime` makes it (scripts/old_runtimes.py)"
    listed: list[dict[str, Any]] = json.loads(LISTED.read_text())
    return listed


def run(environment: dict[str, Any], shelf: Shelf, *, pillow: bool) -> dict[str, Any]:
    """Versions and decisions of an old runtime."""
    path = environment["site"] + (":" + environment["pillow"] if pillow else "")
    hide = "" if pillow else "import sys\nsys.modules['PIL'] = None\n"
    code = hide + program(str(GOLDEN))
    done = subprocess.run(
        [environment["python"], "-c", code, *shelf.words(str(shelf.folder))],
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    versions = next(json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"versions"'))
    return {**versions, "decisions": shelf.read(done.stdout)}


TOO_NEW = {("1.10.0", "s8s8-qop")}
"""(onnxruntime, scheme) that do not open: QGemm of signed activations came later."""


@pytest.mark.slow
@pytest.mark.parametrize("pillow", [False, True], ids=["alone", "pillow"])
def test_every_file_decides_as_it_does_here(shelf: Shelf, pillow: bool) -> None:
    assert (
        np.mean(shelf.decisions["fp32"] == shelf.labels) > 0.6
    )  # decisions worth comparing: no guesses, and not all easy
    for environment in environments():
        old = environment["onnxruntime"]
        readable = shelf.only([name for name in shelf.names if (old, name) not in TOO_NEW])
        answer = run(environment, readable, pillow=pillow)
        assert answer["versions"]["onnxruntime"] == old
        assert (answer["versions"]["Pillow"] is not None) == pillow
        for name, there in answer["decisions"].items():
            same = int((there == shelf.decisions[name]).sum())
            print(f"{environment['name']} {name}: {same} of {len(there)} decisions as with the current runtime")
            assert same >= len(there) * (1.0 if name == "fp32" else 0.99), (environment["name"], name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("bench", "--runs", "3"), '"clock": "model"'),
        (("verify",), '"unchanged": true'),
        (("probe", "--runs", "2"), '"peak_rss_bytes"'),
        (("tensorrt", "NEW"), '"type": "float32"'),
        (("camera", "--help"), "usage: runner.py camera [SOURCE]"),
    ],
)
def test_every_command_is_of_the_old_python(shelf: Shelf, words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """A command's part of the file is compiled by the Python that is there."""
    for environment in environments():
        new = str(tmp_path / f"{environment['name']}.onnx")
        given = [new if word == "NEW" else word for word in words]
        done = subprocess.run(
            [environment["python"], shelf.folder / "fp32/runner.py", *given],
            env={"PYTHONPATH": environment["site"], "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (environment["name"], done.stderr)
        assert told in done.stdout, environment["name"]


def test_the_oldest_promised_runtime_is_tried_where_there_is_an_old_python() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        import old_runtimes
    finally:
        sys.path.pop(0)
    names = [environment["name"] for environment in environments()]
    own = "{}.{}".format(*sys.version_info[:2])
    wanted = {f"python{own}-onnxruntime{old_runtimes.OLDEST[own]}"}
    older = old_runtimes.floor_python()
    if older is not None:
        wanted.add(f"python{older[0]}-onnxruntime1.10.0")
    assert set(names) == wanted
