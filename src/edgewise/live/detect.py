"""What finds the things that are to be classified: one table of detectors, and `open_detector`.

::

    none             the whole frame is classified
    haar             OpenCV's frontal faces by Haar cascade (Viola and Jones, 2001), which comes with PyPI's OpenCV
    lbp              OpenCV's frontal faces by local binary patterns; Debian's package opencv-data has the file
    haar:FILE.xml    another cascade (lbp:FILE.xml likewise)
    yunet:FILE.onnx  YuNet (Wu, Peng and Yu, 2023), run by OpenCV
    onnx:FILE.onnx   another detector as an ONNX file with one of the layouts in `edgewise.live.detect_onnx`

Cascades and YuNet look at the frame scaled down to `width` pixels, because their time grows with the pixels: a
cascade at half the width takes about a quarter of it. What is lost are small things: a cascade of 24 x 24 finds no face
that is narrower than 24 pixels of the scaled frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgewise.device import Pixels
from edgewise.device.onnxfile import BadModel, check_any_model, read_model
from edgewise.errors import ConfigError, UnavailableError, UntrustedError, nearest
from edgewise.live.base import Box, Detector
from edgewise.live.opencv import load_opencv

MIN_SIDE = 30
"""The least width of a found thing in pixels of the frame, as in the loops that this one is measured against."""
STEP, NEIGHBOURS = 1.1, 5
WIDTH = 320
SURE = 0.7
"""The least score of YuNet."""
CASCADES = {"haar": "haarcascade_frontalface_default.xml", "lbp": "lbpcascade_frontalface_improved.xml"}
PLACES = ("/usr/share/opencv4/lbpcascades", "/usr/local/share/opencv4/lbpcascades", "/usr/share/opencv/lbpcascades")


class Cascade:
    """A cascade of OpenCV; see `edgewise.live.base.Detector`. Scores are the counts of joined neighbours."""

    def __init__(self, name: str, classifier: Any, width: int) -> None:
        self.name = name
        self._classifier = classifier
        self._width = width

    def find(self, pixels: Pixels) -> list[Box]:
        """Boxes, the surest first."""
        import cv2

        small, scale = shrink(pixels, self._width)
        least = max(1, round(MIN_SIDE * scale))
        found, neighbours = self._classifier.detectMultiScale2(
            cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), scaleFactor=STEP, minNeighbors=NEIGHBOURS, minSize=(least, least)
        )
        boxes = []
        for box, count in zip(found, neighbours, strict=True):
            left, top, width, height = (float(value) / scale for value in box)
            boxes.append(Box(left, top, width, height, float(count)))
        return sorted(boxes, key=lambda box: -box.score)


class YuNet:
    """OpenCV's `FaceDetectorYN`; see `edgewise.live.base.Detector`. Scores are 0..1."""

    def __init__(self, name: str, net: Any, width: int) -> None:
        self.name = name
        self._net = net
        self._width = width

    def find(self, pixels: Pixels) -> list[Box]:
        """Boxes, the surest first."""
        import cv2

        small, scale = shrink(pixels, self._width)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, found = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        boxes = []
        for row in [] if found is None else found.tolist():
            left, top, width, height = (value / scale for value in row[:4])
            boxes.append(Box(left, top, width, height, row[-1]))
        return sorted(boxes, key=lambda box: -box.score)


def open_cascade(kind: str, what: str, width: int) -> Detector:
    """`haar`, `lbp`, or a cascade file.

    Raises:
        UnavailableError: L06, no OpenCV; L12, no such cascade here.
        UntrustedError: L13, not a cascade.
    """
    cv2 = load_opencv("this detector")
    path = Path(what) if what else _shipped(CASCADES[kind], str(cv2.data.haarcascades))
    if path is None or not path.is_file():
        raise UnavailableError(
            f"no cascade for {kind}",
            code="L12",
            where={"file": path or CASCADES[kind]},
            fix=f"sudo apt install opencv-data, or name a file: --detector {kind}:FILE.xml; haar comes with OpenCV",
        )
    try:
        classifier = cv2.CascadeClassifier(str(path))
        refused = "it has no cascade in it" if classifier.empty() else ""
    except (cv2.error, SystemError) as problem:  # OpenCV's constructors wrap their own errors so
        refused = str(problem.__cause__ or problem).strip().splitlines()[0]
    if refused:
        raise UntrustedError("not a cascade of OpenCV", code="L13", where={"file": path}, why=refused)
    shown = f"{kind}:{path} sha256 {sha256(path.read_bytes())}" if what else kind
    return Cascade(f"{shown}, {width or 'full'} wide", classifier, width)


def open_yunet(_: str, what: str, width: int) -> Detector:
    """`yunet:FILE`: the file is looked into before OpenCV opens it, and its sha256 is in the name.

    Raises:
        UnavailableError: L06, no OpenCV.
        UntrustedError: not a file that may be opened (U60 to U65), or not YuNet (L13).
    """
    model = read_checked(what)
    cv2 = load_opencv("this detector")
    empty: Any = []
    try:
        import numpy as np

        net = cv2.FaceDetectorYN.create("onnx", np.frombuffer(model, np.uint8), empty, (WIDTH, WIDTH), SURE)
        net.detect(np.zeros((WIDTH, WIDTH, 3), np.uint8))
    except cv2.error as problem:
        raise UntrustedError(
            "not a YuNet model",
            code="L13",
            where={"file": what},
            why=str(problem).strip().splitlines()[0],
            fix="take face_detection_yunet_2023mar.onnx of opencv_zoo, or --detector onnx:FILE for another net",
        ) from None
    return YuNet(f"yunet:{what} sha256 {sha256(model)}, {width or 'full'} wide", net, width)


def open_onnx(_: str, what: str, width: int) -> Detector:  # noqa: ARG001 - the net has one size
    """`onnx:FILE`; see `edgewise.live.detect_onnx`."""
    from edgewise.live.detect_onnx import OnnxDetector

    model = read_checked(what)
    return OnnxDetector(f"onnx:{what} sha256 {sha256(model)}", model, what)


DETECTORS: dict[str, Callable[[str, str, int], Detector]] = {
    "haar": open_cascade,
    "lbp": open_cascade,
    "yunet": open_yunet,
    "onnx": open_onnx,
}
"""Kind -> what opens it, given kind, the words behind the colon, and the width to look at."""
NEEDS_FILE = ("yunet", "onnx")


def open_detector(text: str, width: int = WIDTH) -> Detector | None:
    """What `--detector` names; None for `none`.

    Args:
        text: see the top of this file.
        width: pixels to which a wider frame is scaled down for the detector; 0 leaves it as it is.

    Raises:
        ConfigError: L11, not a detector.
        UnavailableError, UntrustedError: as the detector's own `open_...` says.
    """
    kind, _, what = text.partition(":")
    if text == "none":
        return None
    if kind not in DETECTORS or (kind in NEEDS_FILE and not what):
        known = ["none", *DETECTORS]
        why = f"{kind} needs a file" if kind in DETECTORS else nearest(kind, known)
        fix = "none, haar, lbp, yunet:FILE.onnx or onnx:FILE.onnx"
        raise ConfigError(f'no detector "{text}"', code="L11", why=why, fix=fix)
    return DETECTORS[kind](kind, what, width)


def shrink(pixels: Pixels, width: int) -> tuple[Pixels, float]:
    """A frame scaled down to `width` pixels, each the mean of what it covers, and the factor; 0 leaves it."""
    if not width or pixels.shape[1] <= width:
        return pixels, 1.0
    import cv2

    scale = width / pixels.shape[1]
    size = (width, max(1, round(pixels.shape[0] * scale)))
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small, scale


def read_checked(file: str) -> bytes:
    """The bytes of an ONNX file whose header says nothing that a runtime should not meet.

    Raises:
        UntrustedError: U60 to U65.
    """
    try:
        model = read_model(file)
        check_any_model(model)
    except OSError as problem:
        raise UntrustedError(
            "the model file cannot be read", code="U60", where={"file": file}, why=str(problem)
        ) from None
    except BadModel as problem:
        raise UntrustedError(problem.what, code=problem.code, where={"file": file}, why=str(problem)) from None
    return model


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _shipped(name: str, folder: str) -> Path | None:
    return next((path for place in (folder, *PLACES) if (path := Path(place) / name).is_file()), None)
