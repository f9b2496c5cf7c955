"""From an image file to the pixels a model sees: the one implementation.

Training, evaluation, calibration, export parity, the runner on the board and the live loop all come through here,
so a model never meets pixels that it was not trained on. Only numpy is needed; with Pillow more formats are read and
scaling takes a fraction of the time, to the same pixels. The syntax is that of Python 3.6, because this file is copied
into every bundle's ``runner.py``.

What is done, in this order:

1. the header is read; only the formats in ``FORMATS`` are parsed, and more than ``MAX_PIXELS`` pixels are refused;
2. the first frame is decoded in full (a truncated file is an error, never a half-grey picture);
3. the EXIF orientation is applied;
4. 16-bit and float gray is scaled to 8 bits, CMYK and the like are converted by Pillow, transparency is laid on white;
5. the image is brought to RGB, or to gray (ITU-R 601: 0.299 R + 0.587 G + 0.114 B) when the model has one channel;
6. it is fitted to height x width: ``squash`` (both sides scaled), ``crop`` (the largest part of the wanted shape is
   taken from the middle and scaled) or ``pad`` (longer side scaled, zero padding around it), with Pillow's area-aware
   filter, the width first and then the height. No step makes more than ``MAX_PIXELS`` pixels, however long and thin the
   image is.

Normalisation is not here: it is inside the exported graph.
"""

import os
import struct
import sys
from typing import TYPE_CHECKING, Any, Optional, Tuple

import numpy as np

from edgewise.device.decode import MAX_PIXELS, PNG_START, BadImage, decode, luma

if TYPE_CHECKING:
    from PIL import Image

HAS_PILLOW: Optional[bool] = None  # not known until a picture needs it: a small one takes less time than the import
SMALL_PIXELS = 128 * 128  # up to so many, a picture is not worth the import
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # MPO too: Pillow's JPEG reader opens it
FITS = ("squash", "crop", "pad")
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's constants, which moved between its versions

__all__ = [
    "FITS",
    "FORMATS",
    "MAX_PIXELS",
    "RESAMPLE",
    "BadImage",
    "load_pixels",
    "open_image",
    "open_small",
    "prepare",
    "softmax",
    "to_mode",
]


def pillow() -> Any:
    """Pillow's Image and ImageOps, imported when a picture first needs them; None on a board without it."""
    global HAS_PILLOW
    if HAS_PILLOW is not False:
        try:
            from PIL import Image as image
            from PIL import ImageOps as operations

            HAS_PILLOW = True
            return image, operations
        except ImportError:
            HAS_PILLOW = False
    return None


def open_small(path: str) -> Any:
    """A small PNG file as `decode` gives it, without Pillow; None for what Pillow is to decode.

    That is all other files, damaged ones, those with texts, in which an orientation may stand, and every file once
    Pillow is imported anyway. The pixels are the same.
    """
    if "PIL.Image" in sys.modules or not os.path.isfile(path) or os.path.getsize(path) > 8 * SMALL_PIXELS:
        return None
    data = content_of(path)
    if not data.startswith(PNG_START) or len(data) < 24 or any(name in data for name in (b"iTXt", b"tEXt", b"zTXt")):
        return None
    width, height = struct.unpack(">II", data[16:24])
    if width * height > SMALL_PIXELS:
        return None
    try:
        return decode(data)
    except BadImage:
        return None


def open_image(source: Any) -> Any:
    """Decode one image file in full.

    Args:
        source: a path, or a binary file object.

    Returns:
        A loaded ``PIL.Image`` with its EXIF orientation applied, in whatever mode the file has. Without Pillow a uint8
        array, (height, width) gray or (height, width, 3) RGB; ``prepare`` makes the same pixels of both.

    Raises:
        BadImage: not a file, empty, too large, a format that is not in ``FORMATS``, truncated or damaged.
    """
    from edgewise.device.pictures import opened

    return opened(source)


def content_of(source: Any) -> bytes:
    """All bytes of a path or a binary file object."""
    if not isinstance(source, (str, os.PathLike)):
        return bytes(source.read())
    with open(source, "rb") as stream:
        return stream.read()


def to_mode(image: "Image.Image", channels: int) -> "Image.Image":
    """Convert a decoded image to 8-bit RGB (channels=3) or gray (channels=1)."""
    from edgewise.device.pictures import converted

    return converted(image, channels)


def size_of(image: Any) -> Tuple[int, int]:
    """(width, height) of an image or an array."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def prepare(
    image: Any, height: int, width: int, channels: int, fit: str = "squash", interpolation: str = "bilinear"
) -> Any:
    """A decoded image as the pixels the model sees.

    Args:
        image: what `open_image` gives, or a uint8 array: (height, width), (height, width, 1) or RGB (height, width, 3).

    Returns:
        uint8 array of shape (height, width, channels), range 0..255, RGB order.
    """
    if isinstance(image, np.ndarray):
        image = _to_channels(image, channels)
        small = max(image.shape[0] * image.shape[1], height * width) <= SMALL_PIXELS
        known = None if small and "PIL.Image" not in sys.modules else pillow()
        if known is not None:  # the same pixels in a fraction of the time
            image = known[0].fromarray(image)
    else:
        image = to_mode(image, channels)
    if fit not in FITS:
        raise ValueError("fit is one of {}, not {!r}".format(", ".join(FITS), fit))
    if size_of(image) != (width, height):
        from edgewise.device.fitting import fit_image

        image = fit_image(image, height, width, fit, interpolation)
    return np.asarray(image).reshape(height, width, channels)


def _to_channels(pixels: Any, channels: int) -> Any:
    """A uint8 picture as (height, width, 3), or (height, width) for channels=1."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        raise BadImage("an array {} of {} is not a picture".format(pixels.shape, pixels.dtype))
    if channels == 1:
        return pixels if pixels.ndim == 2 else luma(pixels)
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def load_pixels(
    source: Any, height: int, width: int, channels: int, fit: str = "squash", interpolation: str = "bilinear"
) -> Any:
    """`open_image` and `prepare` in one: from a file to uint8 (height, width, channels)."""
    return prepare(open_image(source), height, width, channels, fit, interpolation)


def softmax(logits: Any, temperature: float = 1.0) -> Any:
    """Probabilities along the last axis, of logits divided by a temperature; float array in, float32 array out."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    shifted = np.exp(scaled - np.max(scaled, axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
