"""What looks alike: the hash is ImageHash's bit for bit, planted copies are found, what only resembles is not."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from benchmarks.planted import COPIES, CROPS, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgewise.data import similar
from edgewise.data.align import aligned
from edgewise.data.builtin import FASHION_MNIST_DIR, read_idx
from edgewise.data.split import unite

BASES = 160


def looks_of(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.frombuffer(similar.look(image), np.uint8).reshape(32, 32) for image in images])


def pairs_of(looks: np.ndarray) -> set[tuple[int, int]]:
    return {(int(one), int(other)) for one, other in similar.alike(looks)}


@pytest.fixture(scope="module")
def bases() -> list[Image.Image]:
    return [picture(index) for index in range(BASES)]


@pytest.fixture(scope="module")
def fashion() -> np.ndarray:
    """Looks of 4,000 Fashion-MNIST images: centred shapes on black, much alike, no copies meant."""
    images = read_idx(FASHION_MNIST_DIR / "t10k-images-idx3-ubyte.gz", 3)[:4000]
    return looks_of([Image.fromarray(image) for image in images])


def test_the_hash_is_that_of_imagehash_bit_for_bit(bases: list[Image.Image], fashion: np.ndarray) -> None:
    blank = [Image.new("L", (40, 30), level) for level in (0, 7, 255)]
    images = [*bases, *blank, *(Image.fromarray(pixels) for pixels in fashion[:500])]
    ours = similar.phash(looks_of(images))
    theirs = np.stack([imagehash.phash(image).hash.ravel() for image in images])
    assert np.array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(32), st.just(32))))
def test_the_hash_of_any_pixels_is_that_of_imagehash(looks: np.ndarray) -> None:
    theirs = [imagehash.phash(Image.fromarray(pixels)).hash.ravel() for pixels in looks]
    assert np.array_equal(similar.phash(looks), np.stack(theirs))


def test_the_look_is_a_lanczos_thumbnail_whatever_the_model_sees() -> None:
    image = picture(3)
    expected = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    assert similar.look(image) == expected.tobytes()
    assert len(similar.look(Image.new("1", (3, 900_000)))) == 1024  # a sliver does not blow up


def test_candidates_are_all_pairs_within_the_radius(fashion: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "_BLOCK", 37)
    monkeypatch.setattr(similar, "_CHUNK", 50)
    bits = similar.phash(fashion[:200])
    found = [pair for chunk in similar._candidates(bits) for pair in chunk.tolist()]
    hashes = [imagehash.ImageHash(row.reshape(8, 8)) for row in bits]
    expected = [
        [one, other] for one in range(200) for other in range(one + 1, 200) if hashes[one] - hashes[other] <= 12
    ]
    assert found == expected
    assert len(expected) > 100


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found_and_nothing_else(kind: str, bases: list[Image.Image]) -> None:
    looks = looks_of([*bases, *(COPIES[kind](image) for image in bases)])
    found = pairs_of(looks)
    planted = {(index, index + BASES) for index in range(BASES)}
    assert len(found & planted) >= 0.95 * BASES
    assert len(found - planted) < 0.01 * BASES


@pytest.mark.parametrize(
    ("kind", "least"),
    [("cropped by 1 % a side", 0.95), ("cropped by 2 % a side", 0.95), ("cropped by 5 % a side", 0.2)],
)
def test_small_crops_are_found_as_far_as_promised(kind: str, least: float, bases: list[Image.Image]) -> None:
    found = pairs_of(looks_of([*bases, *(CROPS[kind](image) for image in bases)]))
    planted = {(index, index + BASES) for index in range(BASES)}
    assert len(found & planted) >= least * BASES
    assert len(found - planted) < 0.01 * BASES


def test_shirts_that_share_a_hash_are_no_copies(fashion: np.ndarray) -> None:
    """The hash alone calls thousands of pairs alike; the thumbnails leave next to none."""
    bits = similar.phash(fashion)
    by_hash = sum(len(chunk) for chunk in similar._candidates(bits))
    found = similar.alike(fashion)
    assert by_hash > 10_000
    assert len(np.unique(found)) < 0.002 * len(fashion)


def test_copies_among_low_texture_images_are_found(fashion: np.ndarray) -> None:
    large = [Image.fromarray(pixels).resize((100, 100), Image.Resampling.BICUBIC) for pixels in fashion[:200]]
    found = pairs_of(np.concatenate([fashion[:200], looks_of(large)]))
    assert sum((index, index + 200) in found for index in range(200)) >= 190


def test_blank_images_are_not_copies_of_each_other() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (30, 40, 40), dtype=np.uint8)
    blank = [Image.fromarray(pixels + 100) for pixels in noise]
    assert pairs_of(looks_of(blank)) == set()


def test_no_image_and_one_image_have_no_pairs() -> None:
    assert similar.alike(np.zeros((0, 32, 32), np.uint8)).shape == (0, 2)
    assert similar.alike(np.zeros((1, 32, 32), np.uint8)).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda pair: pair[0] != pair[1]), max_size=15))
def test_clusters_are_what_chains_of_pairs_link(pairs: list[tuple[int, int]]) -> None:
    numbers = similar.clusters(12, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    keys = [[place if node in pair else None for node in range(12)] for place, pair in enumerate(pairs)]
    expected = unite(*keys) if keys else np.arange(12)
    assert np.array_equal(np.unique(numbers, return_inverse=True)[1].argsort(), np.argsort(numbers))
    same = numbers[:, None] == numbers[None]
    assert np.array_equal(same, expected[:, None] == expected[None])


def test_alignment_explains_a_shift_and_nothing_foreign(bases: list[Image.Image]) -> None:
    one = looks_of([image.crop((0, 0, 240, 180)) for image in bases[:40]])
    shifted = looks_of([image.crop((8, 6, 248, 186)) for image in bases[:40]])
    left, correlation = aligned(one, shifted)
    assert np.quantile(left, 0.9) < similar.LEFT_OVER
    assert correlation.min() > 0.95
    foreign, _ = aligned(one, np.roll(shifted, 4, axis=0))
    assert np.quantile(foreign, 0.1) > np.quantile(left, 0.9)
