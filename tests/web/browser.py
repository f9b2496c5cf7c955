"""A folder served over http and opened in headless Chromium, with everything noted that a page should not do."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright

from edgewise.export.web.runtime import NAME, VERSION
from tests.report.browser import find_chromium, requests_in

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "build" / f"{NAME}-{VERSION}.tgz"

FLAGS = (
    "--no-sandbox",  # root has no user namespaces to sandbox in
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=http://127.0.0.1:9",  # nobody answers there; loopback goes past the proxy
)

NOTES = """
window.notes = [];
for (const name of ["alert", "confirm", "prompt"]) window[name] = (text) => { notes.push(`dialog: ${text}`); };
addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI}) => {
  notes.push(`policy: ${violatedDirective} ${blockedURI}`);
});
addEventListener("unhandledrejection", (event) => notes.push(`rejection: ${event.reason}`));
"""


def runtime() -> Path:
    """The package file of onnxruntime-web; the tests never run without it."""
    assert RUNTIME.is_file(), f"{RUNTIME} is missing: sh scripts/web.sh fetches it with npm"
    return RUNTIME


@contextmanager
def served(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a folder on loopback; `headers` are sent with every file."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def chromium(playwright: Playwright, folder: Path, *flags: str, beside: tuple[str, ...] = ()) -> Iterator[Browser]:
    """A browser; when it has closed, its own network log is read: nothing but loopback was asked for anything.

    `beside` are further beginnings of addresses that lead to loopback.
    """
    log = folder / "net.json"
    browser = playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS, f"--log-net-log={log}", *flags])
    try:
        yield browser
    finally:
        browser.close()
    asked = requests_in(log)
    assert asked
    assert [address for address in asked if not address.startswith(("http://127.0.0.1:", *beside))] == []


@dataclass
class Visit:
    """An open page and what went wrong on it."""

    page: Page
    problems: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def all_problems(self) -> list[str]:
        """Console errors, page errors, dialogs, policy violations, rejections."""
        return [*self.problems, *self.page.evaluate("() => window.notes")]

    def text(self, selector: str) -> str:
        """The text of an element, as it stands in the document."""
        return self.page.locator(selector).text_content() or ""

    def choose(self, *files: Path) -> None:
        """Open files as with the button, and wait until an answer or a problem stands there."""
        self.page.locator("#files").set_input_files(list(files))
        self.settled()

    def settled(self) -> None:
        """Wait until a result or a problem is shown."""
        self.page.locator(".result:not([data-state=empty]), #problems li").first.wait_for(state="attached")


@contextmanager
def visit(browser: Browser, address: str, *, before: str = "", enter: str = "", **context: Any) -> Iterator[Visit]:
    """Open a page, wait until it is ready or has failed; at the end it must have done nothing wrong.

    `before` is a script that runs ahead of the page's own; `enter` is what stands behind the address at first.
    """
    window = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    window.set_default_timeout(60_000)
    try:
        page = window.new_page()
        page.add_init_script(NOTES + before)
        seen = Visit(page)
        page.on("console", lambda line: seen.problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda problem: seen.problems.append(str(problem)))
        page.on("request", lambda request: seen.asked.append(request.url))
        page.goto(address + enter)
        page.wait_for_selector("html[data-state]", state="attached")
        yield seen
        assert seen.all_problems() == []
        assert [one for one in seen.asked if not one.startswith((address, "blob:"))] == []
    finally:
        window.close()
