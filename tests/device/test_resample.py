"""The resize in numpy against the installed Pillow: equal in every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgewise.device import preprocess
from edgewise.device.preprocess import FITS, RESAMPLE, prepare
from edgewise.device.resample import filter_factors, resample

Array = np.ndarray
SIDE = st.integers(1, 64)
GOLDEN = Path(__file__).with_name("golden_pixels.npz")


def pillow(picture: Array, height: int, width: int, interpolation: str, box: tuple[float, ...]) -> Array:
    """Pillow's own resize, the width first: Pillow 13 and later would choose the order by the cost."""
    image, how = Image.fromarray(picture), RESAMPLE[interpolation]
    if interpolation == "nearest":
        return np.asarray(image.resize((width, height), how, box=box))
    left, top, right, bottom = box
    across = image.resize((width, image.height), how, box=(left, 0, right, image.height))
    return np.asarray(across.resize((width, height), how, box=(0, top, width, bottom)))


@st.composite
def pictures(draw: st.DrawFn) -> Array:
    shape = (draw(SIDE), draw(SIDE), *draw(st.sampled_from([(), (3,)])))
    if draw(st.booleans()):  # black and white: where filters overshoot most
        return draw(arrays(np.bool_, shape)).astype(np.uint8) * 255
    return np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, shape, dtype=np.uint8)


@st.composite
def boxes(draw: st.DrawFn, size: int) -> tuple[float, float]:
    if draw(st.booleans()):
        return 0.0, float(size)
    begin = draw(st.floats(0, size - 0.5))
    return begin, draw(st.floats(begin + 0.25, size))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), picture=pictures(), height=SIDE, width=SIDE, interpolation=st.sampled_from(sorted(RESAMPLE)))
def test_every_pixel_is_pillows(
    data: st.DataObject, picture: Array, height: int, width: int, interpolation: str
) -> None:
    left, right = data.draw(boxes(picture.shape[1]))
    top, bottom = data.draw(boxes(picture.shape[0]))
    box = (left, top, right, bottom)
    before = picture.copy()
    got = resample(picture, height, width, interpolation, box)
    np.testing.assert_array_equal(got, pillow(picture, height, width, interpolation, box))
    np.testing.assert_array_equal(picture, before)
    assert got.dtype == np.uint8


@pytest.mark.parametrize("interpolation", sorted(RESAMPLE))
@pytest.mark.parametrize("size", [(480, 640), (1, 700), (613, 2), (301, 1999)], ids=str)
def test_large_pictures_are_equal_too(size: tuple[int, int], interpolation: str) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    box = (0.0, 0.0, float(size[1]), float(size[0]))
    got = resample(picture, 224, 160, interpolation)
    np.testing.assert_array_equal(got, pillow(picture, 224, 160, interpolation, box))


def test_pillow_alone_would_depend_on_its_version() -> None:
    """Why the width is always scaled first: for such sizes Pillow 13 takes the height first, and Pillow 12 did not."""
    picture = np.random.default_rng(2).integers(0, 256, (33, 25), dtype=np.uint8)
    ours = resample(picture, 3, 26, "bilinear")
    height_first = resample(resample(picture, 3, 25, "bilinear"), 3, 26, "bilinear")
    assert not np.array_equal(ours, height_first)
    theirs = np.asarray(Image.fromarray(picture).resize((26, 3), RESAMPLE["bilinear"]))
    assert np.array_equal(theirs, ours) or np.array_equal(theirs, height_first)
    np.testing.assert_array_equal(prepare(Image.fromarray(picture), 3, 26, 1)[..., 0], ours)


@settings(max_examples=150, deadline=None)
@given(
    picture=pictures(),
    height=SIDE,
    width=SIDE,
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(FITS),
    interpolation=st.sampled_from(sorted(RESAMPLE)),
)
def test_arrays_and_images_become_the_same_pixels_with_pillow_and_without(
    picture: Array, height: int, width: int, channels: int, fit: str, interpolation: str
) -> None:
    options = (height, width, channels, fit, interpolation)
    expected = prepare(Image.fromarray(picture), *options)
    np.testing.assert_array_equal(prepare(picture, *options), expected)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(preprocess, "HAS_PILLOW", False)
        np.testing.assert_array_equal(prepare(picture, *options), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_factors_add_up_to_one(interpolation: str) -> None:
    for size, new_size in ((7, 640), (640, 7), (640, 639)):
        first, factors = filter_factors(size, 0.0, float(size), new_size, interpolation)
        assert abs(factors.sum(axis=1) / 2**22 - 1).max() < 1e-5
        assert first.min() >= 0
        assert (255 * np.abs(factors.astype(np.int64)).sum(axis=1) + 2**21 < 2**31).all()  # int32 holds every sum


@pytest.mark.parametrize("with_pillow", [True, False])
def test_golden_pixels(with_pillow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture and what becomes of it, as files: `python -m tests.device.test_resample` writes them."""
    if not with_pillow:
        monkeypatch.setattr(preprocess, "HAS_PILLOW", False)
    with np.load(GOLDEN) as stored:
        picture = stored["picture"]
        names = [name for name in stored.files if name != "picture"]
        assert len(names) == len(FITS) * len(RESAMPLE)
        for name in names:
            fit, interpolation = name.split("-")
            np.testing.assert_array_equal(prepare(picture, 17, 20, 3, fit, interpolation), stored[name], err_msg=name)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(array: Array) -> None:
    with pytest.raises(preprocess.BadImage, match="is not a picture"):
        prepare(array, 4, 4, 3)


if __name__ == "__main__":
    rows, columns = np.mgrid[0:41, 0:53]
    drawn = np.stack([rows * 6, columns * 4, (rows * columns) % 256], axis=-1).astype(np.uint8)
    drawn[10:25, 12:30] = (255, 255, 0)
    made = {f"{fit}-{how}": prepare(drawn, 17, 20, 3, fit, how) for fit in FITS for how in RESAMPLE}
    np.savez_compressed(GOLDEN, picture=drawn, **made)
