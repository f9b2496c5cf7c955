"""Fixtures that every room shares. Nothing here touches the network or the user's cache."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

TOOLCHAINS = Path(sys.prefix) / "edgewise-test-cache"
"""Where tests keep the toolchains they convert with: beside the packages of the tests, made once and used again."""


@pytest.fixture(autouse=True, scope="session")
def _no_trial_of_bf16() -> Iterator[None]:
    """Trainings of tests compute alike on every CPU and however busy it is; those of the trial itself say otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.train.trainer.has_fast_bf16", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path_factory.mktemp("cache")))


def draw_shape(label: str, index: int, side: int = 24) -> Image.Image:
    """A noisy RGB picture of a disc, a square or a cross; `index` seeds place, size and colour."""
    random = np.random.default_rng([index, sum(map(ord, label))])
    image = Image.fromarray(random.integers(0, 60, (side, side, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    half = int(random.integers(side // 5, side // 3))
    x, y = (int(random.integers(half, side - half)) for _ in range(2))
    colour = tuple(int(value) for value in random.integers(140, 256, 3))
    if label == "disc":
        draw.ellipse((x - half, y - half, x + half, y + half), fill=colour)
    elif label == "square":
        draw.rectangle((x - half, y - half, x + half, y + half), fill=colour)
    else:
        draw.line((x - half, y, x + half, y), fill=colour, width=3)
        draw.line((x, y - half, x, y + half), fill=colour, width=3)
    return image


@pytest.fixture
def shapes(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of class folders of PNG pictures: ``shapes(per_class=20, labels=("cross", "disc", "square"))``."""

    def make(
        per_class: int = 20,
        labels: tuple[str, ...] = ("cross", "disc", "square"),
        folder: str = "shapes",
        side: int = 24,
    ) -> Path:
        root = tmp_path / folder
        for label in labels:
            (root / label).mkdir(parents=True)
            for index in range(per_class):
                draw_shape(label, index, side).save(root / label / f"{index:03}.png")
        return root

    return make


@pytest.fixture(scope="session")
def toolchains() -> Path:
    """A cache folder in which the litert toolchain is installed. Several workers may ask at once; one makes it."""
    from edgewise.errors import UnavailableError
    from edgewise.export import toolchain

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEWISE_CACHE", str(TOOLCHAINS))
        deadline = time.monotonic() + 1200
        while toolchain.missing("litert"):
            try:
                toolchain.install(toolchain.find("litert"), print)
            except UnavailableError as problem:
                if problem.code != "E02" or time.monotonic() > deadline:
                    raise
                time.sleep(1)
    return TOOLCHAINS


@pytest.fixture(scope="module")
def converting(toolchains: Path) -> Iterator[None]:
    """Toolchains can be used while this fixture is alive, whatever the cache of the single test is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewise.export.toolchain.root", lambda: toolchains / "toolchains")
        yield
