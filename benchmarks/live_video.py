"""The test video: ``python -m benchmarks.live_video out.mp4 [--frames 300]``.

A real photograph of a face (scikit-image's astronaut.png, NASA, public domain), moved, scaled and lit differently from
frame to frame, 640 x 480 at 30 a second, with sensor noise; see `edgewise.live.testing`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage
from PIL import Image

from edgewise.live.record import Recorder
from edgewise.live.testing import FRAMES, frames

FPS = 30.0


def photograph() -> Image.Image:
    """The face."""
    return Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")


def write_video(path: Path, count: int = FRAMES, start: int = 0) -> None:
    """Write `count` frames from `start` on."""
    recorder = Recorder(path, FPS, paced=False)
    for picture in frames(photograph(), count, start):
        recorder.add(picture, 0.0)
    recorder.close()


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=FRAMES)
    options = parser.parse_args()
    write_video(options.out, options.frames)
    print(f"{options.out}: {options.frames} frames")


if __name__ == "__main__":
    main()
