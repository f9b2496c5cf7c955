"""The fused operation is the three modules it replaces: values, gradients, running statistics, names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edgewise.models import create_model
from edgewise.train.fused import NormActPool, fuse_for_training, keep_large_blocks
from tests.train.conftest import CLASSES, SPEC

POOLS = [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d((2, 1), (2, 1))]


def pair(pool: nn.Module, dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), pool, nn.Conv2d(6, 3, 2)).to(dtype)
    nn.init.normal_(plain[1].weight)  # some factors are negative
    nn.init.normal_(plain[1].bias)
    fused = copy.deepcopy(plain)
    fuse_for_training(fused)
    assert isinstance(fused[1], NormActPool)
    return plain, fused


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_gradients_and_statistics(pool: nn.Module, layout: torch.memory_format) -> None:
    plain, fused = pair(pool)
    assert list(plain.state_dict()) == list(fused.state_dict())
    for step in range(3):
        x = torch.randn(4, 2, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        inputs = [x.clone().to(memory_format=layout).requires_grad_() for _ in range(2)]
        outputs = [net(value) for net, value in zip((plain, fused), inputs, strict=True)]
        assert torch.allclose(*outputs, rtol=0, atol=1e-12)
        for output in outputs:
            output.square().sum().backward()
        assert inputs[0].grad is not None
        assert inputs[1].grad is not None
        assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=0, atol=1e-9)
    for mine, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=0, atol=1e-8)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, fused.state_dict()[name], rtol=0, atol=1e-12), name
    plain.eval(), fused.eval()
    assert torch.equal(plain(x), fused(x))


def test_gradcheck() -> None:
    _, fused = pair(nn.MaxPool2d(2))
    fused[1].running_mean, fused[1].running_var = torch.zeros(6).double(), torch.ones(6).double()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fused, (x,))


def test_only_the_pattern_is_replaced() -> None:
    assert POOLS
    others = [
        nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.BatchNorm2d(2), nn.GELU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2, dilation=2)),
        nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)),
    ]
    for net in others:
        kinds = [type(child) for child in net]
        fuse_for_training(net)
        assert [type(child) for child in net] == kinds


def test_our_nets_have_the_pattern() -> None:
    module = create_model("convnet(8, 16, 24)", labels=CLASSES, input=SPEC).module
    fuse_for_training(module)
    assert sum(isinstance(child, NormActPool) for child in module.modules()) == 2


def test_asking_glibc_to_keep_memory_changes_no_number() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    before = (x @ x).clone()
    keep_large_blocks()
    assert torch.equal(before, x @ x)
