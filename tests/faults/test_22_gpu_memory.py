"""Case 22: memory runs out, no GPU where one was asked for. The memory of these tests is a loss that counts images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.data import Dataset
from edgewise.errors import TrainingError, UnavailableError
from edgewise.models import Model
from edgewise.progress import Silent
from edgewise.recipe import TrainOptions
from edgewise.train import Setup, fit
from edgewise.train.loop import pick_device
from edgewise.train.losses import Batch
from tests.train.conftest import CLASSES, SPEC, make_dataset

OPTIONS = TrainOptions(epochs=1, batch_size="auto", threads=1)


class Memory:
    """A device on which so many images fit."""

    def __init__(self, images: int, problem: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.images = images
        self.problem = problem
        self.sizes: list[int] = []

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        if len(batch.labels) > self.images:
            raise self.problem(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        self.sizes.append(len(batch.labels))
        return torch.nn.functional.cross_entropy(logits, batch.labels)


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset(train=128)


@pytest.fixture
def model() -> Model:
    from edgewise.models import create_model

    return create_model("flatnet(4, hidden=8)", labels=CLASSES, input=SPEC)


@pytest.mark.parametrize("problem", [torch.OutOfMemoryError, RuntimeError])
def test_auto_halves_until_it_fits_and_says_so(
    model: Model, dataset: Dataset, tmp_path: Path, problem: type[RuntimeError]
) -> None:
    said: list[str] = []

    class Said(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    memory = Memory(20, problem)
    fit(model, dataset, Setup(OPTIONS, 0, tmp_path, loss=memory), progress=Said())
    assert memory.sizes == [16] * 8
    assert [line.split(":")[0] for line in said] == [
        "out of memory with 64 images at once",
        "out of memory with 32 images at once",
    ]
    assert "adding gradients up" in said[0]


def test_gradients_of_the_pieces_add_up_to_that_of_the_whole(dataset: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 3)), "linear", SPEC, CLASSES)
    whole, pieces = (
        fit(linear, dataset, Setup(OPTIONS, 0, tmp_path / str(images), loss=Memory(images))).model.module[1]
        for images in (64, 20)
    )
    assert torch.allclose(whole.weight, pieces.weight, atol=1e-5)
    assert not torch.allclose(whole.weight, linear.module[1].weight, atol=1e-3)


def test_with_a_fixed_batch_it_is_one_message(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    fixed = OPTIONS.model_copy(update={"batch_size": 64})
    with pytest.raises(TrainingError, match="out of memory") as caught:
        fit(model, dataset, Setup(fixed, 0, tmp_path, loss=Memory(20)))
    assert "train.batch_size=auto" in caught.value.fix
    assert "try 32" in caught.value.fix
    assert caught.value.where["key"] == "train.batch_size = 64"


def test_another_runtime_error_is_not_taken_for_it(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    def broken(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(model, dataset, Setup(OPTIONS, 0, tmp_path, loss=broken))


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(UnavailableError, match="CUDA was asked for") as caught:
        pick_device("cuda")
    assert caught.value.exit_code == 4
