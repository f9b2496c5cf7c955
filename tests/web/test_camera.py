"""The camera in a real browser, played from a file: live, standing still, lost, refused, absent, over plain http."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Playwright

from tests.web.browser import Visit, chromium, served, visit
from tests.web.conftest import COLOURS, paint

pytestmark = pytest.mark.slow


def write_film(path: Path, colour: str, size: tuple[int, int] = (240, 320), frames: int = 8) -> Path:
    """A raw YUV 4:2:0 film (y4m) of one colour, ITU-R 601 limited range; (height, width)."""
    red, green, blue = (value / 255 for value in COLOURS[colour])
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    values = (16 + 219 * luma, 128 + 224 * (blue - luma) / 1.772, 128 + 224 * (red - luma) / 1.402)
    planes = [
        np.full(side, round(value), np.uint8).tobytes()
        for value, side in zip(values, (size, (size[0] // 2, size[1] // 2), (size[0] // 2, size[1] // 2)), strict=True)
    ]
    head = f"YUV4MPEG2 W{size[1]} H{size[0]} F30:1 Ip A1:1 C420\n".encode()
    path.write_bytes(head + (b"FRAME\n" + b"".join(planes)) * frames)
    return path


@pytest.fixture(scope="module")
def filmed(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose camera shows green."""
    folder = tmp_path_factory.mktemp("filmed")
    film = write_film(folder / "green.y4m", "green")
    flags = ("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}")
    with chromium(playwright, folder, *flags) as found:
        yield found


def started(seen: Visit, state: str) -> None:
    seen.page.locator("#camera").click()
    seen.page.wait_for_selector(f"html[data-camera={state}]", state="attached")


def nothing_is_claimed(seen: Visit) -> None:
    assert seen.text("#label") == "Nothing yet"
    assert seen.text("#top") == seen.text("#confidence") == seen.text("#announce") == ""
    assert seen.text("#fps") == "–"


def test_frames_are_classified_and_never_believed_after_the_camera(
    filmed: Browser, address: str, tmp_path: Path
) -> None:
    with visit(filmed, address, permissions=["camera"]) as seen:
        started(seen, "live")
        seen.page.locator("#label", has_text="green").wait_for()
        seen.page.locator("#fps:not(:text('–'))").wait_for()
        assert float(seen.text("#fps")) > 0
        seen.page.locator("#announce", has_text="green").wait_for(state="attached")  # read out when steady
        assert seen.text("#camera") == "Stop camera"
        assert seen.page.locator("#video").is_visible()
        pixel = seen.page.evaluate(
            "() => [...document.getElementById('pixels').getContext('2d').getImageData(4, 4, 1, 1).data]"
        )
        assert np.abs(np.array(pixel[:3]) - COLOURS["green"]).max() < 12

        seen.page.evaluate("() => document.getElementById('video').pause()")  # no new frames from here on
        seen.page.wait_for_selector("html[data-camera=waiting]", state="attached")
        nothing_is_claimed(seen)
        assert seen.text("#words") == "No new picture from the camera. Waiting for it."
        seen.page.evaluate("() => document.getElementById('video').play()")
        seen.page.wait_for_selector("html[data-camera=live]", state="attached")
        seen.page.locator("#label", has_text="green").wait_for()

        seen.page.evaluate(
            "() => document.getElementById('video').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))"
        )
        seen.page.wait_for_selector("html[data-camera=lost]", state="attached")
        seen.page.wait_for_timeout(300)  # an answer that was under way must not come back
        nothing_is_claimed(seen)
        assert seen.text("#words").startswith("The camera is gone")
        assert not seen.page.locator("#video").is_visible()

        started(seen, "live")
        seen.page.locator("#label", has_text="green").wait_for()
        seen.choose(paint(tmp_path / "red.png", "red"))  # a picture ends the camera
        seen.page.locator("#label", has_text="red").wait_for()
        assert seen.page.locator("html").get_attribute("data-camera") == "off"
        assert seen.page.evaluate("() => document.getElementById('video').srcObject") is None
        started(seen, "live")
        seen.page.locator("#camera").click()
        nothing_is_claimed(seen)
        assert seen.text("#camera") == "Start camera"


def test_a_refused_camera_is_told_and_pictures_still_work(filmed: Browser, address: str, tmp_path: Path) -> None:
    with visit(filmed, address) as seen:
        started(seen, "denied")
        nothing_is_claimed(seen)
        assert seen.text("#words").startswith("The camera is not allowed for this page.")
        seen.choose(paint(tmp_path / "blue.png", "blue"))
        seen.page.locator("#label", has_text="blue").wait_for()
        assert not seen.page.locator("#words").is_visible()


def test_no_camera_is_told(browser: Browser, address: str) -> None:
    with visit(browser, address, permissions=["camera"]) as seen:
        started(seen, "none")
        nothing_is_claimed(seen)
        assert seen.text("#words") == "There is no camera on this device."


def test_over_plain_http_from_elsewhere_pictures_work_and_the_camera_says_why_not(
    playwright: Playwright, make_page: Callable[..., Path], tmp_path: Path
) -> None:
    """As on a phone that opens http://192.168.x.y: no secure context."""
    flags = ("--host-resolver-rules=MAP board.example 127.0.0.1", "--proxy-bypass-list=board.example")
    beside = ("http://board.example:",)
    with (
        served(make_page()) as address,
        chromium(playwright, tmp_path, *flags, beside=beside) as found,
        visit(found, address.replace("127.0.0.1", "board.example")) as seen,
    ):
        assert not seen.page.evaluate("() => isSecureContext")
        started(seen, "insecure")
        assert seen.text("#words").startswith("Browsers give cameras only to pages with https")
        seen.choose(paint(tmp_path / "red.png", "red"))
        seen.page.locator("#label", has_text="red").wait_for()
