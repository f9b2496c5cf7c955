"""A process of a training; started by torchrun in test_world.py: ``parted.py FOLDER`` trains a net without norms."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from torch import nn

from edgewise.models import Model, create_model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, World, fit
from tests.train.conftest import CLASSES, SPEC, make_dataset

OPTIONS = TrainOptions(epochs=2, batch_size=16, lr=0.05, threads=1, optimizer="sgd", clip=1.0, ema=0.9, device="cpu")


def plain_net() -> Model:
    """Neither batch norm nor dropout: the mean of the gradients of two halves is the gradient of the whole."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 3))
    return dataclasses.replace(create_model("convnet(8)", labels=CLASSES, input=SPEC), module=net)


if __name__ == "__main__":
    world = World()
    fit(plain_net(), make_dataset(train=120), Setup(OPTIONS, 3, Path(sys.argv[1])), world=world)
    print(f"rank {world.rank} of {world.size}")
