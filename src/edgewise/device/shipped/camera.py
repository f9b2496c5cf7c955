"""``runner.py camera``: a camera, a GStreamer pipeline or a video file, frame by frame. Python 3.6."""

import os
import sys
from typing import Any, Optional

import numpy as np

from edgewise.device.shipped.answering import answer
from edgewise.device.shipped.opening import open_bundle
from edgewise.device.shipped.refused import Refused, say

INSTALL_CV2 = "pip install opencv-python-headless, or: sudo apt install python3-opencv"


def camera(
    folder: str, source: str, every: int, frames: int, top: int, threshold: Optional[float], threads: int
) -> int:
    """Classify every n-th frame of a camera, a GStreamer pipeline or a video file, one line each, and a last line.

    Ends with 0 at the end of a file or after `frames` answers, with 4 when the camera is lost, with 130 after Ctrl-C.
    """
    try:
        import cv2
    except ImportError as problem:
        raise Refused(4, "E34", "camera needs OpenCV", sys.executable, str(problem), INSTALL_CV2) from None
    manifest, session = open_bundle(folder, threads)
    capture = _open_camera(cv2, source)
    read = answered = 0
    ended = "lost"
    try:
        while not frames or answered < frames:
            there, frame = capture.read()
            if not there or frame is None:
                ended = "end" if os.path.isfile(source) else "lost"
                break
            read += 1
            if (read - 1) % every == 0:
                picture = frame if frame.ndim == 2 else np.ascontiguousarray(frame[..., 2::-1])  # BGR to RGB
                say(dict(frame=read - 1, **answer(manifest, session, picture, top, threshold)))
                answered += 1
        else:
            ended = "enough"
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        capture.release()
    say({"camera": source, "frames": read, "answered": answered, "ended": ended})
    if ended == "lost":
        why = "no frame came after {} frames".format(read)
        raise Refused(
            4, "E36", "the camera is lost", source, why, "plug it in again and start anew; `dmesg` tells more"
        )
    return 130 if ended == "interrupted" else 0


def _open_camera(cv2: Any, source: str) -> Any:
    if source.isdigit():
        capture = cv2.VideoCapture(int(source))
    elif "!" in source:
        capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
    else:
        capture = cv2.VideoCapture(source)
    if capture.isOpened():
        return capture
    capture.release()
    if "!" in source:
        has = "GStreamer: YES" in " ".join(cv2.getBuildInformation().split())
        why = "the pipeline does not start" if has else "this OpenCV was built without GStreamer"
        fix = "try it with gst-launch-1.0; it ends in appsink" if has else "sudo apt install python3-opencv"
    else:
        found = sorted(name for name in os.listdir("/dev") if name.startswith("video")) if os.path.isdir("/dev") else []
        why = "cameras here: {}".format(", ".join("/dev/" + name for name in found) or "none")
        fix = "is another program using it, and are you in the group video?"
    raise Refused(4, "E35", "the camera cannot be opened", source, why, fix)
