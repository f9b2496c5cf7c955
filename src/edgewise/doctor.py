"""What works on this machine, found by trying it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.data.builtin import FASHION_MNIST_DIR
from edgewise.device import RUNTIMES
from edgewise.measure import board, machine
from edgewise.measure.channel import connect
from edgewise.measure.target import parse_target

_HOST = (
    "torch",
    "torchvision",
    "timm",
    "torch_pruning",
    "onnx",
    "onnxscript",
    "safetensors",
    "sklearn",
    "plotly",
    "jinja2",
)
_OPTIONAL = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow-skinny", "mlflow"),
    "wandb": ("wandb", "wandb"),
    "umap": ("umap-learn", "umap"),
    "uvicorn": ("uvicorn", "serve"),
}
"""Module -> (package, extra that brings it). They are looked for and not imported, which takes seconds for some."""
_INSTALL = 'pip install "edgewise[host]"'


def examine() -> dict[str, Any]:
    """Try every part.

    Returns:
        `checks`: list of {name, ok, detail}; `machine`: flat facts; `versions`.
    """
    checks = [_imports(name) for name in _HOST]
    checks += [_optional(name) for name in _OPTIONAL]
    for format_ in RUNTIMES:
        checks += [_runtime(format_), _converter(format_)]
    checks.append(_cuda())
    checks.append(_folder(runs.cache_dir()))
    there = FASHION_MNIST_DIR.is_dir()
    checks.append(
        _check(
            "data fashion-mnist", there, str(FASHION_MNIST_DIR) if there else "apt-get install dataset-fashion-mnist"
        )
    )
    return {"checks": checks, "machine": machine.describe(), "versions": runs.versions()}


def examine_device(url: str, config: Path | None = None, python: str | None = None) -> dict[str, Any]:
    """Look at a device over ssh; nothing on it is changed.

    Args:
        url: ``ssh://user@host:port``.
        config: ssh configuration in place of the user's own.
        python: the interpreter to look at; default: what a bench would use.

    Returns:
        As `examine`.

    Raises:
        ConfigError: C96, not an address.
        UnavailableError: E90 to E98, it cannot be reached or has no Python.
    """
    with connect(parse_target(url, config), python=python) as channel:
        facts = board.examine(channel)
    versions = {
        name: one["version"] for name, one in facts["packages"].items() if isinstance(one, dict) and "version" in one
    }
    return {
        "checks": board.checks(facts),
        "machine": facts["machine"],
        "versions": {"python": facts["python"], **versions},
    }


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _imports(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as problem:  # a broken pair of torch and torchvision raises RuntimeError
        return _check(name, False, f"{problem}; {_INSTALL}")
    return _check(name, True, str(getattr(module, "__version__", "")))


def _optional(name: str) -> dict[str, Any]:
    package, extra = _OPTIONAL[name]
    if importlib.util.find_spec(name) is None:
        return _check(name, False, f'optional; pip install "edgewise[{extra}]"')
    try:
        return _check(name, True, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:  # another package brings the module, as mlflow does
        return _check(name, True, "")


def _runtime(format_: str) -> dict[str, Any]:
    """Whether the runtime is installed and can be imported, which is tried in a child: a build that does not suit the
    CPU kills the process that imports it."""
    runtime, name = RUNTIMES[format_], f"runtime for {format_}"
    version = runtime.version()
    if version is None:
        return _check(name, False, runtime.install)
    mute = "import sys; sys.modules['openvino_telemetry'] = None; "  # see `edgewise.device.openvino`
    command = [sys.executable, "-c", f"{mute}import importlib; importlib.import_module({runtime.module!r})"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return _check(name, False, f"{version} does not come up within 60 s")
    if done.returncode < 0:
        return _check(name, False, f"{version} dies here ({signal.Signals(-done.returncode).name}); {runtime.install}")
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return _check(name, done.returncode == 0, version if done.returncode == 0 else f"{why}; {runtime.install}")


def _converter(format_: str) -> dict[str, Any]:
    name = f"converter to {format_}"
    try:
        from edgewise.export import FORMATS
    except (ImportError, OSError, RuntimeError) as problem:
        return _check(name, False, f"{problem}; {_INSTALL}")
    if format_ not in FORMATS:
        return _check(name, False, "this edgewise has none")
    exporter = FORMATS[format_]
    lacks = {precision: exporter.missing(precision) for precision in exporter.precisions}
    if all(lacks.values()):
        return _check(name, False, exporter.missing())
    told = [precision + (f" ({install})" if install else "") for precision, install in lacks.items()]
    return _check(name, True, ", ".join(told))


def _cuda() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as problem:
        return _check("CUDA", False, str(problem))
    there = torch.cuda.is_available()
    return _check("CUDA", there, torch.cuda.get_device_name() if there else "none; training runs on the CPU")


def _folder(path: Path) -> dict[str, Any]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
    except OSError as problem:
        return _check(
            "cache folder", False, f"{path}: {problem.strerror}; set EDGEWISE_CACHE to a folder you can write"
        )
    return _check("cache folder", True, f"{path}, {free / 2**30:.0f} GiB free")
