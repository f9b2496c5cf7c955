"""The page in a real browser: samples, files, hostile names, bad files, keyboard, and no request to elsewhere."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from edgewise.export.web.readme import HEADERS
from tests.web.browser import Visit, served, visit
from tests.web.conftest import COLOURS, paint

pytestmark = pytest.mark.slow

HOSTILE = ["<script>alert(1)</script>", '=HYPERLINK("http://x.example","y")', "a\nb‮c"]


def found(seen: Visit) -> dict[str, dict[str, float]]:
    told: dict[str, dict[str, float]] = json.loads(seen.page.locator("#findings").get_attribute("data-found") or "")
    return told


def test_it_checks_itself_and_classifies_samples(browser: Browser, address: str) -> None:
    with visit(browser, address) as seen:
        assert seen.text("#verdict") == "agrees with edgewise"
        assert found(seen)["scaling"] == {"wrong": 0, "values": 4 * 8 * 8 * 3}
        assert found(seen)["model"]["delta"] < 1e-5
        assert found(seen)["decoding"] == {"largest": 0, "mean": 0, "samples": 3}
        assert seen.text("#clock").startswith("Medians of the last pictures, at most 60; 1 thread;")
        for colour in COLOURS:
            seen.page.get_by_role("button", name=f"{colour}.png").click()
            seen.page.locator("#label", has_text=colour).wait_for()
            assert seen.text("#announce") == f"{colour}, {seen.text('#confidence')}"
        assert seen.text("#model-ms").endswith("ms")
        assert seen.text("#whole-ms").endswith("ms")
        shown = seen.page.evaluate(
            "() => [...document.getElementById('pixels').getContext('2d').getImageData(4, 4, 1, 1).data]"
        )
        assert np.abs(np.array(shown[:3]) - COLOURS["blue"]).max() < 25
        seen.page.locator("#again").click()
        seen.page.locator("#verdict", has_text="agrees").wait_for()


def test_confidence_takes_the_temperature_and_the_threshold(
    browser: Browser, make_page: Callable[..., Path], tmp_path: Path
) -> None:
    with served(make_page(thresholds={"temperature": 0.25})) as address, visit(browser, address) as seen:
        Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
        seen.choose(tmp_path / "red.png")
        sure = np.exp(2 / 0.25) / (np.exp(2 / 0.25) + 2)
        assert seen.text("#confidence") == f"{100 * sure:.1f} %"
        assert "temperature 0.25" in seen.text("#meaning")
        grey = tmp_path / "grey.png"
        Image.new("RGB", (8, 8), (90, 90, 90)).save(grey)
        seen.choose(grey)
        seen.page.locator("#label", has_text="Not sure").wait_for()
        assert seen.text("#confidence") == "best guess below, 33.3 %"
        seen.page.locator("#threshold").fill("30")
        assert seen.text("#limit") == "30 %"
        assert seen.text("#label") == "red"  # of equals the first


def test_the_slider_starts_at_the_threshold_of_the_bundle(
    browser: Browser, make_page: Callable[..., Path], tmp_path: Path
) -> None:
    thresholds = {"temperature": 1.0, "unknown": 0.7872, "precision_asked": 0.95}
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    with served(make_page(thresholds=thresholds)) as address, visit(browser, address) as seen:
        assert (seen.text("#limit"), seen.page.locator("#threshold").input_value()) == ("78.7 %", "79")
        assert "Named from 78.7 % on, chosen on validation images for at least 95.0 % right answers." in seen.text(
            "#meaning"
        )
        seen.choose(tmp_path / "red.png")  # exp(2) / (exp(2) + 2) is 78.70 %: just below
        seen.page.locator("#label", has_text="Not sure").wait_for()
        seen.page.locator("#threshold").fill("78")
        assert (seen.text("#limit"), seen.text("#label")) == ("78 %", "red")
    with served(make_page(thresholds={"unknown": 0.99999})) as address, visit(browser, address) as seen:
        assert seen.text("#limit") == "99.999 %"
    with served(make_page()) as address, visit(browser, address) as seen:
        assert (seen.text("#limit"), "Named from" in seen.text("#meaning")) == ("50 %", False)


def test_hostile_names_are_only_text(browser: Browser, make_page: Callable[..., Path], tmp_path: Path) -> None:
    page = make_page(labels=HOSTILE, name='<img src=x onerror="alert(2)">')
    files = [tmp_path / name for name in ("<img src=x onerror=alert(3)>.png", "=1+1;$(id) ‮gnp.png", "-rf.png")]
    with served(page) as address, visit(browser, address) as seen:
        assert seen.page.title() == '<img src=x onerror="alert(2)">'
        for file, label, colour in zip(files, HOSTILE, COLOURS, strict=True):
            seen.choose(paint(file, colour))
            seen.page.wait_for_selector(f"#gallery button[title='{file.name}'][aria-current]")
            assert seen.text("#label") == label
        assert seen.page.locator("#label *, #top script, #gallery script, h1 img").count() == 0
        assert seen.page.locator("#gallery .file").all_text_contents() == [file.name for file in files]


def test_several_dropped_files_are_classified_and_bad_ones_told(browser: Browser, address: str, tmp_path: Path) -> None:
    good = paint(tmp_path / "green.png", "green").read_bytes()
    files = [
        ("good.png", good),
        ("empty.png", b""),
        ("page.jpg", b"<html><script>alert(4)</script></html>"),
        ("cut.jpg", encoded("JPEG")[:900]),
        ("half.png", good[: len(good) // 2]),
        ("bomb.png", bomb()),
        ("scan.tif", encoded("TIFF")),
        ("noise.gif", b"GIF89a\x05\x00\x05\x00" + bytes(20)),
    ]
    with visit(browser, address) as seen:
        seen.page.evaluate(
            """(files) => {
              const dropped = new DataTransfer();
              for (const [name, text] of files) {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                dropped.items.add(new File([bytes], name));
              }
              document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: dropped, bubbles: true}));
            }""",
            [(name, base64.b64encode(data).decode()) for name, data in files],
        )
        seen.page.locator("#problems li").nth(6).wait_for()
        told = dict(line.split(": ", 1) for line in seen.page.locator("#problems li").all_text_contents())
        assert list(told) == [name for name, _ in files[1:]]
        assert told["empty.png"] == "the file is empty"
        assert told["page.jpg"] == told["scan.tif"] == "not a JPEG, PNG, GIF, WebP or BMP picture"
        assert told["bomb.png"] == "60000 x 60000 pixels, more than the 64 million allowed"
        for name in ("cut.jpg", "half.png", "noise.gif"):
            assert told[name] == "the picture is damaged, or this browser cannot decode it"
        assert seen.text("#label") == "green"
        seen.page.locator("#files").set_input_files([{"name": "e.png", "mimeType": "image/png", "buffer": b""}])
        seen.page.locator("#problems li", has_text="e.png").wait_for()
        assert seen.text("#label") == "Nothing yet"  # not the label of the picture before


def encoded(form: str, size: tuple[int, int] = (96, 64)) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, form)
    return stream.getvalue()


def bomb() -> bytes:
    """The header of a PNG of 60000 x 60000 pixels, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")


def test_keyboard_and_screen_reader_find_everything(browser: Browser, address: str) -> None:
    with visit(browser, address, viewport={"width": 390, "height": 844}) as seen:
        reached = []
        for _ in range(8):
            seen.page.keyboard.press("Tab")
            reached.append(seen.page.evaluate("() => document.activeElement.id || document.activeElement.title"))
        assert reached == ["camera", "files", "red.png", "green.png", "blue.png", "threshold", "again", ""]
        for role, name in (
            ("button", "Start camera"),
            ("slider", "Name a label from"),
            ("list", "Most likely labels"),
            ("img", "The scaled picture that the model sees"),
            ("region", "Result"),
            ("heading", "tiny"),
        ):
            assert seen.page.get_by_role(role, name=name).count() == 1, name
        seen.page.get_by_role("button", name="green.png").focus()
        seen.page.keyboard.press("Enter")
        seen.page.locator("#label", has_text="green").wait_for()
        assert seen.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")  # nothing sticks out


def test_with_the_headers_it_uses_threads_and_keeps_the_policy_everywhere(
    browser: Browser, make_page: Callable[..., Path]
) -> None:
    eight_cores = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => 8 });"
    page = make_page(samples=("red",))
    with served(page, HEADERS) as address, visit(browser, address, before=eight_cores) as seen:
        assert seen.page.evaluate("() => crossOriginIsolated")
        assert "; 4 threads;" in seen.text("#clock")
        assert seen.text("#verdict") == "agrees with edgewise"
        assert sum(one.endswith("/ort-wasm-simd-threaded.js") for one in seen.asked) >= 2  # the threads load it too
        blocked = seen.page.evaluate("() => fetch('https://elsewhere.example/').then(() => 'sent', () => 'blocked')")
        assert blocked == "blocked"
        assert any("elsewhere.example" in line for line in seen.problems)  # the browser says so
        assert any(line.startswith("policy: connect-src") for line in seen.page.evaluate("() => notes.splice(0)"))
        seen.problems.clear()
        seen.asked[:] = [one for one in seen.asked if "elsewhere" not in one]


def test_a_missing_model_is_told(browser: Browser, make_page: Callable[..., Path]) -> None:
    page = make_page()
    (page / "model.onnx").unlink()
    with served(page) as address, visit(browser, address) as seen:
        assert seen.page.locator("html").get_attribute("data-state") == "failed"
        assert seen.text("#about") == "The page cannot start: model.onnx: the server answers 404"
        assert seen.page.locator("#camera").is_disabled()
        assert all("404" in line for line in seen.problems)
        seen.problems.clear()


def test_a_check_that_cannot_run_is_told_and_the_page_works(
    browser: Browser, make_page: Callable[..., Path], tmp_path: Path
) -> None:
    page = make_page()
    (page / "check.bin").unlink()
    with served(page) as address, visit(browser, address) as seen:
        assert seen.text("#verdict") == "did not run"
        assert seen.text("#findings") == "check.bin: the server answers 404"
        seen.choose(paint(tmp_path / "blue.png", "blue"))
        assert seen.text("#label") == "blue"
        assert all("404" in line for line in seen.problems)
        seen.problems.clear()


def test_a_page_that_computes_otherwise_says_so(browser: Browser, make_page: Callable[..., Path]) -> None:
    page = make_page()
    facts = json.loads((page / "web.json").read_text())
    facts["check"]["cases"][0]["logits"][1] += 0.01
    facts["input"]["interpolation"] = "nearest"
    (page / "web.json").write_text(json.dumps(facts))
    with served(page) as address, visit(browser, address) as seen:
        assert seen.text("#verdict") == "differs from edgewise"
        assert found(seen)["model"]["delta"] == pytest.approx(0.01, rel=1e-3)
        assert found(seen)["scaling"]["wrong"] > 100
