"""Real ImageNet weights under foreign names: they land where they belong, and the net sees what is in a photograph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import ImageNetInfo

from edgewise.device.preprocess import load_pixels
from edgewise.models import Model, create_model, default_input
from edgewise.models.weights import load_weights
from edgewise.train import logits
from tests.models import lite0

LABELS = tuple(map(ImageNetInfo().index_to_description, range(1000)))
VARIANTS = [("efficientnet_lite0", 1e-5, False), ("tf_efficientnet_lite0", 1e-3, True)]
"""timm's two nets of these shapes: batch norm's epsilon, and whether they pad as TensorFlow does."""


def make(architecture: str, labels: tuple[str, ...] = LABELS) -> Model:
    spec = default_input(architecture)
    assert spec is not None
    return create_model(architecture, labels=labels, input=spec)


def photographs(model: Model) -> np.ndarray:
    options = {**model.input.preprocessing(), "fit": "crop"}
    return np.stack([load_pixels(path, **options) for path in lite0.PHOTOGRAPHS.values()])


@pytest.mark.parametrize(("architecture", "eps", "same"), VARIANTS)
def test_every_element_lands_where_the_file_says(architecture: str, eps: float, same: bool) -> None:
    model = make(architecture)
    done = load_weights(model, lite0.FILE)
    assert (done.how, done.share, done.fresh, done.unused) == ("order and shape", 1.0, (), ())
    assert len(done.copied) == len(lite0.load()) == 296
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = lite0.forward(lite0.load(), images, eps=eps, same=same)
        torch.testing.assert_close(model.module(images), expected, rtol=1e-4, atol=1e-4)
        other = lite0.forward(lite0.load(), images, eps=1e-2, same=same)
    assert not torch.allclose(expected, other, rtol=1e-2, atol=1e-2)  # a wrong epsilon would have been seen


@pytest.mark.parametrize(("architecture", "eps", "same"), VARIANTS)
def test_the_logits_of_photographs_are_those_of_the_file_with_the_nets_own_statistics(
    architecture: str, eps: float, same: bool
) -> None:
    model = make(architecture)
    load_weights(model, lite0.FILE)
    native = {"efficientnet_lite0": (0.485, 0.456, 0.406), "tf_efficientnet_lite0": (0.5, 0.5, 0.5)}
    assert model.input.mean == native[architecture]
    pixels = photographs(model)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.input.mean, model.input.std))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    expected = lite0.forward(lite0.load(), images, eps=eps, same=same).numpy()
    np.testing.assert_allclose(logits(model, pixels), expected, rtol=1e-3, atol=1e-3)


def test_the_top_five_of_photographs_hold_what_they_show() -> None:
    model = make("tf_efficientnet_lite0")
    load_weights(model, lite0.FILE)
    scores = logits(model, photographs(model))
    for name, row in zip(lite0.PHOTOGRAPHS, scores, strict=True):
        best = [LABELS[index] for index in row.argsort()[::-1][:5]]
        assert any(name in label for label in best), (name, best)


def test_untrained_weights_would_not_have_seen_it() -> None:
    model = make("tf_efficientnet_lite0")
    scores = logits(model, photographs(model))
    best = [LABELS[index] for row in scores for index in row.argsort()[::-1][:5]]
    assert not any(name in label for name in lite0.PHOTOGRAPHS for label in best)


def test_another_number_of_classes_keeps_the_backbone_and_a_fresh_classifier() -> None:
    model, whole = make("tf_efficientnet_lite0", ("a", "b", "c")), make("tf_efficientnet_lite0")
    fresh = model.module.classifier.weight.clone()
    done = load_weights(model, lite0.FILE)
    load_weights(whole, lite0.FILE)
    assert (done.fresh, done.unused) == (("classifier.weight", "classifier.bias"), ("_fc.weight", "_fc.bias"))
    total = sum(t.numel() for n, t in model.module.state_dict().items() if not n.endswith("tracked"))
    assert done.share == (total - 3 * 1281) / total
    assert torch.equal(model.module.classifier.weight, fresh)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.module.forward_features(images), whole.module.forward_features(images))
