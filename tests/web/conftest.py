"""Bundles and pages that the tests of the web target share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Playwright, sync_playwright

from edgewise.export.web import write_web
from edgewise.export.web.runtime import runtime_files
from tests.device.tiny import make_bundle
from tests.web.browser import chromium, runtime, served

COLOURS = {"red": (220, 40, 30), "green": (30, 200, 50), "blue": (20, 50, 230)}


def paint(path: Path, colour: str, size: tuple[int, int] = (97, 131)) -> Path:
    """A noisy picture of one colour; (height, width)."""
    random = np.random.default_rng(len(colour))
    noise = random.integers(-20, 21, (*size, 3))
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of onnxruntime-web as `npm install` leaves them; unpacking the package takes a second."""
    place = tmp_path_factory.mktemp("npm") / "node_modules" / "onnxruntime-web" / "dist"
    place.mkdir(parents=True)
    for name, data in runtime_files(runtime()).items():
        (place / name).write_bytes(data)
    return place.parents[2]


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(playwright, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def make_page(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the page of the tiny bundle, which tells red, green and blue pictures; keywords change its manifest."""

    def make(samples: tuple[str, ...] = (), **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("page")
        bundle = make_bundle(folder / "made", **changes)
        painted = [paint(folder / f"{colour}.png", colour) for colour in samples]
        write_web(bundle, folder / "web", runtime=unpacked, samples=painted)
        return folder / "web"

    return make


@pytest.fixture(scope="module")
def address(make_page: Callable[..., Path]) -> Iterator[str]:
    """The page of the tiny bundle with three samples, served as `python3 -m http.server` would."""
    with served(make_page(samples=tuple(COLOURS))) as found:
        yield found
