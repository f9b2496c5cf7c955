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
    "fit_image",
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
    data = _content(path)
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
    try:
        if isinstance(source, (str, os.PathLike)):
            if not os.path.isfile(source):
                raise BadImage("not a regular file")
            if os.path.getsize(source) == 0:
                raise BadImage("0 bytes")
        known = pillow()
        if known is None:
            return decode(_content(source))
        library, operations = known
        with library.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage("{} x {} pixels, more than the {} allowed".format(width, height, MAX_PIXELS))
            image.load()
            upright = operations.exif_transpose(image)
            if image.format == "PNG" and upright.mode == "I":  # how older Pillow opens 16-bit gray
                upright = _gray(np.asarray(upright) / 256.0)
            return upright
    except BadImage:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, TypeError, KeyError) as problem:
        # Pillow's parsers raise any of these on damaged files.
        raise BadImage(str(problem) or type(problem).__name__) from None
    except Exception as problem:
        if type(problem).__name__ != "DecompressionBombError":  # Pillow's own, which is no kind of the above
            raise
        raise BadImage(str(problem)) from None


def _content(source: Any) -> bytes:
    if not isinstance(source, (str, os.PathLike)):
        return bytes(source.read())
    with open(source, "rb") as stream:
        return stream.read()


def to_mode(image: "Image.Image", channels: int) -> "Image.Image":
    """Convert a decoded image to 8-bit RGB (channels=3) or gray (channels=1)."""
    if image.mode.startswith("I;16"):
        image = _gray(np.asarray(image).astype(np.uint16) / 256.0)
    elif image.mode == "I":  # 32-bit integers say nothing of their range: 16 bits, unless all fit into 8
        values = np.asarray(image)
        image = _gray(values / 256.0 if values.max(initial=0) > 255 else values)
    elif image.mode == "F":  # 0..1 when nothing is larger, else 0..255; what is not a number is black
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=np.inf, neginf=-np.inf)
        image = _gray(values * 255.0 if values.max(initial=0.0) <= 1.0 else values)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        library = pillow()[0]
        white = library.new("RGBA", image.size, (255, 255, 255, 255))
        image = library.alpha_composite(white, image)
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return image.convert("RGB" if channels == 3 else "L")


def fit_image(image: Any, height: int, width: int, fit: str = "squash", interpolation: str = "bilinear") -> Any:
    """Scale an RGB or gray image to height x width as ``fit`` says; see the top of this file.

    Args:
        image: a ``PIL.Image`` of mode RGB or L, or a uint8 array, (height, width) or (height, width, 3).

    Returns:
        uint8 (height, width) or (height, width, 3).
    """
    if fit not in FITS:
        raise ValueError("fit is one of {}, not {!r}".format(", ".join(FITS), fit))
    have_width, have_height = _size(image)
    whole = (0.0, 0.0, float(have_width), float(have_height))
    if (have_height, have_width) == (height, width):
        return np.asarray(image)
    if fit == "squash":
        return np.asarray(_scale(image, height, width, interpolation, whole))
    if fit == "crop":
        left = max(0.0, (have_width - have_height * width / height) / 2)
        top = max(0.0, (have_height - have_width * height / width) / 2)
        box = (left, top, have_width - left, have_height - top)
        return np.asarray(_scale(image, height, width, interpolation, box))
    scale = min(width / have_width, height / have_height)
    new_width = max(1, round(have_width * scale))
    new_height = max(1, round(have_height * scale))
    inner = np.asarray(_scale(image, new_height, new_width, interpolation, whole))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    padded = np.zeros((height, width, *inner.shape[2:]), np.uint8)
    padded[top : top + new_height, left : left + new_width] = inner
    return padded


def _size(image: Any) -> Tuple[int, int]:
    """(width, height) of an image or an array."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def _scale(image: Any, height: int, width: int, interpolation: str, box: Tuple[float, float, float, float]) -> Any:
    """Scale the part of an image in `box` (left, top, right, bottom), the width first.

    Pillow from version 13 on takes the height first where that is faster, which rounds to other pixels; asking for one
    direction at a time gives every version the same ones. Only tall slivers are scaled in height first, because the
    other way round they would blow up.
    """
    if interpolation == "nearest":
        return _resize(image, height, width, interpolation, box)
    left, top, right, bottom = box
    columns, rows = _size(image)
    if width * rows > MAX_PIXELS:
        image = _resize(image, height, columns, interpolation, (0, top, columns, bottom))
        return _resize(image, height, width, interpolation, (left, 0, right, height))
    if isinstance(image, np.ndarray):
        return _resize(image, height, width, interpolation, box)
    image = _resize(image, rows, width, interpolation, (left, 0, right, rows))
    return _resize(image, height, width, interpolation, (0, top, width, bottom))


def _resize(image: Any, height: int, width: int, interpolation: str, box: Tuple[float, float, float, float]) -> Any:
    if isinstance(image, np.ndarray):
        from edgewise.device.resample import resample

        return resample(image, height, width, interpolation, box)
    return image.resize((width, height), RESAMPLE[interpolation], box=box)


def _gray(values: Any) -> Any:
    """An 8-bit gray image of an array; fractions are cut off, values outside 0..255 limited to it."""
    return pillow()[0].fromarray(np.clip(values, 0, 255).astype(np.uint8))


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
    return fit_image(image, height, width, fit, interpolation).reshape(height, width, channels)


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
