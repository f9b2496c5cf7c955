"""From a picture to its labels, as ``runner.py`` prints them. Python 3.6."""

import os
import time
from typing import Any, Dict, Optional

import numpy as np

from edgewise.device.decode import MAX_PIXELS, BadImage
from edgewise.device.preprocess import open_image, open_small, prepare, softmax
from edgewise.device.shipped.opening import thresholds_of
from edgewise.device.shipped.refused import Refused


def check_pillow() -> None:
    """Refuse a Pillow whose pixels are others; none at all will do."""
    try:
        import PIL
    except ImportError:
        return
    if int(PIL.__version__.split(".")[0]) < 8:
        why = "version 8 or newer is needed, or none"
        raise Refused(4, "E32", "Pillow is too old", PIL.__version__, why, "pip install -U Pillow")


def read_picture(path: str) -> Any:
    """What `prepare` takes: a decoded picture file, or a .npy array, uint8 (height, width[, 1 or 3]), gray or RGB."""
    if not path.endswith(".npy"):
        small = open_small(path)
        return open_image(path) if small is None else small
    if not os.path.isfile(path):
        raise BadImage("not a regular file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.size > 3 * MAX_PIXELS:
            raise ValueError("{} values, more than {}".format(array.size, 3 * MAX_PIXELS))
        return np.array(array)
    except (OSError, ValueError, SyntaxError, EOFError) as problem:
        raise BadImage("not an array of pixels: {}".format(problem)) from None


def answer(
    manifest: Dict[str, Any], session: Any, image: Any, top: int, threshold: Optional[float] = None
) -> Dict[str, Any]:
    """The labels of a decoded picture: from its pixels to the best `top`, with the time that took.

    The label is None, for unknown, where its confidence is below the threshold; that of the bundle unless one is given.
    """
    start = time.perf_counter()
    pixels = prepare(image, **preprocessing(manifest))
    temperature, chosen = thresholds_of(manifest)
    scores = softmax(session.run(None, {session.get_inputs()[0].name: pixels[np.newaxis]})[0], temperature)[0]
    best = [int(index) for index in np.argsort(-scores, kind="stable")[: max(1, top)]]
    ms = (time.perf_counter() - start) * 1e3
    ranked = [{"label": manifest["labels"][index], "confidence": round(float(scores[index]), 6)} for index in best]
    known = float(scores[best[0]]) >= (chosen if threshold is None else threshold)
    return dict(ranked[0], label=ranked[0]["label"] if known else None, top=ranked, ms=round(ms, 3))


def preprocessing(manifest: Dict[str, Any]) -> Dict[str, Any]:
    """What `prepare` is told besides the picture."""
    return {key: manifest["input"][key] for key in ("height", "width", "channels", "fit", "interpolation")}
