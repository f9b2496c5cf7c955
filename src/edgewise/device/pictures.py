"""Opening any picture file in full, and bringing what Pillow opened to 8-bit RGB or gray; `preprocess` is the door.

The syntax is that of Python 3.6, because this file is copied into every bundle's ``runner.py``.
"""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise.device.decode import MAX_PIXELS, BadImage, decode
from edgewise.device.preprocess import FORMATS, content_of, pillow

if TYPE_CHECKING:
    from PIL import Image


def opened(source: Any) -> Any:
    """What `open_image` gives."""
    try:
        if isinstance(source, (str, os.PathLike)):
            if not os.path.isfile(source):
                raise BadImage("not a regular file")
            if os.path.getsize(source) == 0:
                raise BadImage("0 bytes")
        known = pillow()
        if known is None:
            return decode(content_of(source))
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


def converted(image: "Image.Image", channels: int) -> "Image.Image":
    """What `to_mode` gives."""
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


def _gray(values: Any) -> Any:
    """An 8-bit gray image of an array; fractions are cut off, values outside 0..255 limited to it."""
    return pillow()[0].fromarray(np.clip(values, 0, 255).astype(np.uint8))
