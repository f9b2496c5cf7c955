"""What can be said of the page's own files and of the command without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgewise import cli
from edgewise.export import web
from edgewise.export.web.readme import HEADERS, POLICY
from edgewise.serve.page import FOLDER

PAGE = Path(web.__file__).parent / "page"
SERVED = FOLDER
"""The page of `edgewise serve`, whose style and camera both pages use."""


def test_the_policy_is_strict_and_the_same_everywhere() -> None:
    markup = (PAGE / "index.html").read_text()
    (meta,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', markup)
    assert meta == POLICY
    assert HEADERS["Content-Security-Policy"].startswith(POLICY)
    assert "unsafe-inline" not in POLICY
    assert "'unsafe-eval'" not in POLICY
    assert not re.search(r"\son\w+=|style=|<style|<script(?! type=\"module\" src=\"app.js\")", markup)
    served = (SERVED / "index.html").read_text()
    assert not re.search(r"\son\w+=|style=|<style|<script(?! type=\"module\" src=\"serve.js\")", served)
    scripts = "".join(path.read_text() for folder in (PAGE, SERVED) for path in folder.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts)
    styles = "".join(path.read_text() for path in SERVED.glob("*.css"))
    assert re.findall(r"https?://", scripts + markup + served + styles) == []


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_texts_have_contrast_in_light_and_dark() -> None:
    blocks = re.findall(r":root \{(.*?)\}", (SERVED / "style.css").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        tokens = dict(re.findall(r"--([\w-]+): (#\w+)", block))
        for text, back in (
            ("ink", "card"),
            ("ink", "page"),
            ("ink", "faint"),
            ("soft", "card"),
            ("soft", "page"),
            ("soft", "faint"),
            ("on-accent", "accent"),
            ("good", "good-back"),
            ("bad", "bad-back"),
            ("bad", "page"),
        ):
            light, dark = sorted((luminance(tokens[text]), luminance(tokens[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, back)


def test_the_command_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def note(*args: object, **kwargs: object) -> None:
        called.append((args, kwargs))
        raise SystemExit

    monkeypatch.setattr("edgewise.export.web.write_web", note)
    words = ["web", "b", "--out", "w", "--runtime", "r", "--sample", "1.png", "--sample", "2.png", "--force"]
    with pytest.raises(SystemExit):
        cli.app(words, standalone_mode=False)
    files = {"runtime": Path("r"), "samples": [Path("1.png"), Path("2.png")]}
    assert called == [((Path("b"), Path("w")), {**files, "download": False, "force": True})]
