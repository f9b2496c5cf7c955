"""From an image file to the pixels a model sees: the one implementation.

Training, evaluation, calibration, export parity, the runner on the board and the live loop all come through here,
so a model never meets pixels that it was not trained on. Only numpy and Pillow are needed, and the syntax is that of
Python 3.6, because this file is copied into every bundle's ``runner.py``.

What is done, in this order:

1. the header is read; only the formats in ``FORMATS`` are parsed, and more than ``MAX_PIXELS`` pixels are refused;
2. the first frame is decoded in full (a truncated file is an error, never a half-grey picture);
3. the EXIF orientation is applied;
4. 16-bit and float gray is scaled to 8 bits, CMYK and the like are converted by Pillow, transparency is laid on white;
5. the image is brought to RGB, or to gray (ITU-R 601: 0.299 R + 0.587 G + 0.114 B) when the model has one channel;
6. it is fitted to height x width: ``squash`` (both sides scaled), ``crop`` (the largest part of the wanted shape is
   taken from the middle and scaled) or ``pad`` (longer side scaled, zero padding around it), with Pillow's area-aware
   filter. No step makes more than ``MAX_PIXELS`` pixels, however long and thin the image is.

Normalisation is not here: it is inside the exported graph.
"""

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # MPO too: Pillow's JPEG reader opens it
MAX_PIXELS = 64 * 1000 * 1000
FITS = ("squash", "crop", "pad")
RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's constants, which moved between its versions


class BadImage(ValueError):
    """An image file that cannot be decoded in full, with the reason in one line."""


def open_image(source: Any) -> Image.Image:
    """Decode one image file in full.

    Args:
        source: a path, or a binary file object.

    Returns:
        A loaded ``PIL.Image`` with its EXIF orientation applied, in whatever mode the file has.

    Raises:
        BadImage: not a file, empty, too large, a format that is not in ``FORMATS``, truncated or damaged.
    """
    try:
        if isinstance(source, (str, os.PathLike)):
            if not os.path.isfile(source):
                raise BadImage("not a regular file")
            if os.path.getsize(source) == 0:
                raise BadImage("0 bytes")
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage("{} x {} pixels, more than the {} allowed".format(width, height, MAX_PIXELS))
            image.load()
            upright = ImageOps.exif_transpose(image)
            if image.format == "PNG" and upright.mode == "I":  # how older Pillow opens 16-bit gray
                upright = _gray(np.asarray(upright) / 256.0)
            return upright
    except BadImage:
        raise
    except Image.DecompressionBombError as problem:
        raise BadImage(str(problem)) from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, TypeError, KeyError) as problem:
        # Pillow's parsers raise any of these on damaged files.
        raise BadImage(str(problem) or type(problem).__name__) from None


def to_mode(image: Image.Image, channels: int) -> Image.Image:
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
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    return image.convert("RGB" if channels == 3 else "L")


def fit_image(
    image: Image.Image, height: int, width: int, fit: str = "squash", interpolation: str = "bilinear"
) -> Image.Image:
    """Scale an RGB or gray image to height x width as ``fit`` says; see the top of this file."""
    resample = RESAMPLE[interpolation]
    have_width, have_height = image.size
    if fit not in FITS:
        raise ValueError("fit is one of {}, not {!r}".format(", ".join(FITS), fit))
    if (have_height, have_width) == (height, width):
        return image
    if fit == "squash":
        if width * have_height > MAX_PIXELS:  # Pillow scales the width first, which would blow up a tall sliver
            image = image.resize((have_width, height), resample)
        return image.resize((width, height), resample)
    if fit == "crop":
        left = max(0.0, (have_width - have_height * width / height) / 2)
        top = max(0.0, (have_height - have_width * height / width) / 2)
        return image.resize((width, height), resample, box=(left, top, have_width - left, have_height - top))
    scale = min(width / have_width, height / have_height)
    new_width = max(1, round(have_width * scale))
    new_height = max(1, round(have_height * scale))
    padded = Image.new(image.mode, (width, height))
    corner = ((width - new_width) // 2, (height - new_height) // 2)
    padded.paste(image.resize((new_width, new_height), resample), corner)
    return padded


def _gray(values: Any) -> Image.Image:
    """An 8-bit gray image of an array; fractions are cut off, values outside 0..255 limited to it."""
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def prepare(
    image: Image.Image, height: int, width: int, channels: int, fit: str = "squash", interpolation: str = "bilinear"
) -> Any:
    """A decoded image as the pixels the model sees.

    Returns:
        uint8 array of shape (height, width, channels), range 0..255, RGB order.
    """
    image = fit_image(to_mode(image, channels), height, width, fit, interpolation)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def load_pixels(
    source: Any, height: int, width: int, channels: int, fit: str = "squash", interpolation: str = "bilinear"
) -> Any:
    """`open_image` and `prepare` in one: from a file to uint8 (height, width, channels)."""
    return prepare(open_image(source), height, width, channels, fit, interpolation)


def softmax(logits: Any) -> Any:
    """Probabilities along the last axis; float array in, float32 array out."""
    shifted = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits, axis=-1, keepdims=True))
    return (shifted / shifted.sum(axis=-1, keepdims=True)).astype(np.float32)
