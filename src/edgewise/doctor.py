"""What works on this machine, found by trying it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.data.builtin import FASHION_MNIST_DIR
from edgewise.device import RUNTIMES
from edgewise.measure import machine

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
    checks += [_runtime(format_) for format_ in RUNTIMES]
    checks.append(_cuda())
    checks.append(_folder(runs.cache_dir()))
    there = FASHION_MNIST_DIR.is_dir()
    checks.append(
        _check(
            "data fashion-mnist", there, str(FASHION_MNIST_DIR) if there else "apt-get install dataset-fashion-mnist"
        )
    )
    return {"checks": checks, "machine": machine.describe(), "versions": runs.versions()}


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
    version = RUNTIMES[format_].version()
    return _check(f"runtime for {format_}", version is not None, version or "pip install onnxruntime")


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
