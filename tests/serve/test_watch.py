"""The live source in the server: the newest view, never an old one as if it were live, and nothing left behind."""

from __future__ import annotations

import io
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

from edgewise.errors import UnavailableError
from edgewise.live.base import Box, Frame, Seen, View
from edgewise.live.fake import Act, FakeSource
from edgewise.serve.answers import answer, open_bundles
from edgewise.serve.limits import Limits
from edgewise.serve.source import Asked, Looking
from tests.serve.serving import Closed, Running, Socket, serving, wait_until
from tests.web.conftest import COLOURS

HASTY = replace(Limits(), stale_s=0.4)


@contextmanager
def watching(
    monkeypatch: pytest.MonkeyPatch, views: Generator[View], *bundles: Path, limits: Limits = HASTY
) -> Iterator[Running]:
    """A server whose loop yields these views."""
    monkeypatch.setattr("edgewise.serve.server.open_views", lambda asked, _: Looking(asked.source, views))
    with serving(*bundles, live=Asked("usb:0"), limits=limits) as running:
        yield running


@contextmanager
def page(running: Running) -> Iterator[Socket]:
    """A page that watches."""
    link = Socket(running, Authorization=f"Bearer {running.token}")
    assert link.status == 101
    try:
        yield link
    finally:
        link.close()


def next_live(link: Socket) -> tuple[dict[str, Any], bytes]:
    """The next view with a picture; on a busy machine others may come before it."""
    deadline = time.monotonic() + 20
    while (got := link.next())[0]["state"] != "live":
        assert time.monotonic() < deadline
    return got


def live(number: int, colour: str = "green", boxes: tuple[Box, ...] = (), size: tuple[int, int] = (48, 64)) -> View:
    """A view of a frame of one colour, the boxes of which are said to be `colour`."""
    pixels = np.broadcast_to(np.array(COLOURS[colour], np.uint8), (*size, 3)).copy()
    frame = Frame(number, time.perf_counter(), pixels)
    shares = tuple(0.9 if one == colour else 0.05 for one in COLOURS)
    boxes = boxes or (Box(0, 0, size[1], size[0]),)
    seen = tuple(Seen(track, box, colour, 0.9, shares) for track, box in enumerate(boxes))
    return View("live", frame, seen, {"grab": 1.0, "classify": 2.0}, 3.0, dropped=2)


def test_views_carry_facts_and_the_picture(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    go_on = threading.Event()

    def views() -> Generator[View]:
        yield live(1, "blue")
        go_on.wait(10)

    patient = replace(Limits(), stale_s=60)
    with watching(monkeypatch, views(), tiny, limits=patient) as running, page(running) as link:
        facts, picture = next_live(link)
        assert (facts["width"], facts["height"], facts["dropped"]) == (64, 48, 2)
        assert facts["stages"] == {"grab": 1.0, "classify": 2.0}
        (seen,) = facts["seen"]
        assert seen["box"] == [0, 0, 64, 48]
        assert [(one["label"], one["best"], one["confidence"]) for one in seen["results"]] == [("blue", "blue", 0.9)]
        with Image.open(io.BytesIO(picture)) as shown:
            assert (shown.format, shown.size) == ("JPEG", (64, 48))
            assert np.abs(np.asarray(shown).astype(int) - COLOURS["blue"]).max() < 12
        text = running.ask("/metrics").body.decode()
        assert "edgewise_live_up 1\n" in text
        assert "edgewise_live_viewers 1\n" in text
        assert "edgewise_live_dropped_frames_total 2\n" in text
        assert 'edgewise_stage_seconds_sum{source="live",bundle="tiny",stage="grab"} 0.001\n' in text
        go_on.set()


def test_a_second_bundle_is_asked_about_the_same_crops(monkeypatch: pytest.MonkeyPatch, tiny: Path, wide: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30], pixels[:, 30:] = COLOURS["red"], COLOURS["green"]
    boxes = (Box(2.4, 3, 20, 20), Box(35, -5, 40, 20))

    def views() -> Generator[View]:
        while True:
            seen = tuple(Seen(i, box, None, 0.4, (0.4, 0.3, 0.3)) for i, box in enumerate(boxes))
            yield View("live", Frame(1, time.perf_counter(), pixels), seen, {"classify": 1.0})
            time.sleep(0.02)

    opened = open_bundles([wide], 1)[0]
    with watching(monkeypatch, views(), tiny, wide) as running, page(running) as link:
        facts, _ = next_live(link)
        assert [seen["results"][0]["label"] for seen in facts["seen"]] == [None, None]
        for seen, crop, label in zip(
            facts["seen"], (pixels[3:23, 2:22], pixels[0:15, 35:60]), ("red", "green"), strict=True
        ):
            said = seen["results"][1]
            expected = answer(opened, crop)
            assert (said["bundle"], said["label"], said["confidence"]) == ("wide", label, expected.confidence)
        assert all(one["prepare"] > 0 and one["classify"] > 0 for one in facts["beside_ms"])


def test_a_source_that_stops_is_no_signal_and_never_the_last_label(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    stop, stopped, go_on = threading.Event(), threading.Event(), threading.Event()

    def views() -> Generator[View]:
        number = 0
        while not stop.is_set():
            number += 1
            yield live(number)
            time.sleep(0.02)
        stopped.set()
        go_on.wait(10)
        yield View("no signal", note="usb:0 unplugged, trying again in 4 s")
        go_on.clear()
        go_on.wait(10)
        yield live(1, "red")
        stop.clear()
        stop.wait(10)

    with watching(monkeypatch, views(), tiny) as running, page(running) as link, page(running) as late:
        wait_until(lambda: link.next()[0]["state"] == "live")
        stop.set()
        assert stopped.wait(10)
        deadline = time.monotonic() + HASTY.stale_s + 1.5
        while (got := link.next())[0]["state"] == "live":
            assert time.monotonic() < deadline
        assert (got[0], got[1]) == (
            {"state": "no signal", "note": "no new frame for 0.4 s", "number": got[0]["number"]},
            b"",
        )
        assert late.next() == got  # nor is it shown to somebody who comes later
        assert running.ask("/healthz").json()["live"] == "no signal"
        assert "edgewise_live_up 0\nn" in running.ask("/metrics").body.decode().replace("\n#", "\nn")
        go_on.set()
        wait_until(lambda: link.next()[0]["note"].startswith("usb:0 unplugged"))
        go_on.set()
        wait_until(lambda: link.next()[0]["state"] == "live")
        stop.set()


def test_a_slow_source_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def views() -> Generator[View]:
        for number in range(3):
            yield live(number)
            time.sleep(1.2)

    with watching(monkeypatch, views(), tiny, limits=Limits()) as running, page(running) as link:
        got = [link.next() for _ in range(6)]
    numbers = [facts["number"] for facts, _ in got if facts["state"] == "live"]
    assert numbers == sorted(set(numbers))
    assert 1 <= len(numbers) <= 3
    assert ({"state": "same"}, b"") in got


def test_a_slow_page_skips_frames_instead_of_falling_behind(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def views() -> Generator[View]:
        for number in range(10_000):
            yield live(number)
            time.sleep(0.005)

    with watching(monkeypatch, views(), tiny, limits=Limits()) as running, page(running) as link:
        numbers = []
        for _ in range(5):
            facts, _ = link.next()
            if facts["state"] == "live":
                numbers.append(facts["number"])
            time.sleep(0.2)
        assert len(numbers) >= 3
        assert min(np.diff(numbers)) > 5


@pytest.mark.parametrize(
    "problem", [UnavailableError("usb:0 is gone", code="V02", why="unplugged"), RuntimeError("boom")]
)
def test_a_loop_that_fails_ends_the_view_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, problem: Exception
) -> None:
    def views() -> Generator[View]:
        yield live(1)
        raise problem

    with watching(monkeypatch, views(), tiny) as running, page(running) as link:
        wait_until(lambda: running.ask("/healthz").json()["live"] == "ended")
        facts, picture = link.view()
        assert (facts["state"], picture) == ("ended", b"")
        assert facts["note"] in ("usb:0 is gone; unplugged", "the live loop failed: RuntimeError: boom")
        with pytest.raises(Closed):
            link.view()
        assert running.ask("/v1/model").status == 200


def test_what_a_page_may_say_is_one_word(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def views() -> Generator[View]:
        for number in range(10_000):
            yield live(number)
            time.sleep(0.01)

    with watching(monkeypatch, views(), tiny) as running:
        for text, code in (("else", 1008), ("next" * 100, 1009)):
            with page(running) as link:
                link.send(text)
                with pytest.raises(Closed) as caught:
                    link.view()
                assert caught.value.code == code
        wait_until(lambda: "edgewise_live_viewers 0\n" in running.ask("/metrics").body.decode())


def test_more_pages_than_are_served_are_told_so(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def views() -> Generator[View]:
        for number in range(10_000):
            yield live(number)
            time.sleep(0.01)

    limits = replace(HASTY, viewers=1)
    with watching(monkeypatch, views(), tiny, limits=limits) as running, page(running) as first:
        first.next()
        with page(running) as second, pytest.raises(Closed) as caught:
            second.view()
        assert caught.value.code == 1013
        assert next_live(first)


def test_without_a_source_there_is_nothing_to_watch(tiny: Path) -> None:
    with serving(tiny) as running, page(running) as link:
        with pytest.raises(Closed) as caught:
            link.view()
        assert caught.value.code == 1008


def test_the_real_loop_survives_a_camera_that_is_unplugged(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    """The loop of `edgewise live` with a camera that is lost and comes back; the page is told all along."""
    camera = FakeSource((Act("moving", 40), Act("lost"), Act("absent", 1), Act("moving", 10_000)), fps=40)

    def opened(*_: Any) -> FakeSource:
        return camera if camera.opened == 1 and not camera.closed else camera.reopen()

    monkeypatch.setattr("edgewise.serve.source.open_source", opened)
    with serving(tiny, live=Asked("usb:0")) as running, page(running) as link:
        states = []
        deadline = time.monotonic() + 20
        while states[-1:] != ["live"] or "no signal" not in states[states.index("live") :]:
            assert time.monotonic() < deadline, states
            facts, picture = link.next()
            assert bool(picture) == bool(facts.get("seen")) == (facts["state"] == "live")
            if states[-1:] != [facts["state"]]:
                states.append(facts["state"])
    assert camera.closed


def test_the_password_of_a_network_camera_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    asked = Asked("rtsp://admin:hunter2@127.0.0.1:9/x")
    monkeypatch.setattr("edgewise.serve.source.open_source", lambda *_: FakeSource((Act("moving", 10_000),), fps=20))
    with serving(tiny, live=asked) as running, page(running) as link:
        wait_until(lambda: link.next()[0]["state"] == "live")
        assert running.ask("/v1/model").json()["source"] == "fake"
        for path in ("/v1/model", "/metrics", "/healthz", "/v1/openapi.json"):
            assert b"hunter2" not in running.ask(path).body
        assert "hunter2" not in "".join(running.lines)


def test_no_thread_and_no_port_are_left(tiny: Path, wide: Path) -> None:
    before = set(threading.enumerate())
    with serving(tiny, wide, live=Asked("synthetic:64x48@30")) as running, page(running) as link:
        wait_until(lambda: link.next()[0]["state"] == "live")
        assert {"edgewise-live", "edgewise-grab"} <= {thread.name for thread in threading.enumerate()}
        running.classify(b"nothing")
    wait_until(lambda: set(threading.enumerate()) <= before)
    with serving(tiny, port=running.port) as again:
        assert again.port == running.port
