"""A model's folder on disk.

::

    config.json         timm's keys: architecture, num_classes, input_size [channels, height, width], mean, std,
                        interpolation, label_names; and fit, format_version, sha256 of the other two files
    structure.json      the structural edits since `create_model`, in order
    model.safetensors   every parameter and buffer under its name

Nothing here is ever unpickled: opening a folder runs no code that came with it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
from pydantic import Field

from edgewise.bundle import InputSpec
from edgewise.errors import ConfigError, UntrustedError
from edgewise.models.base import Model
from edgewise.models.create import create_model
from edgewise.recipe import Strict
from edgewise.runs import write_atomic, write_json

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMAT_VERSION: Literal[1] = 1
CONFIG, STRUCTURE, WEIGHTS = "config.json", "structure.json", "model.safetensors"

_Side = Annotated[int, Field(ge=1, le=65_536)]


class _Config(Strict):
    """The contents of `config.json`."""

    format_version: Literal[1]
    architecture: Annotated[str, Field(max_length=10_000)]
    num_classes: int
    input_size: tuple[Literal[1, 3], _Side, _Side]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    fit: Literal["squash", "crop", "pad"]
    label_names: Annotated[tuple[str, ...], Field(min_length=2)]
    sha256: dict[str, str]

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> _Config:
        if self.num_classes != len(self.label_names):
            raise ValueError(f"{self.num_classes} classes but {len(self.label_names)} label names")
        if set(self.sha256) != {STRUCTURE, WEIGHTS}:
            raise ValueError(f"sha256 names {STRUCTURE} and {WEIGHTS}")
        self.input()
        return self

    def input(self) -> InputSpec:
        channels, height, width = self.input_size
        return InputSpec(height, width, channels, self.fit, self.interpolation, self.mean, self.std)


def save_model(model: Model, folder: Path) -> None:
    """Write a model's folder; `open_model` gives back a model with bit-identical outputs.

    Each file appears whole or not at all, `config.json` last. It holds the hashes of the others, so that after a crash
    in the middle of replacing an older model the folder is refused rather than read as a mixture.
    """
    import safetensors.torch

    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.module.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    structure = json.dumps(model.structure, indent=1) + "\n"
    config = _Config(
        format_version=FORMAT_VERSION,
        architecture=model.architecture,
        num_classes=model.num_classes,
        input_size=(model.input.channels, model.input.height, model.input.width),
        mean=model.input.mean,
        std=model.input.std,
        interpolation=model.input.interpolation,
        fit=model.input.fit,
        label_names=model.labels,
        sha256={STRUCTURE: _sha256(structure.encode()), WEIGHTS: _sha256(weights)},
    )
    write_atomic(folder / WEIGHTS, lambda path: path.write_bytes(weights))
    write_atomic(folder / STRUCTURE, lambda path: path.write_bytes(structure.encode()))
    write_json(folder / CONFIG, config.model_dump(mode="json"))


def open_model(folder: Path) -> Model:
    """Rebuild a model from its folder, in eval mode.

    Raises:
        UntrustedError: not a model folder, or one of another format version (U10); a file that is not as it was
            written (U11); a structure that does not fit the architecture (U12); weights that do not fit (U13).
    """
    config = _read_config(folder)
    structure, weights = (_read_hashed(folder / name, config.sha256[name]) for name in (STRUCTURE, WEIGHTS))
    edits = _read_structure(folder / STRUCTURE, structure)
    from edgewise.models import surgery

    try:
        fresh = create_model(config.architecture, labels=config.label_names, input=config.input())
        module = surgery.apply(fresh.module, edits)
    except ConfigError as problem:
        raise UntrustedError(
            "the recorded architecture cannot be built",
            code="U12",
            where={"folder": folder, **problem.where},
            why=f"{problem.what}; {problem.why}".rstrip("; "),
            fix="open it with the versions it was made with, or make the model again",
        ) from problem
    _load(module, weights, folder / WEIGHTS)
    return Model(module.eval(), config.architecture, config.input(), config.label_names, edits)


def _read_config(folder: Path) -> _Config:
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return _Config.model_validate(raw)
    except pydantic.ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        why = f"{key}: {first['msg']}" if key else first["msg"]
        raise _not_a_model(folder, why.replace("Value error, ", "")) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise _not_a_model(folder, str(problem)) from problem


def _not_a_model(folder: Path, why: str) -> UntrustedError:
    return UntrustedError(
        "not a model folder of this edgewise",
        code="U10",
        where={"folder": folder, "file": CONFIG},
        why=why,
        fix="give the folder that holds config.json, e.g. RUN/model/NAME",
    )


def _read_hashed(path: Path, expected: str) -> bytes:
    """The bytes of a file, read once, so that what was checked is what is used."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        why = problem.strerror or str(problem)
    else:
        if _sha256(data) == expected:
            return data
        why = "its sha256 is not the one in config.json"
    raise UntrustedError(
        "a file of the model is missing or not as it was written",
        code="U11",
        where={"file": path},
        why=why,
        fix="copy the folder again, or make the model again",
    )


def _read_structure(path: Path, data: bytes) -> tuple[dict[str, Any], ...]:
    try:
        edits = json.loads(data)
    except (ValueError, RecursionError) as problem:
        raise _not_edits(path, str(problem)) from problem
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise _not_edits(path, "it is not a list of edits")
    return tuple(edits)


def _not_edits(path: Path, why: str) -> UntrustedError:
    return UntrustedError(
        "the recorded structure cannot be read", code="U12", where={"file": path}, why=why, fix="make the model again"
    )


def _load(module: nn.Module, data: bytes, path: Path) -> None:
    import safetensors
    import safetensors.torch
    import torch

    try:
        state = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as problem:
        raise _misfit(path, str(problem)) from problem
    own = module.state_dict()
    problems = [f"{name}: missing" for name in own if name not in state]
    problems += [f"{name}: not part of this structure" for name in state if name not in own]
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape or own[name].dtype != state[name].dtype:
            problems.append(f"{name}: {_kind(state[name])} in the file, {_kind(own[name])} in the structure")
    if problems:
        raise _misfit(path, "\n".join(sorted(problems)[:10]))
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _misfit(path: Path, why: str) -> UntrustedError:
    return UntrustedError(
        "the weights do not fit the recorded structure",
        code="U13",
        where={"file": path},
        why=why,
        fix="copy the folder again, or make the model again",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
