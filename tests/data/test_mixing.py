"""Blanking and mixing: areas counted in pixels, blends by a hand formula, shares that agree with pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.bundle import InputSpec
from edgewise.data.augment import Augment
from edgewise.data.mixing import cutmix, cutout, erase, mixup, one_hot
from edgewise.recipe import AugmentOptions

FILL = np.array([9, 10, 11], dtype=np.uint8)


def flat(count: int = 10, height: int = 20, width: int = 30) -> np.ndarray:
    """Image k has the value 10 * (k + 1) everywhere."""
    values = 10 * np.arange(1, count + 1, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, 3)).copy()


def box(mask: np.ndarray) -> tuple[int, int]:
    """Height and width of the smallest box around the True pixels, which must fill it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    size = (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    assert mask.sum() == size[0] * size[1], "not a full rectangle"
    return size


def test_cutout_blanks_one_square_around_a_pixel_of_the_image() -> None:
    images = np.full((800, 20, 30, 3), 200, dtype=np.uint8)
    cutout(images, 0.5, FILL, np.random.default_rng(0))
    blank = (images == FILL).all(-1)
    assert ((images == 200).all(-1) | blank).all()
    sizes = np.array([box(mask) for mask in blank])
    assert sizes.max() == 10
    assert (sizes >= 5).all(), "at most half of a side lies outside"
    assert (sizes == 10).all(1).mean() == pytest.approx(11 / 20 * 21 / 30, abs=0.06)
    assert blank.any(0).all(), "every pixel is blanked some time"


def test_cutout_fills_with_the_pixel_that_normalises_to_nothing() -> None:
    spec = InputSpec(16, 16, mean=(0.2, 0.4, 0.6))
    augment = Augment(AugmentOptions(cutout=1.0), spec, np.arange(4) % 2, 2)
    images = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    changed, _ = augment(images, np.array([0]), np.random.default_rng(0))
    assert {tuple(pixel) for pixel in changed.reshape(-1, 3).tolist()} <= {(51, 102, 153), (0, 0, 0)}
    assert (changed == (51, 102, 153)).all(-1).any()


def test_erased_rectangles_have_their_area_and_chance() -> None:
    images = np.zeros((600, 40, 50, 1), dtype=np.uint8)
    erase(images, 0.5, np.random.default_rng(0))
    touched = images.any(axis=(1, 2, 3))
    assert touched.mean() == pytest.approx(0.5, abs=0.07)
    for image in images[touched]:
        rows, columns = np.flatnonzero(image.any((1, 2))), np.flatnonzero(image.any((0, 2)))
        inside = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.018 <= inside.size / 2000 <= 0.34
        assert (inside > 0).mean() > 0.9, "a full rectangle of noise"
    values = images[touched][images[touched] > 0]
    assert values.mean() == pytest.approx(128, abs=3)
    erased = (images > 0).any((0, 3))
    assert all(side.any() for side in (erased[0], erased[-1], erased[:, 0], erased[:, -1])), "the border is reached"


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_no_or_every_image_is_erased(chance: float) -> None:
    images = np.zeros((50, 20, 20, 3), dtype=np.uint8)
    erase(images, chance, np.random.default_rng(0))
    assert (images.any(axis=(1, 2, 3)) == bool(chance)).all()


def parts_of(targets: np.ndarray, row: int) -> tuple[int, float]:
    """Partner and own share, read from the target of an image whose class is its row."""
    own = float(targets[row, row])
    others = np.delete(np.arange(len(targets)), row)
    return (row, 1.0) if own == 1 else (int(others[targets[row, others].argmax()]), own)


@given(st.floats(0.1, 5), st.integers(0, 2**31))
def test_mixup_is_the_blend_its_target_says(alpha: float, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (8, 5, 6, 3), dtype=np.uint8)
    mixed, targets = mixup(images, one_hot(np.arange(8), 8), alpha, np.random.default_rng(seed))
    assert np.allclose(targets.sum(1), 1)
    for row in range(8):
        partner, share = parts_of(targets, row)
        expected = share * images[row].astype(np.float64) + (1 - share) * images[partner]
        assert np.abs(mixed[row] - expected).max() <= 0.5 + 1e-4


@given(st.floats(0.1, 5), st.integers(0, 2**31))
def test_cutmix_shares_are_shares_of_pixels(alpha: float, seed: int) -> None:
    images = flat()
    mixed, targets = cutmix(images, one_hot(np.arange(10), 10), alpha, np.random.default_rng(seed))
    assert np.allclose(targets.sum(1), 1)
    for row in range(10):
        values, counts = np.unique(mixed[row, :, :, 0], return_counts=True)
        shares = np.zeros(10)
        shares[values // 10 - 1] = counts / 600
        assert np.allclose(targets[row], shares, atol=1e-6)
        if len(values) == 2:
            partner, _ = parts_of(targets, row)
            box(mixed[row, :, :, 0] == images[partner, 0, 0, 0])


def test_cutmix_takes_pixels_from_where_they_were() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    mixed, targets = cutmix(images, one_hot(np.arange(6), 6), 1.0, np.random.default_rng(1))
    for row in range(6):
        partner, _ = parts_of(targets, row)
        from_own, from_other = mixed[row] == images[row], mixed[row] == images[partner]
        assert (from_own.all(-1) | from_other.all(-1)).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_alpha_is_that_of_a_beta_distribution(alpha: float) -> None:
    images = np.zeros((1500, 2, 2, 1), dtype=np.uint8)
    own = np.diag(mixup(images, one_hot(np.arange(1500), 1500), alpha, np.random.default_rng(0))[1])
    assert own.mean() == pytest.approx(0.5, abs=0.05)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_with_both_a_batch_is_mixed_in_one_of_the_two_ways() -> None:
    augment = Augment(AugmentOptions(mixup=1.0, cutmix=1.0), InputSpec(20, 30), np.arange(10), 10)
    random = np.random.default_rng(0)
    cut = 0
    for _ in range(60):
        changed, _ = augment(flat(), np.arange(10), random)
        pure = np.isin(changed, flat()[:, 0, 0, 0]).all(axis=(1, 2, 3))
        cut += bool(pure.all())
    assert 15 < cut < 45
