"""Copying weights where name and shape agree."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgewise.errors import ConfigError
from edgewise.models.weights import transfer


def test_transfer_copies_what_agrees_and_names_the_rest() -> None:
    source = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 10)).state_dict()
    target = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    fresh = target[1].weight.clone()
    done = transfer(target, source)
    assert done.copied == ("0.weight", "0.bias")
    assert set(done.left) == {"1.weight", "1.bias", *(f"2.{name}" for name in target[2].state_dict())}
    assert torch.equal(target[0].weight, source["0.weight"])
    assert torch.equal(target[1].weight, fresh)
    assert str(done).startswith("2 tensors copied, left fresh: 1.weight, 1.bias")


def test_transfer_of_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="none of these weights fits") as caught:
        transfer(nn.Linear(2, 2), {"weight": torch.zeros(3, 3)})
    assert caught.value.code == "C42"
