"""Penultimate features: what the classifier is given, whatever the net calls its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from edgewise.bundle import InputSpec
from edgewise.models import create_model
from edgewise.models.features import features, offered, open_extractor, pixels
from edgewise.models.parts import head_names
from edgewise.train import logits
from tests.models import lite0

LABELS = ("a", "b", "c")


def some_images(side: int, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ("convnet(4, 8)", 8),
        ("flatnet(4, 8, hidden=6)", 6),
        ("dscnn(4, 8, 8)", 8),
        ("truncate(shufflenet_v2_x0_5, stage3)", 96),
        ("mobilenetv3_small_050", 1024),
        ("torchvision/resnet18", 512),
        ("torchvision/mobilenet_v3_small", 1024),
        ("torchvision/vgg11", 4096),
    ],
)
def test_the_classifier_makes_the_logits_of_the_features(architecture: str, width: int) -> None:
    model = create_model(architecture, labels=LABELS, input=InputSpec(64, 64))
    images = some_images(64)
    found = features(model, images)
    assert (found.shape, found.dtype) == ((5, width), np.float32)
    weight, bias = (model.module.get_parameter(name).detach().numpy() for name in head_names(model.module))
    np.testing.assert_allclose(found @ weight.T + bias, logits(model, images), atol=2e-4)


def test_maps_before_a_convolution_are_averaged() -> None:
    model = create_model("torchvision/squeezenet1_1", labels=LABELS, input=InputSpec(64, 64))
    images = some_images(64, 2)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.input.mean, model.input.std))
    batch = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = model.module.features(batch).mean((2, 3)).numpy()
    np.testing.assert_allclose(features(model, images), expected, atol=1e-4)


def test_batches_are_put_together_and_told() -> None:
    model = create_model("convnet(4)", labels=LABELS, input=InputSpec(8, 8))
    images = some_images(8, 130)
    told: list[int] = []
    found = features(model, images, told.append)
    assert told == [64, 64, 2]
    alone = np.concatenate([features(model, images[row : row + 1]) for row in (0, 63, 64, 129)])
    np.testing.assert_allclose(found[[0, 63, 64, 129]], alone, atol=1e-5)
    assert not model.module.classifier._forward_pre_hooks


def test_pixels_are_values_from_0_to_1() -> None:
    images = some_images(4, 2)
    found = pixels(images)
    assert (found.shape, found.dtype) == ((2, 48), np.float32)
    np.testing.assert_allclose(found[1], images[1].ravel() / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "channels", "expected"),
    [
        ("convnet(4, 8)", None, None, InputSpec(128, 128)),
        ("convnet(4, 8)", 16, 1, InputSpec(16, 16, 1, mean=(128 / 255,), std=(0.5,))),
        (
            "tf_efficientnet_lite0",
            64,
            None,
            InputSpec(64, 64, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        ),
    ],
)
def test_a_model_by_name_gets_the_input_it_was_made_for(
    name: str, size: int | None, channels: int | None, expected: InputSpec
) -> None:
    assert open_extractor(name, weights=None, size=size, channels=channels, seed=0).input == expected


def test_the_words_on_offer_select_real_features() -> None:
    words = (offered() or "").split()
    assert words == ["--model", "tf_efficientnet_lite0", "--weights", str(lite0.FILE)]


@pytest.mark.slow
def test_imagenet_features_tell_photographs_apart_where_untrained_ones_do_not(tmp_path: Path) -> None:
    """Crops of three photographs, half of each to learn from: by a linear classifier, both in the same net."""
    from PIL import Image

    crops, labels = [], []
    random = np.random.default_rng(0)
    for label, path in enumerate(lite0.PHOTOGRAPHS.values()):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
            for _ in range(24):
                left, top = (int(random.integers(0, length - 160)) for length in picture.size)
                turned = picture.crop((left, top, left + 160, top + 160)).rotate(float(random.integers(0, 360)))
                crops.append(np.asarray(turned.convert("L").convert("RGB").resize((64, 64))))
                labels.append(label)
    images, order = np.stack(crops), np.array(labels)
    scores = []
    for weights in (None, str(lite0.FILE)):
        model = open_extractor("tf_efficientnet_lite0", weights=weights, size=64, channels=None, seed=0)
        found = features(model, images)
        found = (found - found.mean(0)) / (found.std(0) + 1e-6)
        fitted = LogisticRegression(max_iter=500).fit(found[::2], order[::2])
        scores.append(fitted.score(found[1::2], order[1::2]))
    assert scores[1] > scores[0]
    assert scores[1] > 0.8
