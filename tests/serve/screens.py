"""The pictures of docs/serve.md, taken of the real page in headless Chromium.

    python -m tests.serve.screens BUNDLE BUNDLE2 docs/img

The bundles are two of `make demo` (handwritten digits); the live picture is that of `edgewise.live.testing` with
the tests' bundle of three colours on each face.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from sklearn.datasets import load_digits

from edgewise.live.testing import frames
from edgewise.serve.source import Asked
from tests.device.tiny import make_bundle
from tests.serve.serving import serving
from tests.web.browser import chromium, visit

COLOURS_SHOWN = 96


def take(page: Page, path: Path) -> None:
    """The whole page as a PNG of few colours: well below 100 kB."""
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as shot:
        few = shot.convert("RGB").quantize(COLOURS_SHOWN, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
    print(path, path.stat().st_size)


def digits(folder: Path) -> Iterator[Path]:
    """Five handwritten digits as PNG."""
    images = load_digits().images
    for index in (1790, 1793, 1725, 1746, 1768):
        path = folder / f"digit-{index}.png"
        Image.fromarray((images[index] * 255 / 16).astype(np.uint8)).save(path)
        yield path


def write_film(path: Path) -> None:
    """The test video, its first ten seconds."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (640, 480))
    for pixels in frames(Image.fromarray(skimage.data.astronaut()), 250):
        writer.write(np.ascontiguousarray(pixels[..., ::-1]))
    writer.release()


def main(first: Path, second: Path, out: Path) -> None:
    """Take both pictures."""
    out = out.resolve()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        write_film(folder / "film.avi")
        colours = make_bundle(folder / "made", name="colours")
        with chromium(playwright, folder, beside=("ws://127.0.0.1:",)) as browser:
            with serving(first, second) as running:
                enter = f"?token={running.token}"
                with visit(browser, running.address, enter=enter, viewport={"width": 1280, "height": 720}) as seen:
                    for path in digits(folder):
                        seen.choose(path)
                        seen.page.wait_for_selector(f"#gallery button[title='{path.name}'][aria-current]")
                    seen.page.wait_for_timeout(300)  # the bars move
                    take(seen.page, out / "serve-compare.png")
            with contextlib.chdir(folder), serving(colours, live=Asked("film.avi", "haar")) as running:
                enter = f"?token={running.token}"
                with visit(browser, running.address, enter=enter, viewport={"width": 1120, "height": 720}) as seen:
                    seen.page.locator("#result-0:not([data-state=empty])").wait_for()
                    seen.page.locator("#threshold").fill("30")
                    seen.page.locator("#threshold").blur()
                    seen.page.wait_for_timeout(3000)
                    take(seen.page, out / "serve-live.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
