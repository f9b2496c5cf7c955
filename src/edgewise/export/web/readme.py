"""The README.md of a web folder, and the licence that travels with onnxruntime-web."""

from __future__ import annotations

from edgewise.bundle import Manifest
from edgewise.export.web.runtime import NAME, VERSION

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "worker-src 'self'; img-src 'self' blob:; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'none'"
)
"""The page's content security policy, as in its <meta>: scripts, styles and requests from its own folder only."""

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
"""Headers worth sending with every file; the last two let the model use several threads."""


def readme(manifest: Manifest) -> str:
    """How to serve the folder."""
    spec = manifest.input
    colour = "RGB" if spec.channels == 3 else "gray"
    headers = "\n".join(f"    {name}: {value}" for name, value in HEADERS.items())
    return f"""# A classifier in the browser

Model: `{_inline(manifest.name)}`, {len(manifest.labels)} classes, {manifest.precision} {manifest.scheme}

A static page, written by edgewise: it classifies the camera, pictures of yours and the samples in `samples/` where the
browser runs. Pictures are not sent anywhere; after loading, the page asks for nothing.

## Serve it

Any web server that serves files will do. On this computer:

    python3 -m http.server --bind 127.0.0.1 8000

and open http://127.0.0.1:8000/. Opening index.html as a file does not work: browsers load no modules from files.

**Cameras need https**, or a page at localhost. On a phone, put the folder on any static host with https. Over plain
http the page works with pictures, and says why the camera does not.

Send `.wasm` as `application/wasm` and compress it if you can (gzip makes 14.2 MB 3.7 MB).

## Headers

The page carries its content security policy in a `<meta>`. A server that can send headers should send these with every
file; the policy then holds for the worker too, and no other site can frame the page. The last two make the page
cross-origin isolated: the model may then use up to four threads, and clocks are finer. Without them it uses one.

{headers}

## What the model gets

uint8, {spec.height} x {spec.width}, {colour}, "{spec.fit}" fitted with {spec.interpolation} interpolation. The page
scales pictures itself, with Pillow's integers, not with the browser's scaler; at each load it compares itself with
pixels and logits made by edgewise (`check.bin`) and shows the result.

## What is in here

`web.json` lists every file with its sha256. `onnxruntime/` is {NAME} {VERSION} (MIT licence, see LICENSE.txt there).
"""


def _inline(text: str) -> str:
    """A text that can stand in Markdown code on one line."""
    return " ".join(text.replace("`", "'").split())


def licence() -> str:
    """The MIT licence of onnxruntime-web, whose package names it but does not hold its text."""
    return f"""{NAME} {VERSION}, https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
