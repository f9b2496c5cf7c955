"""Bundles: what a device gets. One folder with a model file and all that is needed to run and check it.

::

    model.onnx      the model; input uint8 (N, height, width, channels), output float32 (N, classes) logits
                    (model.xml with model.bin and the like in other formats)
    manifest.json   format version, input, labels, precision, lineage, measured figures, sha256 of every other file
    labels.txt      one label a line, in the order of the logits
    README.md       how to run it
    runner.py       verify it; classify with and time onnx models with nothing but Python 3.6, numpy and the runtime
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from edgewise.errors import UntrustedError
from edgewise.results import Answered, Decision, Estimate, parse
from edgewise.runs import file_sha256, write_json, write_text

FORMAT_VERSION = 1
RUNNER_FORMATS = ("onnx", "packed")
"""What `runner.py` classifies with."""
MANIFEST = "manifest.json"
CENTER = 128 / 255
"""The default mean: a whole number of 255ths, so that an int8 file can take the pixels as they are."""


@dataclass(frozen=True)
class InputSpec:
    """The image a model takes: uint8 (height, width, channels); see `edgewise.device.preprocess` for `fit`.

    `mean` and `std` are per channel for pixels scaled to 0..1; the exported graph applies them.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    fit: Literal["squash", "crop", "pad"] = "squash"
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (CENTER, CENTER, CENTER)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} values each")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.channels)

    def preprocessing(self) -> dict[str, Any]:
        """The keyword arguments of `edgewise.device.preprocess.load_pixels`."""
        return {
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "fit": self.fit,
            "interpolation": self.interpolation,
        }


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    `lineage` tells where the model came from (run, architecture, plan, data hash, seed, versions, scheme); `measured`
    holds the figures taken of this very file. `thresholds` holds the numbers that turn logits into decisions, see
    `thresholds_of`; bundles written before there were thresholds have none. `files` maps each other file of the bundle
    to its sha256. `sidecars` are the files that belong to the model beside `model_file` (weights beside a
    structure); the runtime finds them by their names.
    """

    name: str
    format: str
    precision: str
    scheme: str
    model_file: str
    input: InputSpec
    labels: list[str]
    lineage: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    sidecars: list[str] = field(default_factory=list)


def thresholds_of(temperature: float, decision: Decision | None) -> dict[str, float]:
    """The `thresholds` of a manifest, all plain numbers.

    `temperature`: the logits are divided by it before the softmax. `unknown`: answers of a lower confidence are not
    given; left out where no threshold could be shown to do. Then what that was chosen by: `precision_asked`, and
    `coverage` and `precision` on the validation images with the ends of their 95 % intervals and their `_n`.
    """
    found = {"temperature": temperature}
    if decision is None or decision.threshold is None:
        return found
    found |= {"unknown": decision.threshold, "precision_asked": decision.asked}
    for key in ("coverage", "precision"):
        figure = getattr(decision.validation, key, None)
        if figure is not None:
            ends = {"": figure.value, "_low": figure.low, "_high": figure.high, "_n": figure.n}
            found |= {key + end: value for end, value in ends.items()}
    return found


def temperature_of(manifest: Manifest) -> float | None:
    """The bundle's temperature; None where it has none, or none that a logit can be divided by."""
    value = manifest.thresholds.get("temperature")
    return value if value is not None and math.isfinite(value) and value > 0 else None


def threshold_of(manifest: Manifest, key: str = "unknown") -> float | None:
    """The confidence below which the bundle's answers are `unknown`; None where it has none, or no share of 1.

    With `key`, another share of `thresholds`, such as `precision_asked`.
    """
    value = manifest.thresholds.get(key)
    return value if value is not None and 0 <= value <= 1 else None


def model_bytes(folder: Path, manifest: Manifest) -> int:
    """The bytes of all files of the model in a bundle."""
    return sum((folder / name).stat().st_size for name in (manifest.model_file, *manifest.sidecars))


def readme(manifest: Manifest, install: str, example: str, decision: Decision | None = None) -> str:
    """The bundle's README.md: what it is and how to use it.

    Args:
        manifest: of the bundle.
        install: the command that installs the runtime.
        example: Python lines that make `logits` of `image`, uint8 (1, height, width, channels), in that runtime.
        decision: when it says `unknown`.
    """
    spec = manifest.input
    colour = "RGB" if spec.channels == 3 else "gray"
    kind = f"{manifest.format} {manifest.precision}" + (f" ({manifest.scheme})" if manifest.scheme else "")
    use = _RUNNER if manifest.format in RUNNER_FORMATS else _OTHER_RUNTIME
    return f"""# {manifest.name}

An image classifier for {len(manifest.labels)} classes, {kind}, written by edgewise.
{use.format(install=install, example=example.strip(), format=manifest.format)}
Input `image`: uint8, (N, {spec.height}, {spec.width}, {spec.channels}), {colour}, 0..255, "{spec.fit}" fitted with
{spec.interpolation} interpolation; the model normalises. Output `logits`: float32, (N, {len(manifest.labels)}), in the
order of `labels.txt`. `manifest.json` tells where the model came from and what was measured of this very file.
{_unknown(decision) if decision else ""}"""


def _unknown(decision: Decision) -> str:
    """The section on when an answer is not given."""
    if decision.threshold is None:
        return f"""
## Unknown

It names a class for every picture: {decision.note}.
"""
    return f"""
## Unknown

An answer whose confidence (the softmax of logits / `thresholds.temperature`) is below {decision.threshold:.4f}
(`thresholds.unknown`) is not given; `runner.py` prints `"label": null` for it and lists its guesses under `top`. The
threshold was chosen on validation images, with the answers of this very file, so that at least {decision.asked:.1%} of
those that are given are right.

- validation images: {_answers(decision.validation)}
- test images, by which nothing was chosen: {_answers(decision.test)}
"""


def _answers(found: Answered | None) -> str:
    if found is None:
        return "not measured"
    said = f"{_share(found.coverage)} of {found.coverage.n} are answered"
    return (
        said if found.precision is None else f"{said}, {_share(found.precision)} of these {found.precision.n} rightly"
    )


def _share(figure: Estimate) -> str:
    return f"{figure.value:.1%} [{figure.low:.1%}, {figure.high:.1%}]"


_RUNNER = """
On the device, with Python 3.6 or newer:

    pip install numpy Pillow onnxruntime
    python3 runner.py classify picture.jpg
    python3 runner.py verify
"""

_OTHER_RUNTIME = """
`python3 runner.py verify` checks the files. `runner.py classify` runs onnx and packed bundles only; a {format} model
runs like this, in the folder of the bundle (`runner.py` holds the pixels that the model was trained on):

    {install} numpy Pillow

```python
import json

import numpy as np

from runner import open_image, prepare

manifest = json.load(open("manifest.json", encoding="utf-8"))
keys = ("height", "width", "channels", "fit", "interpolation")
image = prepare(open_image("picture.jpg"), **{{key: manifest["input"][key] for key in keys}})[np.newaxis]

{example}

print(manifest["labels"][int(np.argmax(logits))])
```
"""


def write_bundle(
    folder: Path, manifest: Manifest, model: Path, extra: dict[str, str], sidecars: Sequence[Path] = ()
) -> Manifest:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        folder: where the bundle will stand; must not exist.
        manifest: its `files` are filled in here.
        model: the model file, copied to `manifest.model_file`.
        extra: further text files, name -> contents (`README.md`, `runner.py`).
        sidecars: the files copied to `manifest.sidecars`, in that order.

    Returns:
        The manifest as written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, file in zip((manifest.model_file, *manifest.sidecars), (model, *sidecars), strict=True):
            shutil.copyfile(file, staging / name)
        for name, text in {"labels.txt": "\n".join(manifest.labels) + "\n", **extra}.items():
            write_text(staging / name, text)
        files = {path.name: file_sha256(path) for path in sorted(staging.iterdir())}
        written = dataclasses.replace(manifest, files=files)
        write_json(staging / MANIFEST, dataclasses.asdict(written))
        staging.chmod(0o755)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def update_measured(folder: Path, measured: dict[str, Any]) -> Manifest:
    """Put figures taken of a bundle into its manifest; no other file changes."""
    written = dataclasses.replace(read_manifest(folder), measured=measured)
    write_json(folder / MANIFEST, dataclasses.asdict(written))
    return written


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest (not the hashes; see `verify_bundle`).

    Raises:
        UntrustedError: missing, not JSON, another format version, keys missing, or names that leave the folder.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UntrustedError(
            "not an edgewise bundle",
            code="U02",
            where={"folder": folder},
            why=f"{MANIFEST}: {problem}",
            fix="give the folder that holds manifest.json, e.g. RUN/bundles/NAME",
        ) from problem
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise UntrustedError(
            f"bundle of format version {version!r}; this edgewise reads {FORMAT_VERSION}",
            code="U02",
            where={"file": path},
            fix="use the edgewise that made the bundle, or export it again",
        )
    manifest = parse(Manifest, raw, path)
    for name in [manifest.model_file, *manifest.sidecars, *manifest.files]:
        if PurePosixPath(name).name != name or name in {"", ".", ".."} or "\\" in name:
            raise UntrustedError(
                "a bundle names a file outside its folder", code="U03", where={"file": path, "name": name}
            )
    if not {manifest.model_file, *manifest.sidecars} <= set(manifest.files):
        raise UntrustedError("the manifest lists no hash for the model file", code="U03", where={"file": path})
    return manifest


def verify_bundle(folder: Path) -> Manifest:
    """Check that a bundle holds exactly the files it was written with.

    Raises:
        UntrustedError: a file is changed, missing, added, or not a regular file; all of them are named.
    """
    manifest = read_manifest(folder)
    problems = []
    present = {entry.name: entry for entry in folder.iterdir() if entry.name != MANIFEST}
    for name, expected in manifest.files.items():
        entry = present.pop(name, None)
        if entry is None:
            problems.append(f"{name}: missing")
        elif entry.is_symlink() or not entry.is_file():
            problems.append(f"{name}: not a regular file")
        elif file_sha256(entry) != expected:
            problems.append(f"{name}: changed")
    problems += [f"{name}: not in the manifest" for name in sorted(present)]
    if problems:
        raise UntrustedError(
            "the bundle is not as it was written",
            code="U03",
            where={"folder": folder},
            why="\n".join(problems),
            fix="copy or export it again; do not run it",
        )
    return manifest
