"""Checkpoints hold tensors and facts, and nothing that runs; a damaged one is noticed and the one before it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.errors import UntrustedError
from edgewise.train.checkpoint import load_checkpoint, load_newest, load_weights, previous_of, save_checkpoint

FACTS = {"epoch": 3, "val_macro_f1": 0.5}


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    saved = net().state_dict()
    save_checkpoint(tmp_path / "a.safetensors", saved, FACTS)
    tensors, facts = load_checkpoint(tmp_path / "a.safetensors")
    assert facts == FACTS
    assert tensors.keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in tensors.items())


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-5])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped bit":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
    elif how == "appended":
        path.write_bytes(data + b"0000")
    elif how == "lying header":
        path.write_bytes((2**40).to_bytes(8, "little") + data[8:])
    elif how == "another tool":
        from safetensors.torch import save_file

        save_file(net().state_dict(), path)
    else:
        torch.save(net().state_dict(), path)


DAMAGES = ["truncated", "empty", "flipped bit", "appended", "lying header", "another tool", "pickle"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, net().state_dict(), FACTS)
    damage(path, how)
    with pytest.raises(UntrustedError, match="cannot use this checkpoint"):
        load_checkpoint(path)
    with pytest.raises(UntrustedError, match="cannot use this checkpoint"):
        load_newest(path)


@pytest.mark.parametrize("how", DAMAGES)
def test_the_one_before_takes_the_place_of_a_damaged_one(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.safetensors"
    for epoch in (1, 2, 3):
        save_checkpoint(path, net().state_dict(), {"epoch": epoch})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.previous.safetensors", "a.safetensors"]
    damage(path, how)
    found = load_newest(path)
    assert found
    assert found[1] == {"epoch": 2}
    assert "is damaged" in found[2]
    path.unlink()
    assert (load_newest(path) or ("", {}))[1] == {"epoch": 2}
    previous_of(path).unlink()
    assert load_newest(path) is None


def test_another_structure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UntrustedError, match="cannot use this checkpoint"):
        load_weights(torch.nn.Conv2d(1, 5, 3), net().state_dict(), path)
