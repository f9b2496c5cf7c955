"""Checkpoints hold weights and facts, and nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.errors import UntrustedError
from edgewise.train.checkpoint import load_checkpoint, save_checkpoint


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    saved, loaded = net(), net()
    save_checkpoint(tmp_path / "a.safetensors", saved, {"epoch": 3, "val_macro_f1": 0.5})
    assert load_checkpoint(tmp_path / "a.safetensors", loaded) == {"epoch": 3, "val_macro_f1": 0.5}
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


@pytest.mark.parametrize("damage", ["truncate", "zero", "pickle", "structure"])
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, net(), {})
    target = net()
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "zero":
        path.write_bytes(b"")
    elif damage == "pickle":
        torch.save(net().state_dict(), path)
    else:
        target = torch.nn.Conv2d(1, 5, 3)
    with pytest.raises(UntrustedError, match="cannot use this checkpoint"):
        load_checkpoint(path, target)
