"""Checkpoints: weights and a few facts in one safetensors file, written atomically. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgewise.errors import UntrustedError
from edgewise.runs import write_atomic


def save_checkpoint(path: Path, module: torch.nn.Module, facts: dict[str, Any]) -> None:
    """Write the module's state and JSON-able `facts` to one file; a crash leaves the old file or the new one."""
    # .contiguous() because channels_last weights cannot be stored; .clone() because shared storage cannot either.
    state = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    write_atomic(path, lambda temporary: save_file(state, temporary, metadata={"facts": json.dumps(facts)}))


def load_checkpoint(path: Path, module: torch.nn.Module) -> dict[str, Any]:
    """Load a checkpoint into a module of the same structure, in place, and return its facts.

    Raises:
        UntrustedError: the file is damaged, or belongs to another structure.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            facts: dict[str, Any] = json.loads((stored.metadata() or {}).get("facts", "{}"))
        module.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, ValueError) as problem:
        raise UntrustedError(
            "cannot use this checkpoint",
            code="U05",
            where={"file": path},
            why=str(problem).splitlines()[0],
            fix="start the training again",
        ) from problem
    return facts
