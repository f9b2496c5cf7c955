"""Bundles, pictures, servers and browsers that the tests of the server share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.device.tiny import make_bundle
from tests.serve.serving import Running, serving
from tests.web.browser import chromium
from tests.web.conftest import COLOURS, paint
from tests.web.test_camera import write_film

BESIDE = ("ws://127.0.0.1:", "http://localhost:")
"""Further beginnings of addresses that the pages may ask for."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that tells red, green and blue pictures, with a temperature and a threshold."""
    return make_bundle(tmp_path_factory.mktemp("tiny") / "made", thresholds={"temperature": 0.53, "unknown": 0.6})


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another bundle of the same classes: larger, named otherwise, without thresholds."""
    return make_bundle(tmp_path_factory.mktemp("wide") / "made", size=16, name="wide")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Colour -> picture."""
    folder = tmp_path_factory.mktemp("pictures")
    return {colour: paint(folder / f"{colour}.png", colour) for colour in COLOURS}


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Running]:
    """A server of one bundle."""
    with serving(tiny) as running:
        yield running


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def filmed(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera shows green."""
    folder = tmp_path_factory.mktemp("filmed")
    film = write_film(folder / "green.y4m", "green")
    flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}")
    with chromium(playwright, folder, *flags, beside=BESIDE) as found:
        yield found


@pytest.fixture(scope="module")
def browser(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(playwright, tmp_path_factory.mktemp("browser"), beside=BESIDE) as found:
        yield found
