"""The page in a real browser: entering, files, slider, two bundles, cameras, hostile names, keyboard."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from edgewise.live.base import View
from edgewise.serve.limits import Limits
from edgewise.serve.source import Asked
from tests.device.tiny import make_bundle
from tests.serve.serving import Running, serving, wait_until
from tests.serve.test_watch import live, watching
from tests.web.browser import Visit, served, visit
from tests.web.conftest import COLOURS, paint
from tests.web.test_page import HOSTILE

pytestmark = pytest.mark.slow


@contextmanager
def entered(browser: Browser, running: Running, **context: Any) -> Iterator[Visit]:
    """The page, entered with the printed address."""
    with visit(browser, running.address, enter=f"?token={running.token}", **context) as seen:
        assert seen.page.url == running.address
        # The first request is the one that a user makes with the printed address; it is the only one with the token.
        assert [one for one in seen.asked if "token" in one] == [f"{running.address}?token={running.token}"]
        yield seen


def has(seen: Visit, selector: str, text: str) -> None:
    seen.page.locator(selector, has_text=text).first.wait_for()


def nothing_is_claimed(seen: Visit) -> None:
    assert seen.text("#label-0") == "Nothing yet"
    assert seen.text("#top-0") == seen.text("#confidence-0") == seen.text("#announce") == ""
    assert seen.text("#fps") == "–"


def test_the_token_is_gone_from_the_address_and_out_of_reach(browser: Browser, server: Running) -> None:
    with entered(browser, server) as seen:
        assert seen.page.evaluate("() => document.cookie") == ""  # HttpOnly
        assert seen.page.evaluate("() => location.href + document.referrer + JSON.stringify(history.state)") == (
            f"{server.address}null"
        )
        (cookie,) = seen.page.context.cookies()
        assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (f"edgewise-{server.port}", True, "Strict")
        assert cookie["value"] != server.token
        sent: list[Any] = []
        seen.page.on("request", lambda request: sent.append(request))
        seen.page.goto(f"{server.address}?token={server.token}")  # its redirect and the page's files come from here
        seen.page.wait_for_selector("html[data-state=ready]", state="attached")
        assert len(sent) > 8
        assert not [request.url for request in sent if "referer" in request.all_headers()]
        seen.asked.clear()
        seen.page.reload()
        seen.page.wait_for_selector("html[data-state=ready]", state="attached")
        assert seen.text("#name") == "tiny"
        assert seen.text("#about").startswith("3 classes, fp32,")


def test_without_the_token_the_page_is_refused(browser: Browser, server: Running) -> None:
    window = browser.new_context()
    try:
        page = window.new_page()
        for address in (server.address, f"{server.address}?token=wrong", f"http://localhost:{server.port}/"):
            answer = page.goto(address)
            assert answer
            assert answer.status == 403
            assert "open the address that `edgewise serve` printed" in (page.text_content("body") or "")
    finally:
        window.close()


def test_a_link_from_another_site_leads_in(browser: Browser, server: Running, tmp_path: Path) -> None:
    """As from a terminal that is a page itself: no strict cookie is sent along a redirect that another site began."""
    (tmp_path / "index.html").write_text(f'<a href="{server.address}?token={server.token}">the printed address</a>')
    with served(tmp_path) as elsewhere:
        window = browser.new_context()
        try:
            page = window.new_page()
            page.goto(elsewhere.replace("127.0.0.1", "localhost"))  # another site than 127.0.0.1
            page.get_by_role("link").click()
            page.wait_for_selector("html[data-state=ready]", state="attached")
            assert page.url == server.address
            page.go_back()
            assert "token" not in page.url  # its place in the history was taken
        finally:
            window.close()


def test_a_page_elsewhere_can_neither_frame_nor_ask(browser: Browser, server: Running, tiny: Path) -> None:
    """Another server on this machine: the same site to the browser, which sends the cookie along."""
    with serving(tiny) as other:
        window = browser.new_context()
        try:
            page = window.new_page()
            page.goto(f"{server.address}?token={server.token}")
            page.goto(f"{other.address}?token={other.token}")
            asked = f"""async () => {{
              const found = [];
              const common = {{ mode: "no-cors", credentials: "include" }};
              for (const [path, options] of [["v1/model", {{}}], ["v1/classify", {{ method: "POST", body: "x" }}]]) {{
                found.push(await fetch("{server.address}" + path, {{ ...common, ...options }})
                  .then((answer) => answer.type, () => "blocked"));
              }}
              const socket = new WebSocket("ws://127.0.0.1:{server.port}/v1/live");
              found.push(await new Promise((tell) => {{
                socket.onopen = () => tell("open");
                socket.onerror = () => tell("blocked");
              }}));
              return found;
            }}"""
            blank = window.new_page()
            blank.goto(f"{other.address}style.css")  # a document of the other server; its policy stops it as well
            assert blank.evaluate(asked) == ["blocked"] * 3
            lines = [line for line in server.lines if "/v1/" in line and " 200 " in line and "POST" in line]
            assert lines == []
        finally:
            window.close()


def test_files_are_classified_dropped_and_told(browser: Browser, server: Running, pictures: dict[str, Path]) -> None:
    with entered(browser, server) as seen:
        nothing_is_claimed(seen)
        for colour in COLOURS:
            seen.choose(pictures[colour])
            has(seen, "#label-0", colour)
            assert seen.text("#announce") == f"{colour}, {seen.text('#confidence-0')}"
        names, medians = (
            seen.page.locator(f"#stage-rows {part}").all_text_contents() for part in ("th", "td:nth-child(2)")
        )
        rows = dict(zip(names, medians, strict=True))
        assert list(rows) == ["decode", "prepare", "classify", "the rest"]
        assert all(text.endswith(" ms") and float(text[:-3]) >= 0 for text in rows.values())
        assert seen.text("#whole-ms").endswith(" ms")
        files = [
            ("red.png", pictures["red"].read_bytes()),
            ("empty.png", b""),
            ("page.jpg", b"<html><script>alert(4)</script></html>"),
            ("half.png", pictures["green"].read_bytes()[:500]),
            ("large.jpg", b""),  # is filled in the browser
        ]
        seen.page.evaluate(
            """(files) => {
              const dropped = new DataTransfer();
              for (const [name, text] of files) {
                const large = name === "large.jpg" && new Uint8Array((16 << 20) + 1);
                const bytes = large || Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                dropped.items.add(new File([bytes], name));
              }
              document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true}));
            }""",
            [(name, base64.b64encode(data).decode()) for name, data in files],
        )
        seen.page.locator("#problems li").nth(3).wait_for()
        told = dict(line.split(": ", 1) for line in seen.page.locator("#problems li").all_text_contents())
        assert list(told) == [name for name, _ in files[1:]]
        assert told["empty.png"] == "the file is empty"
        assert told["large.jpg"] == "the picture is too large: more than 16 MB"
        assert told["page.jpg"] == "not a picture that can be read: its content is of no known format"
        assert told["half.png"].startswith("not a picture that can be read: ")
        assert seen.text("#label-0") == "red"
        assert all("422" in line for line in seen.problems)  # what the browser says of such an answer
        seen.problems.clear()


def test_the_slider_starts_at_the_bundles_threshold_and_says_unknown(
    browser: Browser, server: Running, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), (140, 110, 100)).save(tmp_path / "muddy.png")
    with entered(browser, server) as seen:
        assert seen.text("#limit") == "60 %"
        assert seen.text("#meaning") == "Below it the answer is “unknown”. The bundle's own: 60.0 %."
        seen.choose(tmp_path / "muddy.png")
        has(seen, "#label-0", "unknown")
        share = server.classify(tmp_path / "muddy.png").json()["results"][0]["confidence"]
        assert seen.text("#confidence-0") == f"best guess below, {100 * share:.1f} %"
        assert seen.text("#announce").startswith("unknown, best guess below")
        seen.page.locator("#threshold").fill("20")
        assert (seen.text("#limit"), seen.text("#label-0")) == ("20 %", "red")
        seen.page.locator("#threshold").focus()
        seen.page.keyboard.press("End")
        assert (seen.text("#limit"), seen.text("#label-0")) == ("99 %", "unknown")


def test_two_bundles_answer_side_by_side(
    browser: Browser, tiny: Path, wide: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), (140, 110, 100)).save(tmp_path / "muddy.png")
    with serving(tiny, wide) as running, entered(browser, running) as seen:
        assert seen.page.title() == "tiny and wide"
        seen.choose(pictures["blue"])
        has(seen, "#label-0", "blue")
        assert seen.text("#label-1") == "blue"
        assert seen.text("#agreement") == "Both say blue."
        assert seen.page.locator("#stage-head th").all_text_contents() == ["Stage", "tiny", "wide", "Share"]
        classify = seen.page.locator("#stage-rows tr", has_text="classify").locator("td").all_text_contents()
        assert len(classify) == 3
        assert all(text.endswith(" ms") for text in classify[:2])
        one, other = (seen.page.locator(f"#result-{i}").bounding_box() for i in (0, 1))
        assert one
        assert other
        assert one["y"] == other["y"]
        assert one["x"] + one["width"] <= other["x"]
        seen.choose(tmp_path / "muddy.png")
        has(seen, "#label-0", "unknown")
        seen.page.locator("#threshold").fill("40")
        shares = [result["confidence"] for result in running.classify(tmp_path / "muddy.png").json()["results"]]
        expected = ["red" if share >= 0.4 else "unknown" for share in shares]
        assert expected == ["red", "unknown"]  # the temperature of one of them makes it surer
        assert [seen.text("#label-0"), seen.text("#label-1")] == expected
        assert seen.text("#agreement") == "They differ: red, unknown."


def test_the_browsers_camera_is_classified_by_the_server(
    filmed: Browser, server: Running, pictures: dict[str, Path]
) -> None:
    with entered(filmed, server, permissions=["camera"]) as seen:
        seen.page.locator("#camera").click()
        has(seen, "#label-0", "green")
        seen.page.locator("#fps:not(:text('–'))").wait_for()
        assert float(seen.text("#fps")) > 0
        stages = seen.page.locator("#stage-rows th").all_text_contents()
        assert stages == ["encode", "decode", "prepare", "classify", "the rest"]
        seen.page.locator("#announce", has_text="green").wait_for(state="attached")  # read out when steady
        seen.page.evaluate("() => document.getElementById('video').pause()")  # no new frames from here on
        seen.page.wait_for_selector("html[data-camera=waiting]", state="attached")
        nothing_is_claimed(seen)
        assert seen.text("#words") == "No new picture from the camera. Waiting for it."
        seen.page.evaluate("() => document.getElementById('video').play()")
        has(seen, "#label-0", "green")
        seen.choose(pictures["red"])  # a picture ends the camera
        has(seen, "#label-0", "red")
        assert seen.page.evaluate("() => document.getElementById('video').srcObject") is None
        seen.page.locator("#camera").click()
        has(seen, "#label-0", "green")
        seen.page.locator("#camera").click()
        nothing_is_claimed(seen)


def test_a_refused_camera_is_told(filmed: Browser, server: Running) -> None:
    with entered(filmed, server) as seen:
        seen.page.locator("#camera").click()
        seen.page.wait_for_selector("html[data-camera=denied]", state="attached")
        nothing_is_claimed(seen)
        assert seen.text("#words").startswith("The camera is not allowed for this page.")


def test_a_server_that_goes_away_is_told_and_nothing_is_claimed(filmed: Browser, tiny: Path) -> None:
    with serving(tiny) as running, entered(filmed, running, permissions=["camera"]) as seen:
        seen.page.locator("#camera").click()
        has(seen, "#label-0", "green")
        assert running.ready
        running.ready.stop()
        has(seen, "#problems li", "the server does not answer")
        nothing_is_claimed(seen)
        assert seen.text("#camera") == "Start camera"
        seen.problems.clear()  # the browser's own words of refused connections


def test_the_live_view_shows_the_source_and_no_signal(
    browser: Browser, tiny: Path, wide: Path, pictures: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running_on, unplugged = threading.Event(), threading.Event()

    def views() -> Generator[View]:
        number = 0
        while not running_on.is_set():
            number += 1
            if unplugged.is_set():
                yield View("no signal", note="usb:0 unplugged, trying again in 4 s")
            else:
                view = live(number, "blue", size=(120, 160))
                stages = {"crop": 0.5, **view.stages, **({"detect": 40.0} if number % 5 == 0 else {})}
                yield replace(view, stages=stages)
            time.sleep(0.03)

    with (
        watching(monkeypatch, views(), tiny, wide, limits=replace(Limits(), stale_s=0.6)) as running,
        entered(browser, running) as seen,
    ):
        has(seen, "#label-0", "blue")
        assert seen.text("#label-1") == "blue"
        assert seen.page.locator("#live").is_visible()
        pixel = seen.page.evaluate(
            "() => [...document.getElementById('live').getContext('2d').getImageData(40, 100, 1, 1).data]"
        )
        assert np.abs(np.array(pixel[:3]) - COLOURS["blue"]).max() < 12
        assert float(seen.text("#fps")) > 5
        seen.page.locator("#stage-rows th", has_text="detect").wait_for()
        rows = seen.page.locator("#stage-rows tr").all_inner_texts()
        assert [row.split("\t")[0] for row in rows] == ["grab (beside the rest)", "detect", "crop", "classify"]
        assert rows[0].split("\t")[1] == "1.00 ms"
        assert re.fullmatch(r"40.0 ms in \d+ of \d+", rows[1].split("\t")[1])  # it ran for every fifth frame
        assert rows[3].split("\t")[1] == "2.00 ms"
        assert all(float(row.split("\t")[2][:-3]) > 0 for row in rows[2:])  # the second bundle's, beside
        unplugged.set()
        seen.page.wait_for_selector("html[data-live='no signal']", state="attached")
        nothing_is_claimed(seen)
        assert seen.text("#words") == "No signal: usb:0 unplugged, trying again in 4 s"
        assert not seen.page.locator("#live").is_visible()
        unplugged.clear()
        has(seen, "#label-0", "blue")
        seen.choose(pictures["red"])  # a picture ends the live view
        has(seen, "#label-0", "red")
        assert seen.text("#watch") == "Watch usb:0"
        wait_until(lambda: b"edgewise_live_viewers 0" in running.ask("/metrics").body)
        seen.page.locator("#watch").click()
        has(seen, "#label-0", "blue")
        running_on.set()
        seen.page.wait_for_selector("html[data-live=ended]", state="attached")
        nothing_is_claimed(seen)
        assert seen.text("#words") == "The live view has ended: the source has ended"


def test_hostile_names_are_only_text(browser: Browser, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "made", labels=HOSTILE, name='<img src=x onerror="alert(2)">')
    files = [tmp_path / name for name in ("<img src=x onerror=alert(3)>.png", "=1+1;$(id) \u202egnp.png", "-rf.png")]
    with serving(bundle) as running, entered(browser, running) as seen:
        assert seen.page.title() == '<img src=x onerror="alert(2)">'
        seen.page.locator("#threshold").fill("10")
        for file, label, colour in zip(files, HOSTILE, COLOURS, strict=True):
            seen.choose(paint(file, colour))
            seen.page.wait_for_selector(f"#gallery button[title='{file.name}'][aria-current]")
            assert seen.text("#label-0") == label
        assert seen.page.locator("#label-0 *, .top script, #gallery script, h1 img, #announce *").count() == 0
        assert seen.page.locator("#gallery .file").all_text_contents() == [file.name for file in files]
        seen.page.locator("#files").set_input_files([{"name": files[0].name, "mimeType": "image/png", "buffer": b"x"}])
        has(seen, "#problems li", files[0].name)
        assert seen.page.locator("#problems li *").count() == 0
        seen.problems.clear()


def test_keyboard_and_screen_reader_find_everything(
    browser: Browser, server: Running, pictures: dict[str, Path]
) -> None:
    with entered(browser, server, viewport={"width": 390, "height": 844}) as seen:
        seen.choose(pictures["green"])
        has(seen, "#label-0", "green")
        seen.page.locator("body").click(position={"x": 2, "y": 2})
        reached = []
        for _ in range(6):
            seen.page.keyboard.press("Tab")
            reached.append(seen.page.evaluate("() => document.activeElement.id || document.activeElement.title"))
        assert reached[:4] == ["camera", "files", "green.png", "threshold"]
        for role, name in (
            ("button", "Start camera"),
            ("slider", "Name a label from"),
            ("list", "Most likely labels"),
            ("region", "Result"),
            ("region", "Times of the stages"),
            ("heading", "tiny"),
        ):
            assert seen.page.get_by_role(role, name=name).count() == 1, name  # type: ignore[arg-type]
        assert seen.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out


POSTED = """
const ask = window.fetch;
window.fetch = async (address, options) => {
  const answer = await ask(address, options);
  if (options?.method === "POST" && !window.posted) {
    const bytes = new Uint8Array(await options.body.arrayBuffer());
    window.posted = [btoa(String.fromCharCode(...bytes)), await answer.clone().json()];
  }
  return answer;
};
"""


def test_what_is_said_of_a_camera_frame_is_what_anybody_is_told_of_it(filmed: Browser, server: Running) -> None:
    with entered(filmed, server, permissions=["camera"], before=POSTED) as seen:
        seen.page.locator("#camera").click()
        has(seen, "#label-0", "green")
        sent, said = seen.page.evaluate("() => window.posted")
    frame = base64.b64decode(sent)
    with Image.open(io.BytesIO(frame)) as image:
        assert (image.format, image.size) == ("JPEG", (said["width"], said["height"]))
    assert [one["top"] for one in server.classify(frame).json()["results"]] == [one["top"] for one in said["results"]]


@pytest.mark.parametrize("source", ["synthetic:64x48@30"])
def test_a_real_loop_is_shown(browser: Browser, tiny: Path, source: str) -> None:
    with serving(tiny, live=Asked(source)) as running, entered(browser, running) as seen:
        seen.page.wait_for_selector("html[data-live=live]", state="attached")
        seen.page.locator("#result-0:not([data-state=empty])").wait_for()
        stages = seen.page.locator("#stage-rows th").all_text_contents()
        assert stages == ["grab (beside the rest)", "crop", "classify"]
        assert seen.text("#watch") == f"Stop watching {source}"
