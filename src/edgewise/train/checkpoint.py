"""Checkpoints: tensors and a few facts in one safetensors file, whole or not at all. No pickle.

The file before the newest one is kept as ``NAME.previous.safetensors``. A digest of the tensors is among the facts, so
that a flipped bit is noticed too (safetensors itself checks the layout only).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from edgewise.errors import UntrustedError
from edgewise.runs import write_bytes

Tensors = dict[str, torch.Tensor]


def save_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-able `facts`; a crash leaves the old file or the new one, and the one before it.

    Raises:
        UnavailableError: E03, the disk is full or read-only; the old file is still there.
    """
    # .contiguous() because channels_last weights cannot be stored; .clone() because shared storage cannot either.
    stored = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(stored, metadata={"facts": json.dumps(facts), "sha256": _digest(stored)})
    write_bytes(path, data, keep=previous_of(path))


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and facts of a checkpoint.

    Raises:
        UntrustedError: U05, the file is damaged, or was not written by `save_checkpoint`.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            words = stored.metadata() or {}
            facts: dict[str, Any] = json.loads(words["facts"])
            if words["sha256"] != _digest(tensors):
                raise ValueError("its tensors are not those that were written")
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise _unusable(path, str(problem).splitlines()[0] if str(problem) else type(problem).__name__) from problem
    return tensors, facts


def load_newest(path: Path) -> tuple[Tensors, dict[str, Any], str] | None:
    """A checkpoint, or the one before it when the newest is damaged; None when there is neither.

    Returns:
        Tensors, facts, and a sentence about what had to be passed over ("" when nothing had).

    Raises:
        UntrustedError: U05, there are files, and none of them can be used.
    """
    passed: UntrustedError | None = None
    for candidate in (path, previous_of(path)):
        if not candidate.exists():
            continue
        try:
            tensors, facts = load_checkpoint(candidate)
        except UntrustedError as problem:
            passed = passed or problem
            continue
        note = f"{passed.where['file']} is damaged ({passed.why}); going on from the one before it" if passed else ""
        return tensors, facts, note
    if passed:
        raise passed
    return None


def load_weights(module: torch.nn.Module, tensors: Tensors, path: Path) -> None:
    """Put a checkpoint's weights into a module of the same structure, in place.

    Raises:
        UntrustedError: U05, it belongs to another structure.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as problem:
        raise _unusable(path, " ".join(str(problem).split())) from problem


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the newest one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def remove_checkpoints(path: Path) -> None:
    """Forget a checkpoint and the one before it."""
    for file in (path, previous_of(path)):
        file.unlink(missing_ok=True)


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unusable(path: Path, why: str) -> UntrustedError:
    return UntrustedError(
        "cannot use this checkpoint",
        code="U05",
        where={"file": path},
        why=why,
        fix="remove it to train from the start again, or begin a new run",
    )
