"""Augmentation as a whole: what is changed and what never is, that it repeats itself, and minority classes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.bundle import InputSpec
from edgewise.data.augment import Augment
from edgewise.errors import ConfigError
from edgewise.recipe import AugmentOptions

CLASSES = 5


def make(channels: int = 3, height: int = 20, width: int = 24, labels: Any = None, **options: Any) -> Augment:
    spec = InputSpec(height, width, channels, mean=(0.5,) * channels, std=(0.5,) * channels)
    train = np.arange(50) % CLASSES if labels is None else np.array(labels)
    return Augment(AugmentOptions(**options), spec, train, CLASSES)


def batch(channels: int = 3, count: int = 10, height: int = 20, width: int = 24) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    return images, np.arange(count, dtype=np.int64) % CLASSES


EVERY_KEY: list[dict[str, Any]] = [
    {"version": 1},
    {"version": 2},
    {"version": 3},
    {"horizontal_flip": True},
    {"vertical_flip": True},
    {"rotation": 20},
    {"translate": 0.3},
    {"crop": 4},
    {"crop_scale": (0.3, 0.8)},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"blur": 0.05},
    {"noise": 20},
    {"policy": "trivial"},
    {"policy": "rand"},
    {"policy": "auto"},
    {"cutout": 0.5},
    {"erase": 1.0},
    {"mixup": 1.0},
    {"cutmix": 1.0},
    {"version": 3, "policy": "trivial", "cutout": 0.3, "erase": 0.5, "mixup": 0.4, "cutmix": 1.0, "crop": 2},
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", EVERY_KEY, ids=str)
def test_every_key_changes_images_repeatably_and_leaves_all_else_alone(options: dict[str, Any], channels: int) -> None:
    augment = make(channels, **options)
    images, labels = batch(channels)
    given_images, given_labels = images.copy(), labels.copy()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]
    changed, targets = augment(images, labels, np.random.default_rng(3))
    again, same_targets = augment(images, labels, np.random.default_rng(3))
    other, _ = augment(images, labels, np.random.default_rng(4))
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, images)
    assert np.array_equal(changed, again)
    assert not np.array_equal(changed, other)
    assert np.array_equal(images, given_images)
    assert np.array_equal(labels, given_labels)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    if augment.options.mixes:
        assert targets is not None
        assert same_targets is not None
        assert targets.dtype == np.float32
        assert targets.shape == (len(images), CLASSES)
        assert np.allclose(targets.sum(1), 1, atol=1e-6)
        assert np.array_equal(targets, same_targets)
    else:
        assert targets is None


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    images, labels = batch()
    augment = make()
    changed, targets = augment(images, labels, np.random.default_rng(0))
    assert changed is images
    assert targets is None
    assert augment.changed == ()
    assert not AugmentOptions().active
    assert not AugmentOptions(version=1, horizontal_flip=False, vertical_flip=False, rotation=0).active
    assert all(AugmentOptions(**options).active for options in EVERY_KEY)


def test_read_only_images_are_taken() -> None:
    images, labels = batch()
    images.setflags(write=False)
    for options in EVERY_KEY:
        changed, _ = make(**options)(images, labels, np.random.default_rng(0))
        assert changed.flags.writeable


def test_a_version_is_a_set_of_defaults_that_keys_override() -> None:
    keys = ("horizontal_flip", "vertical_flip", "rotation", "hue", "saturation", "brightness", "contrast")
    keys += ("blur", "noise")
    filled = [{key for key in keys if AugmentOptions(version=version).strength(key)} for version in (0, 1, 2, 3)]
    assert filled[0] == set()
    assert filled[1] == {"horizontal_flip", "vertical_flip", "rotation"}
    assert filled[2] == filled[1] | {"hue", "saturation", "brightness", "contrast"}
    assert filled[3] == filled[2] | {"blur", "noise"}
    assert AugmentOptions(version=3, rotation=0).strength("rotation") == 0
    assert AugmentOptions(version=1, vertical_flip=False).strength("vertical_flip") == 0
    assert AugmentOptions(hue=0.1).strength("hue") == 0.1


def test_each_version_adds_what_it_says() -> None:
    """On one flat colour: version 1 keeps it, version 2 shifts it evenly, version 3 makes it grainy."""
    images = np.full((8, 24, 24, 3), (60, 120, 180), dtype=np.uint8)
    labels = np.zeros(8, dtype=np.int64)
    middle = [
        make(height=24, width=24, version=version)(images, labels, np.random.default_rng(1))[0][:, 8:16, 8:16]
        for version in (1, 2, 3)
    ]
    assert (middle[0] == (60, 120, 180)).all()
    assert (middle[1] == middle[1][:, :1, :1]).all()
    assert (middle[1][:, 0, 0] != (60, 120, 180)).any(axis=1).all()
    assert (middle[2].std(axis=(1, 2)) > 0).any(axis=1).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.tuples(st.integers(8, 20), st.integers(8, 20)),
    st.integers(1, 5),
    st.fixed_dictionaries(
        {},
        optional={
            "version": st.sampled_from([0, 1, 2, 3]),
            "translate": st.floats(0, 0.5),
            "crop": st.integers(0, 30),
            "crop_scale": st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
            "rotation": st.floats(0, 180),
            "contrast": st.floats(0, 1),
            "blur": st.floats(0, 0.05),
            "noise": st.floats(0, 128),
            "cutout": st.floats(0, 1),
            "erase": st.floats(0, 1),
            "mixup": st.floats(0, 10),
            "cutmix": st.floats(0, 10),
        },
    ),
)
def test_any_options_give_whole_images_and_shares(
    channels: int, sides: tuple[int, int], count: int, options: dict[str, Any]
) -> None:
    augment = make(channels, *sides, **options)
    images, labels = batch(channels, count, *sides)
    changed, targets = augment(images, labels, np.random.default_rng(0))
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    if targets is not None:
        assert np.allclose(targets.sum(1), 1, atol=1e-5)
        assert targets.min() >= 0


def test_threads_do_not_disturb_each_other() -> None:
    augment = make(version=3, policy="trivial", mixup=0.4, erase=0.5)
    images, labels = batch()

    def work(seed: int) -> np.ndarray:
        return augment(images, labels, np.random.default_rng(seed))[0]

    alone = [work(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(12)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_draws_of_another_thread_are_not_disturbed() -> None:
    """Dropout draws from torch's global generator while a policy runs in the background."""
    augment = make(policy="rand")
    images, labels = batch(count=40)
    torch.manual_seed(5)
    expected = [torch.rand(3) for _ in range(300)]
    torch.manual_seed(5)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(augment, images, labels, np.random.default_rng(0))
        drawn = [torch.rand(3) for _ in range(300)]
        running.result()
    assert all(torch.equal(one, other) for one, other in zip(drawn, expected, strict=True))


UNEVEN = [0] * 40 + [1] * 20 + [2] * 19 + [3] * 39 + [4] * 5


def test_only_minority_classes_are_changed() -> None:
    """Less than half of the largest class's 40 images: 19 and 5, but not 20."""
    augment = make(labels=UNEVEN, classes="minority", version=3, cutmix=1.0)
    images, labels = batch(count=30)
    changed, targets = augment(images, labels, np.random.default_rng(2))
    assert augment.changed == (2, 4)
    same = (changed == images).all(axis=(1, 2, 3))
    assert np.array_equal(same, ~np.isin(labels, (2, 4)))
    assert targets is not None
    assert np.array_equal(targets[same], np.eye(CLASSES)[labels[same]])
    assert (targets[~same][:, [0, 1, 3]] == 0).all(), "mixed with a class that is not augmented"


def test_a_batch_without_minority_images_stays_as_it_is() -> None:
    augment = make(labels=UNEVEN, classes="minority", version=1, mixup=0.2)
    images, _ = batch(count=6)
    changed, targets = augment(images, np.array([0, 1, 3, 0, 1, 3]), np.random.default_rng(0))
    assert changed is images
    assert np.array_equal(targets, np.eye(CLASSES)[[0, 1, 3, 0, 1, 3]])


def test_no_minority_is_told() -> None:
    with pytest.raises(ConfigError, match=r"C70[\s\S]*smallest class has 10 training images, the largest 10"):
        make(classes="minority", version=1)
    assert make(classes="minority").changed == ()


@pytest.mark.parametrize("value", [(0, 1), (0.8, 0.5), (0.5, 1.5)])
def test_a_crop_scale_is_a_range_of_shares(value: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two shares of the area"):
        AugmentOptions(crop_scale=value)
