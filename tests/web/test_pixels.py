"""pixels.js makes the pixels of `edgewise.device.preprocess`, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgewise.device.preprocess import FITS, MAX_PIXELS, RESAMPLE, prepare
from edgewise.export import web

PAGE = Path(web.__file__).parent / "page"
HERE = Path(__file__).parent
pytestmark = pytest.mark.slow  # starts node on a million pixels

Case = tuple[np.ndarray, dict[str, Any]]


def node(script: str, *words: str, stdin: bytes = b"") -> bytes:
    """Run a script beside this file; node is needed for the tests only."""
    program = shutil.which("node")
    assert program, "the page's scripts are tested in node: apt-get install nodejs"
    done = subprocess.run([program, str(HERE / script), *words], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def in_javascript(cases: list[Case]) -> list[np.ndarray]:
    heads = [
        {
            "width": picture.shape[1],
            "height": picture.shape[0],
            "channels": picture.shape[2],
            "spec": spec,
        }
        for picture, spec in cases
    ]
    told = json.dumps(heads).encode() + b"\n" + b"".join(picture.tobytes() for picture, _ in cases)
    answer = np.frombuffer(node("prepare.mjs", str(PAGE / "pixels.js"), stdin=told), np.uint8)
    shapes = [(spec["height"], spec["width"], spec["channels"]) for _, spec in cases]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    assert ends[-1] == len(answer)
    return [part.reshape(shape) for part, shape in zip(np.split(answer, ends[:-1]), shapes, strict=True)]


def in_python(case: Case) -> np.ndarray:
    picture, spec = case
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    pixels: np.ndarray = prepare(image, **spec)
    return pixels


def differing(cases: list[Case]) -> tuple[int, int]:
    """(values that differ, values compared)."""
    pairs = list(zip(cases, in_javascript(cases), strict=True))
    wrong = [(case[0].shape, case[1]) for case, made in pairs if not np.array_equal(in_python(case), made)]
    assert not wrong, wrong[:5]
    return sum(int((in_python(case) != made).sum()) for case, made in pairs), sum(made.size for _, made in pairs)


def picture(random: np.random.Generator, height: int, width: int, kind: str) -> np.ndarray:
    """Noise, black and white noise (which makes bicubic overshoot), or a smooth ramp; RGB, or one channel of it."""
    if kind == "ramp":
        rows, columns = np.mgrid[0:height, 0:width]
        values = np.stack([rows * 3 + columns, columns * 2, rows + 255 - columns], axis=-1) % 256
    elif kind == "black and white":
        values = random.integers(0, 2, (height, width, 3)) * 255
    else:
        values = random.integers(0, 256, (height, width, 3))
    values = values.astype(np.uint8)
    return values[..., :1] if kind == "one channel" else values


def test_every_fit_and_filter_over_many_sizes_is_bit_exact(capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    kinds = ("noise", "black and white", "ramp", "one channel")
    cases: list[Case] = []
    for fit in FITS:
        for interpolation in sorted(RESAMPLE):
            for number in range(120):
                height, width = (int(side) for side in random.integers(1, 160, 2))
                wanted = [int(side) for side in random.integers(1, 65, 2)]
                if number % 10 == 0:
                    wanted = [height, width]
                if number % 10 == 1:
                    wanted = [height, int(random.integers(1, 65))]  # one direction stays: one pass falls away
                if number % 10 == 2:
                    height = width = 2 * wanted[0]
                spec = {
                    "height": wanted[0],
                    "width": wanted[1],
                    "channels": (3, 1)[number % 2],
                    "fit": fit,
                    "interpolation": interpolation,
                }
                cases.append((picture(random, height, width, kinds[number % 4]), spec))
    wrong, values = differing(cases)
    with capsys.disabled():
        print(f"\npixels.js: {wrong} of {values:,} values differ from preprocess.py in {len(cases)} cases")


@pytest.mark.parametrize("fit", FITS)
def test_photograph_sizes_are_bit_exact(fit: str) -> None:
    """Larger than the strip that is read at a time, with box edges that 32-bit floats round."""
    random = np.random.default_rng(1)
    sizes = [(1080, 1923), (2001, 1000), (479, 640), (7, 3001)]
    cases: list[Case] = [
        (
            picture(random, *size, "noise"),
            {"height": 224, "width": 192, "channels": channels, "fit": fit, "interpolation": interpolation},
        )
        for size, channels, interpolation in zip(sizes, (3, 1, 3, 1), ("bilinear", "bicubic") * 2, strict=True)
    ]
    assert differing(cases)[0] == 0


def test_a_tall_sliver_takes_the_same_detour() -> None:
    sliver = picture(np.random.default_rng(2), MAX_PIXELS // 224 + 1, 2, "noise")
    spec = {"height": 224, "width": 224, "channels": 1, "fit": "squash", "interpolation": "bilinear"}
    assert differing([(sliver, spec)])[0] == 0
