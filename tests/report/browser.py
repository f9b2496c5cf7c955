"""A real browser for the report: headless Chromium behind a proxy that is not there, with its network log read."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Runs before anything else in the page: dialogs and errors are noted instead of shown.
NOTES = """<script>
window.notes = {dialogs: [], errors: []};
for (const name of ["alert", "confirm", "prompt"]) window[name] = (text) => { notes.dialogs.push(String(text)); };
addEventListener("error", (event) => notes.errors.push(event.message), true);
addEventListener("unhandledrejection", (event) => notes.errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => notes.errors.push("policy: " + event.blockedURI));
</script>"""

# Runs last: the probe's answer is written where --dump-dom shows it.
ANSWER = """<pre id="answer"></pre><script>
addEventListener("load", () => {
  const answer = (() => { PROBE })();
  document.getElementById("answer").textContent = JSON.stringify({answer, ...notes});
});
</script>"""


@dataclass(frozen=True)
class Visit:
    """What a page did: the probe's answer, errors, dialogs, console lines and network requests it tried."""

    answer: Any
    errors: list[str]
    dialogs: list[str]
    console: list[str]
    requests: list[str]


def find_chromium() -> str:
    """The browser's path: $CHROMIUM or one on the PATH.

    Raises:
        AssertionError: there is none; the report's tests are never skipped.
    """
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise AssertionError("the report is tested in a real browser: apt-get install chromium, or set CHROMIUM to one")


def visit(page: Path, probe: str, folder: Path) -> Visit:
    """Open a copy of a page with `probe` (a JavaScript function body) run when it has loaded.

    Args:
        page: the report; it is not changed.
        probe: returns what is wanted, as something that goes through JSON.
        folder: where the copy and the browser's profile go.
    """
    text = page.read_text(encoding="utf-8")
    assert text.count("<meta charset") == 1
    text = text.replace("<title>", NOTES + "<title>", 1)
    body, end, rest = text.rpartition("</body>")
    copy = folder / "copy.html"
    copy.write_text(body + ANSWER.replace("PROBE", probe) + end + rest, encoding="utf-8")
    log = folder / "net.json"
    done = subprocess.run(
        [
            find_chromium(),
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--proxy-server=http://127.0.0.1:9",  # nobody answers there: nothing leaves this machine
            f"--log-net-log={log}",
            f"--user-data-dir={folder / 'profile'}",
            *("--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1280,2000", "--dump-dom"),
            copy.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    told = json.loads(html.unescape(found[1]))
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Visit(told["answer"], told["errors"], told["dialogs"], console, requests_in(log))


def requests_in(log: Path) -> list[str]:
    """The addresses a page asked the network for. The browser's own errands have no origin and are left out."""
    told = json.loads(log.read_text(encoding="utf-8"))
    start = told["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begin = told["constants"]["logEventPhase"]["PHASE_BEGIN"]
    asked = [event["params"] for event in told["events"] if (event["type"], event["phase"]) == (start, begin)]
    return [
        params["url"]
        for params in asked
        if params["initiator"] != "not an origin" and not params["url"].startswith(("file:", "data:", "blob:"))
    ]
