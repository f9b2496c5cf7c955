"""A static folder that classifies camera, files and samples in a browser, and asks nobody else.

::

    index.html style.css *.js     the page; the same for every bundle
    web.json        name, labels, input, what the page checks itself with, sha256 of every other file
    model.onnx      the bundle's model, unchanged
    check.bin       pictures and the pixels made of them here
    samples/        sample pictures, unchanged
    onnxruntime/    onnxruntime-web (WebAssembly) and its licence
    README.md       how to serve the folder

The texts of a bundle reach the page as data (`web.json`) only; none of them stands in markup, code or a file's name.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgewise.bundle import Manifest, read_manifest, temperature_of, threshold_of
from edgewise.device import RUNTIMES
from edgewise.device.check import check_bundle
from edgewise.errors import ExportError, UnavailableError
from edgewise.export.web import runtime as onnxruntime_web
from edgewise.export.web.parity import TOLERANCE, cases
from edgewise.export.web.readme import licence, readme
from edgewise.export.web.samples import Sample, read_sample
from edgewise.runs import file_sha256
from edgewise.serve.page import FOLDER

KIND, FORMAT_VERSION = "edgewise-web", 1
FACTS = "web.json"
_PAGE = Path(__file__).parent / "page"
_SHARED = ("style.css", "camera.js", "parts.js", "icon.svg")
"""Parts of the page that `edgewise serve` shows too."""


@dataclass(frozen=True)
class WebFolder:
    """What was written: the folder, its files (path within it -> bytes), and what the user should know."""

    folder: Path
    name: str
    runtime: str
    files: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(self.files.values())


def write_web(
    bundle: Path,
    out: Path,
    *,
    runtime: Path | None = None,
    samples: Sequence[Path] = (),
    download: bool = False,
    force: bool = False,
) -> WebFolder:
    """Write a bundle as a static web page; the folder appears whole or not at all.

    Args:
        bundle: a bundle of format onnx; it is verified first.
        out: the folder to make.
        runtime: where onnxruntime-web is: an unpacked package or its .tgz; None for the cache.
        samples: pictures to offer on the page, copied as they are.
        download: allow onnxruntime-web to be fetched from the npm registry when the cache has none.
        force: replace a web folder that stands at `out`; anything else is left alone.

    Raises:
        ExportError: X30, the bundle's format does not run in browsers; X31, a sample cannot be shown by them; X32, the
            model's answers are not finite.
        UnavailableError: onnxruntime-web is not there (E60-E62), `out` stands already (E63) or cannot be written (E64).
        UntrustedError: the bundle is damaged, or its model does not answer as the manifest says.
    """
    _check_free(out, force)
    manifest = read_manifest(bundle)
    if manifest.format != "onnx":
        raise ExportError(
            f"a bundle of format {manifest.format} does not run in browsers",
            code="X30",
            where={"bundle": bundle},
            why="the page runs on onnxruntime-web, which reads ONNX files only",
            fix="give a bundle of format onnx of the same model",
        )
    check_bundle(bundle)
    taken = [read_sample(path, number, manifest.input) for number, path in enumerate(samples, 1)]
    runs_on = onnxruntime_web.runtime_files(runtime, download=download)
    with _appearing(out, force) as staging:
        for page in sorted([*_PAGE.iterdir(), *(FOLDER / name for name in _SHARED)]):
            _put(staging / page.name, page.read_bytes())
        for name, data in runs_on.items():
            _put(staging / "onnxruntime" / _served(name), data)
        _put(staging / "onnxruntime" / "LICENSE.txt", licence().encode())
        _put(staging / "model.onnx", (bundle / manifest.model_file).read_bytes())
        for sample in taken:
            _put(staging / sample.file, sample.path.read_bytes())
        facts = {**_facts(bundle, manifest), **_write_check(bundle, manifest, taken, staging / "check.bin")}
        _put(staging / "README.md", readme(manifest).encode("utf-8", "replace"))
        hashes = {name: file_sha256(staging / name) for name in _sizes(staging)}
        _put(staging / FACTS, json.dumps({**facts, "files": hashes}, indent=1, allow_nan=False).encode())
        sizes = _sizes(staging)
    notes = [note for sample in taken for note in sample.notes]
    return WebFolder(out, manifest.name, f"{onnxruntime_web.NAME} {onnxruntime_web.VERSION}", sizes, notes)


def _served(name: str) -> str:
    """The name under which a runtime file is served: many servers know no .mjs and would send it as a download."""
    return name.removesuffix(".mjs") + ".js" if name.endswith(".mjs") else name


def _facts(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    """What `web.json` says of the model; the page reads nothing else of the bundle."""
    size = (bundle / manifest.model_file).stat().st_size
    return {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "precision": manifest.precision,
        "scheme": manifest.scheme,
        "labels": manifest.labels,
        "input": manifest.input.preprocessing(),
        "temperature": temperature_of(manifest),
        "threshold": threshold_of(manifest),
        "precision_asked": threshold_of(manifest, "precision_asked"),
        "model": {"file": "model.onnx", "bytes": size, "sha256": manifest.files[manifest.model_file]},
        "runtime": {
            "name": onnxruntime_web.NAME,
            "version": onnxruntime_web.VERSION,
            "files": [_served(name) for name in onnxruntime_web.FILES],
        },
    }


def _write_check(bundle: Path, manifest: Manifest, taken: Sequence[Sample], path: Path) -> dict[str, Any]:
    """Write `check.bin` and return the parts of `web.json` that say what lies where in it.

    Pictures are uint8 RGB, pixels are uint8 of the model's input shape; logits stand in the JSON.
    """
    session = RUNTIMES[manifest.format].load(bundle / manifest.model_file)
    data = bytearray()

    def put(values: Any) -> int:
        at = len(data)
        data.extend(values.tobytes())
        return at

    found = [
        {
            "width": case.source.shape[1],
            "height": case.source.shape[0],
            "source_at": put(case.source),
            "pixels_at": put(case.pixels),
            "logits": case.logits,
        }
        for case in cases(manifest.input, session)
    ]
    shown = [{"file": one.file, "name": one.path.name, "pixels_at": put(one.pixels)} for one in taken]
    _put(path, bytes(data))
    described = session.describe()
    check = {
        "file": path.name,
        "runtime": f"{described['runtime']} {described['version']}",
        "tolerance": TOLERANCE if manifest.precision == "fp32" else None,
        "cases": found,
    }
    return {"check": check, "samples": shown}


def _check_free(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if _is_web_folder(out):
        if force:
            return
        why, fix = "there is a web page in it", "choose another --out, or add --force to replace it"
    elif out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return
    else:
        why, fix = "it is not a web page that edgewise wrote; it is left alone", "choose another --out"
    raise UnavailableError("the folder is there already", code="E63", where={"folder": out}, why=why, fix=fix)


def _is_web_folder(folder: Path) -> bool:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not folder.is_symlink() and isinstance(facts, dict) and facts.get("kind") == KIND


@contextmanager
def _appearing(out: Path, force: bool) -> Iterator[Path]:
    """A folder beside `out` to fill, which takes the place of `out` when the block ends well.

    A page that is replaced is moved aside first and comes back when the new one cannot take its place.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as problem:
        raise _unwritable(out, problem) from problem
    try:
        staging = room / "new"
        staging.mkdir()
        yield staging
        _check_free(out, force)  # somebody else may have written it meanwhile
        if out.exists():
            out.rename(room / "old")
        staging.rename(out)
    except OSError as problem:
        raise _unwritable(out, problem) from problem
    finally:
        if (room / "old").exists() and not out.exists():  # an interruption counts as well
            (room / "old").replace(out)
        shutil.rmtree(room, ignore_errors=True)


def _put(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _unwritable(out: Path, problem: OSError) -> UnavailableError:
    return UnavailableError(
        "cannot write the web page",
        code="E64",
        where={"folder": out},
        why=problem.strerror or str(problem),
        fix="choose a folder that can be written and has 16 MB free",
    )


def _sizes(folder: Path) -> dict[str, int]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
