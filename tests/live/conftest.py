"""A bundle that tells colours, and a face."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import skimage
from PIL import Image

from edgewise.live.classify import Classifier, open_classifier

sys.path.insert(0, str(Path(__file__).parents[1] / "device"))

from tiny import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of three colours."""
    return make_bundle(tmp_path / "made")


@pytest.fixture
def classifier(bundle: Path) -> Classifier:
    """That bundle, loaded."""
    return open_classifier(bundle)


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A frontal face, 512 x 512 (NASA, public domain; scikit-image ships it)."""
    return Image.open(Path(skimage.__file__).parent / "data/astronaut.png").convert("RGB")
