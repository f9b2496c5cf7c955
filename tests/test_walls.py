"""The walls between rooms: the device ring runs without torch, and a question is answered without anything heavy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RING = [
    "ranks",
    "errors",
    "results",
    "judge",
    "archive",
    "bundle",
    "recipe",
    "plan",
    "keys",
    "written",
    "architecture",
    "registered",
    "runs",
    "progress",
    "device",
    "measure",
    "report",
    "live",
    "serve",
]
HOST_ONLY = ("torch", "torchvision", "timm", "torch_pruning", "sklearn", "onnx", "safetensors")

BLOCKER = f"""
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HOST_ONLY!r}:
            raise ImportError(f"{{name}} is behind the wall")
sys.meta_path.insert(0, Wall())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def ring_modules() -> list[str]:
    source = ROOT / "src/edgewise"
    found = []
    for room in RING:
        files = [source / f"{room}.py"] if (source / f"{room}.py").exists() else sorted((source / room).glob("*.py"))
        found += [".".join(file.relative_to(source.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in found]


def test_the_device_ring_imports_with_torch_blocked() -> None:
    modules = ring_modules()
    assert len(modules) > 15
    done = python(BLOCKER + "import importlib\nfor name in " + repr(modules) + ": importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_the_wall_of_this_test_holds() -> None:
    assert "behind the wall" in python(BLOCKER + "import torch").stderr


def loaded_by(argv: list[str]) -> tuple[int, set[str]]:
    """Exit code and loaded modules of the command line with these words."""
    code = textwrap.dedent(f"""
        import sys
        sys.argv = ["edgewise", *{argv!r}]
        from edgewise.cli import main
        try:
            main()
        except SystemExit as left:
            print("LOADED", left.code, *sys.modules)
    """)
    line = next(line for line in python(code).stdout.splitlines() if line.startswith("LOADED"))
    _, exit_code, *modules = line.split()
    return int(exit_code), set(modules)


HEAVY = {"torch", "torchvision", "timm", "sklearn", "onnx", "onnxruntime", "plotly", "numpy", "PIL"}


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["run", "--ephocs", "3"], 2),
        (["runn"], 2),
        (["run"], 2),
        (["run", "--data", "x", "--set", "train.epohcs=3"], 2),
        (["recipe"], 0),
        (["data", "explore", "--help"], 0),
        (["data", "explore", "x", "--modell", "y"], 2),
        (["toolchain", "install", "--help"], 0),
        (["compress", "--help"], 0),
        (["compress"], 2),
        (["compress", "x", "--plann", "prune"], 2),
        (["compress", "x", "--plan", "prne(0.5)"], 2),
        (["live", "--help"], 0),
        (["live", "x", "--evry", "3"], 2),
    ],
)
def test_help_and_usage_errors_load_nothing_heavy(argv: list[str], code: int) -> None:
    exit_code, modules = loaded_by(argv)
    assert exit_code == code
    assert not modules & HEAVY


@pytest.mark.parametrize("plan", ["prne(0.5)", "prune(ration=0.5)"])
def test_a_mistyped_plan_is_told_without_torch(plan: str) -> None:
    exit_code, modules = loaded_by(["run", "--data", "x", "--plan", plan])
    assert exit_code == 2
    assert "torch" not in modules


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--data", "x", "--epochs", "3", "--seed", "1", "--set", "train.epohcs=3", "--set", "goal.mn=0.5"],
        ["train", "x", "--set", "train.loss.nam=focal"],
        ["data", "check", "x", "--set", "data.check.blury=0.2"],
        ["run", "--data", "x", "--plan", "prune(0.5) > dstill"],
        ["run", "--data", "x", "--model", "resnet999"],
        ["train", "x", "--model", "convnet(8, dropuot=0.1)"],
        ["profile", "convnet(8)", "timm/resnet999"],
        ["data", "explore", "x", "--model", "truncate(resnet999, layer1)"],
    ],
)
def test_mistyped_keys_techniques_and_models_are_told_without_pydantic_or_torch(argv: list[str]) -> None:
    exit_code, modules = loaded_by(argv)
    assert exit_code == 2
    assert not modules & {*HEAVY, "pydantic"}


def test_importing_edgewise_loads_nothing_heavy_and_every_verb_resolves() -> None:
    code = f"""
import sys, edgewise
assert not set(sys.modules) & {HEAVY!r}
assert all(callable(getattr(edgewise, name)) for name in edgewise.__all__)
assert sorted(edgewise._HOME) == edgewise.__all__ == sorted(edgewise.__all__)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_device_room_loads_numpy_only() -> None:
    code = """
import sys
import edgewise.device, edgewise.device.preprocess, edgewise.device.runner, edgewise.device.check
heavy = {"PIL", "onnxruntime", "pydantic", "yaml", "rich", "typer", "torch", "plotly"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "numpy" in sys.modules
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_live_room_loads_opencv_gstreamer_and_runtimes_only_when_they_are_used() -> None:
    modules = [name for name in ring_modules() if name.startswith("edgewise.live")]
    code = f"""
import importlib, sys
for name in {modules!r}: importlib.import_module(name)
heavy = {{"cv2", "gi", "onnxruntime", "picamera2", "pydantic", "torch", "openvino"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    assert len(modules) > 15
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_onnxruntime_sends_no_usage_data(tmp_path: Path) -> None:
    """Its official builds leave a session file in the temporary folder when they do."""
    code = "import os, sys, tempfile{}; import onnxruntime; print(os.listdir(tempfile.gettempdir()))"
    told = []
    for first in ("", ", edgewise"):
        temporary = tmp_path / f"tmp{first}"
        temporary.mkdir()
        environment = {key: text for key, text in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
        done = subprocess.run(
            [sys.executable, "-c", code.format(first)],
            capture_output=True,
            text=True,
            check=True,
            env={**environment, "TMPDIR": str(temporary)},
        )
        told.append(done.stdout.strip())
    assert told[1] == "[]", f"without edgewise it was {told[0]}"
