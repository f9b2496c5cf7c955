"""A small net that decides something, and its images, for the tests of all formats."""

from __future__ import annotations

import pytest

from edgewise.data import Dataset
from edgewise.models import Model, create_model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit
from tests.train.conftest import CLASSES, SPEC, make_dataset


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(8, 16, dropout=0.3)", labels=CLASSES, input=SPEC, seed=0)
    options = TrainOptions(epochs=6, batch_size=16, lr=0.01, threads=1)
    return fit(model, dataset, Setup(options, 0, tmp_path_factory.mktemp("trained"))).model
