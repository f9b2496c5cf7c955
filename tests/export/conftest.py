"""A small net that decides something and its images, and the toolchains that the tests convert with.

Toolchains are made once beside the packages of the tests, and used again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewise.data import Dataset
from edgewise.errors import UnavailableError
from edgewise.export import toolchain
from edgewise.models import Model, create_model
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit
from tests.train.conftest import CLASSES, SPEC, make_dataset

PLACE = Path(sys.prefix) / "edgewise-test-cache"


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def trained(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = create_model("convnet(8, 16, dropout=0.3)", labels=CLASSES, input=SPEC, seed=0)
    options = TrainOptions(epochs=6, batch_size=16, lr=0.01, threads=1)
    return fit(model, dataset, Setup(options, 0, tmp_path_factory.mktemp("trained"))).model


@pytest.fixture(scope="session")
def toolchains() -> Path:
    """A cache folder in which the litert toolchain is installed. Several workers may ask at once; one makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(PLACE))
        deadline = time.monotonic() + 1200
        while toolchain.missing("litert"):
            try:
                toolchain.install(toolchain.find("litert"), print)
            except UnavailableError as problem:
                if problem.code != "E02" or time.monotonic() > deadline:
                    raise
                time.sleep(1)
    return PLACE


@pytest.fixture(scope="module")
def converting(toolchains: Path) -> Iterator[None]:
    """Toolchains can be used while this fixture is alive, whatever the cache of the single test is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "root", lambda: toolchains / "toolchains")
        yield
