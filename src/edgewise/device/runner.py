"""Runs one edgewise bundle: classify pictures or a camera, verify the files, time it.

    python runner.py classify IMAGE... [--top K] [--threshold C] [--threads N]
    python runner.py camera [SOURCE] [--every N] [--frames N] [--top K] [--threshold C] [--threads N]
    python runner.py bench [IMAGE] [--runs N] [--threads N]
    python runner.py verify
    python runner.py tensorrt FILE.onnx
    python runner.py probe [--runs N] [--threads N] [--baseline]

Answers are JSON, one line each, on standard output; words go to standard error. A confidence below the bundle's
threshold makes the label null, which is "unknown"; the guesses stay under "top". Needs Python 3.6 or newer, numpy and
onnxruntime 1.10 or newer. PNG, PPM, BMP and .npy are read with that alone; Pillow 8 or newer reads JPEG, GIF, WebP and
TIFF too and is faster, OpenCV reads JPEG and cameras. Exit codes: 0 ok, 2 usage, 3 a picture cannot be decoded, 4
something is not installed or the camera is gone, 6 the bundle is damaged or was changed, 130 Ctrl-C.
"""

import gc
import os
import sys
import time
from typing import List, Optional

_FIRST_LINE = time.monotonic()  # before the slow imports: they are part of a cold start
if __name__ == "__main__":
    gc.disable()  # importing makes many objects and no garbage; see `load_session`
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads spin for a while; nothing here asks for them
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime 1.32 writes a device id and may report it unless told before

from edgewise.device.decode import BadImage, NoDecoder  # noqa: E402
from edgewise.device.shipped.answering import answer, check_pillow, read_picture  # noqa: E402
from edgewise.device.shipped.opening import open_bundle  # noqa: E402
from edgewise.device.shipped.refused import Refused, say  # noqa: E402
from edgewise.device.shipped.words import read_words  # noqa: E402


def classify(folder: str, images: List[str], top: int, threshold: Optional[float], threads: int) -> int:
    """Print one line for each picture; 4 when one needs a package that is missing, 3 when one is damaged, else 0."""
    check_pillow()
    manifest, session = open_bundle(folder, threads)
    code = 0
    for path in images:
        try:
            line = answer(manifest, session, read_picture(path), top, threshold)
        except BadImage as problem:
            code = max(code, 4 if isinstance(problem, NoDecoder) else 3)
            line = {"error": str(problem)}
        say(dict(file=path, **line))
    return code


def main(argv: Optional[List[str]] = None) -> int:
    """The command line; returns the exit code."""
    here = os.path.dirname(os.path.abspath(__file__))
    command, words, options = read_words(sys.argv[1:] if argv is None else argv, here)
    bundle, threads = options["--bundle"], options.get("--threads", 1)
    first = words[0] if words else None
    try:
        if command == "classify":
            return classify(bundle, words, options["--top"], options["--threshold"], threads)
        if command == "camera":
            from edgewise.device.shipped.camera import camera

            every, frames = options["--every"], options["--frames"]
            return camera(bundle, first or "0", every, frames, options["--top"], options["--threshold"], threads)
        if command == "bench":
            from edgewise.device.shipped.clocks import bench

            return bench(bundle, first, options["--runs"], threads, _FIRST_LINE)
        if command == "verify":
            from edgewise.device.shipped.files import verify

            return verify(bundle)
        if command == "tensorrt":
            from edgewise.device.shipped.files import tensorrt

            return tensorrt(bundle, str(first))
        from edgewise.device.shipped.clocks import probe

        started = _FIRST_LINE if options["--started"] is None else options["--started"]
        return probe(bundle, options["--runs"], threads, options["--baseline"], started)
    except Refused as problem:
        print(problem.message, file=sys.stderr)
        return problem.exit_code
    except BadImage as problem:
        print("error: {}: {}".format(first, problem), file=sys.stderr)
        return 4 if isinstance(problem, NoDecoder) else 3
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
