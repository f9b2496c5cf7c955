"""The device of the tests, and bundles to measure on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from tiny import make_bundle

from .board import Board, board


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Board]:
    with board(tmp_path / "board") as made:
        yield made


@pytest.fixture
def bundle(tmp_path: Path, shapes: Callable[..., Path]) -> Path:
    """A bundle of three colours."""
    return make_bundle(tmp_path / "made")


@pytest.fixture
def colours(shapes: Callable[..., Path]) -> Path:
    """Pictures in folders with the names of its classes."""
    return shapes(per_class=8, labels=("red", "green", "blue"), folder="colours")
