"""Writing the page: whole or not at all, refusals with their reasons, and the folder says what is in it."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgewise.device.ort import OrtSession
from edgewise.errors import ExportError, UnavailableError, UntrustedError
from edgewise.export.web import folder as web_folder
from edgewise.export.web import runtime as onnxruntime_web
from edgewise.export.web import write_web
from edgewise.runs import cache_dir, file_sha256
from tests.device.tiny import make_bundle
from tests.web.browser import runtime
from tests.web.conftest import paint

pytestmark = pytest.mark.slow  # hashes and writes 14 MB each time; onnxruntime-web has to be there


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "made")


def test_the_folder_is_whole_and_says_what_is_in_it(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    red = paint(tmp_path / "red & <b>.png", "red")
    written = write_web(bundle, tmp_path / "web", runtime=unpacked, samples=[red])
    facts = json.loads((tmp_path / "web" / "web.json").read_text())
    there = {path.relative_to(tmp_path / "web").as_posix() for path in (tmp_path / "web").rglob("*") if path.is_file()}
    assert set(written.files) == there == set(facts["files"]) | {"web.json"}
    assert all(file_sha256(tmp_path / "web" / name) == expected for name, expected in facts["files"].items())
    assert facts["labels"] == ["red", "green", "blue"]
    assert facts["model"]["sha256"] == facts["files"]["model.onnx"] == file_sha256(bundle / "model.onnx")
    assert facts["samples"][0]["name"] == "red & <b>.png"
    assert (tmp_path / "web" / "samples" / "1.png").read_bytes() == red.read_bytes()
    assert not [name for name in there if name.endswith(".mjs")]
    assert "MIT License" in (tmp_path / "web" / "onnxruntime" / "LICENSE.txt").read_text()
    page = [path.read_text() for path in (tmp_path / "web").iterdir() if path.suffix in {".html", ".js", ".css"}]
    assert "<b>" not in "".join(page)
    assert 14e6 < written.total_bytes < 15e6
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["made", "red & <b>.png", "web"]
    assert (tmp_path / "web").stat().st_mode & 0o055 == 0o055  # a server run by somebody else can read it


def test_the_same_bundle_gives_the_same_folder(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    first, second = (write_web(bundle, tmp_path / name, runtime=unpacked) for name in ("a", "b"))
    assert first.files == second.files
    assert (tmp_path / "a" / "web.json").read_bytes() == (tmp_path / "b" / "web.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"format": "ncnn"}, "a bundle of format ncnn does not run in browsers"), ({"format": "openvino"}, "openvino")],
)
def test_other_formats_are_refused(changes: dict[str, str], told: str, unpacked: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "made", **changes)
    with pytest.raises(ExportError, match=told) as caught:
        write_web(bundle, tmp_path / "web", runtime=unpacked)
    assert caught.value.code == "X30"
    assert not (tmp_path / "web").exists()


def test_answers_that_are_not_finite_are_refused(
    bundle: Path, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = OrtSession.scores
    monkeypatch.setattr(
        OrtSession, "scores", lambda self, batch: np.where(batch.any(), np.inf, 1) * scores(self, batch)
    )
    with pytest.raises(ExportError, match="not finite") as caught:
        write_web(bundle, tmp_path / "web", runtime=unpacked)
    assert caught.value.code == "X32"
    assert not (tmp_path / "web").exists()


def test_a_temperature_that_nothing_can_be_divided_by_is_left_out(unpacked: Path, tmp_path: Path) -> None:
    for value, expected in ((0.0, None), (-1.0, None), (2.5, 2.5)):
        bundle = make_bundle(tmp_path / f"made{value}", thresholds={"temperature": value})
        write_web(bundle, tmp_path / f"web{value}", runtime=unpacked)
        assert json.loads((tmp_path / f"web{value}" / "web.json").read_text())["temperature"] == expected


def test_a_threshold_that_is_no_share_is_left_out(unpacked: Path, tmp_path: Path) -> None:
    for value, expected in ((-0.1, None), (1.5, None), (0.0, 0.0), (0.83, 0.83)):
        bundle = make_bundle(tmp_path / f"made{value}", thresholds={"unknown": value, "precision_asked": 0.95})
        write_web(bundle, tmp_path / f"web{value}", runtime=unpacked)
        facts = json.loads((tmp_path / f"web{value}" / "web.json").read_text())
        assert (facts["threshold"], facts["precision_asked"]) == (expected, 0.95)


def test_a_changed_bundle_is_refused(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    with pytest.raises(UntrustedError, match="not as it was written"):
        write_web(bundle, tmp_path / "web", runtime=unpacked)
    assert not (tmp_path / "web").exists()


@pytest.mark.parametrize(("form", "told"), [("TIFF", "do not show TIFF"), ("PPM", "do not show PPM"), ("cut", "")])
def test_samples_that_browsers_cannot_show_are_refused(
    form: str, told: str, bundle: Path, unpacked: Path, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(stream, "PNG" if form == "cut" else form)
    (tmp_path / "sample").write_bytes(stream.getvalue()[: 60 if form == "cut" else None])
    with pytest.raises(ExportError, match="cannot be shown on the page") as caught:
        write_web(bundle, tmp_path / "web", runtime=unpacked, samples=[tmp_path / "sample"])
    assert caught.value.code == "X31"
    assert told in caught.value.why
    assert not (tmp_path / "web").exists()


def test_a_sample_that_tells_its_place_is_pointed_out(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    Image.new("RGB", (8, 8)).save(tmp_path / "home.jpg", exif=exif)
    written = write_web(bundle, tmp_path / "web", runtime=unpacked, samples=[tmp_path / "home.jpg"])
    assert written.notes == ["home.jpg tells where it was taken (GPS position in its EXIF data)"]


def test_what_stands_there_is_replaced_only_when_it_is_a_page_and_asked_for(
    bundle: Path, unpacked: Path, tmp_path: Path
) -> None:
    out = tmp_path / "web"
    write_web(bundle, out, runtime=unpacked)
    (out / "old").write_text("x")
    with pytest.raises(UnavailableError, match="there already") as caught:
        write_web(bundle, out, runtime=unpacked)
    assert (caught.value.code, (out / "old").exists()) == ("E63", True)
    write_web(bundle, out, runtime=unpacked, force=True)
    assert not (out / "old").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "web.json").write_text('{"kind": "album"}')
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "file").write_text("x")
    for other in ("photos", "link", "file"):
        with pytest.raises(UnavailableError, match="there already"):
            write_web(bundle, tmp_path / other, runtime=unpacked, force=True)
    assert [entry.name for entry in (tmp_path / "photos").iterdir()] == ["web.json"]
    (tmp_path / "empty").mkdir()
    assert write_web(bundle, tmp_path / "empty", runtime=unpacked).files


@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_leaves_what_was_there(
    force: bool, bundle: Path, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "web"
    if force:
        write_web(bundle, out, runtime=unpacked)
    before = sorted(tmp_path.iterdir())
    put = web_folder._put

    def full(path: Path, data: bytes) -> None:
        if path.name == "check.bin":
            raise OSError(28, "No space left on device")
        put(path, data)

    monkeypatch.setattr(web_folder, "_put", full)
    with pytest.raises(UnavailableError, match="cannot write the web page") as caught:
        write_web(bundle, out, runtime=unpacked, force=force)
    assert (caught.value.code, caught.value.why) == ("E64", "No space left on device")
    assert sorted(tmp_path.iterdir()) == before
    assert out.exists() == force


@pytest.mark.parametrize(
    ("stop", "told"),
    [(PermissionError(13, "Permission denied"), UnavailableError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_the_old_page_comes_back_when_the_new_one_cannot_take_its_place(
    stop: BaseException,
    told: type[BaseException],
    bundle: Path,
    unpacked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "web"
    write_web(bundle, out, runtime=unpacked)
    (out / "mark").write_text("x")
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise stop
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(told):
        write_web(bundle, out, runtime=unpacked, force=True)
    assert (out / "mark").exists()
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


# --- onnxruntime-web --------------------------------------------------------------------------------------------


def test_nothing_is_fetched_unless_asked_for(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_web, "_fetch", lambda _: pytest.fail("asked the network"))
    with pytest.raises(UnavailableError, match=r"onnxruntime-web 1\.30\.0 is not there") as caught:
        write_web(bundle, tmp_path / "web")
    assert caught.value.code == "E60"
    assert "--download" in caught.value.fix


def test_files_of_another_version_are_refused(unpacked: Path, tmp_path: Path) -> None:
    for name in onnxruntime_web.FILES:
        (tmp_path / name).write_bytes((unpacked / "node_modules/onnxruntime-web/dist" / name).read_bytes())
    assert set(onnxruntime_web.runtime_files(tmp_path)) == set(onnxruntime_web.FILES)
    with (tmp_path / "ort.wasm.min.mjs").open("ab") as stream:
        stream.write(b"\nfetch('https://x.example')")
    with pytest.raises(UnavailableError, match="this is not onnxruntime-web") as caught:
        onnxruntime_web.runtime_files(tmp_path)
    assert (caught.value.code, caught.value.why) == ("E61", "another sha256: ort.wasm.min.mjs")
    package = tmp_path / "other.tgz"
    with tarfile.open(package, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../../outside"))
    with pytest.raises(UnavailableError, match="this is not") as caught:
        onnxruntime_web.runtime_files(package)
    assert "sha512" in caught.value.why


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The package file at an address on loopback."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "package.tgz").symlink_to(runtime())
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "registry"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_was_fetched_on_request_is_checked_and_kept(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_web, "TARBALL", registry + "nothing.tgz")
    with pytest.raises(UnavailableError, match="cannot fetch") as caught:
        onnxruntime_web.runtime_files(None, download=True)
    assert caught.value.code == "E62"
    monkeypatch.setattr(onnxruntime_web, "TARBALL", registry + "package.tgz")
    first = onnxruntime_web.runtime_files(None, download=True)
    monkeypatch.setattr(onnxruntime_web, "_fetch", lambda _: pytest.fail("fetched twice"))
    assert onnxruntime_web.runtime_files(None) == onnxruntime_web.runtime_files(None, download=True) == first
    assert sorted(path.name for path in cache_dir().rglob("*") if path.is_file()) == sorted(onnxruntime_web.FILES)


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote_and_needs_no_torch(bundle: Path, unpacked: Path, tmp_path: Path) -> None:
    code = "import sys\nsys.modules['torch'] = sys.modules['onnx'] = None\nfrom edgewise.cli import main\nmain()"
    words = ["web", str(bundle), "--runtime", str(unpacked), "--out"]
    done, as_json, again = (
        subprocess.run(
            [sys.executable, "-c", code, *words, str(tmp_path / name), *more],
            capture_output=True,
            text=True,
            env={**os.environ, "EDGEWISE_CACHE": str(tmp_path)},
            check=False,
        )
        for name, more in (("web", ()), ("other", ("--json",)), ("web", ()))
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"page: \S+web  \(\d+ files, 14\.\d MB, of which onnxruntime-web 1\.30\.0 is 14\.3 MB\)", done.stdout
    )
    assert f"next: python3 -m http.server --bind 127.0.0.1 --directory {tmp_path / 'web'} 8000" in done.stdout
    told = json.loads(as_json.stdout)
    assert (told["folder"], told["name"]) == (str(tmp_path / "other"), "tiny")
    assert told["total_bytes"] == sum(told["files"].values())
    assert "next:" in as_json.stderr
    assert again.returncode == 4
    assert "error[E63]: the folder is there already" in again.stderr
