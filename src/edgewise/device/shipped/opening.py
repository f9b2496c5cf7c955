"""How ``runner.py`` opens a bundle: nothing in it is believed before it is checked. Python 3.6."""

import gc
import json
import os
import sys
from typing import Any, Dict

from edgewise.device.onnxfile import BadModel, check_model, read_model
from edgewise.device.shipped.refused import Refused

SMALL_FILE = 1 << 20


def read_manifest(folder: str) -> Dict[str, Any]:
    """The bundle's manifest, refused when it is not one of format version 1 or names files elsewhere."""
    path = os.path.join(folder, "manifest.json")
    try:
        with open(path, encoding="utf-8") as stream:
            manifest = json.load(stream)
        if manifest["format_version"] != 1:
            raise ValueError("format version {}; this runner reads 1".format(manifest["format_version"]))
        names = list(manifest["files"])
        if manifest["model_file"] not in names:
            raise ValueError("no sha256 for the model file")
        if any(name != os.path.basename(name) or name in ("", ".", "..") for name in names):
            raise ValueError("a file name leaves the folder")
        thresholds_of(manifest)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        why = "{}: {}".format(type(problem).__name__, problem)
        raise Refused(6, "U02", "not an edgewise bundle", path, why, "copy the whole bundle folder again") from None
    return dict(manifest)


def thresholds_of(manifest: Dict[str, Any]) -> Any:
    """(temperature, threshold): 1 and 0, which change nothing, where a bundle has none; ValueError or TypeError."""
    known = dict(manifest.get("thresholds") or {})
    temperature, threshold = float(known.get("temperature", 1.0)), float(known.get("unknown", 0.0))
    if not 0.0 < temperature < float("inf") or not 0.0 <= threshold <= 1.0:
        raise ValueError("temperature {} or threshold {} out of range".format(temperature, threshold))
    return temperature, threshold


def check_files(folder: str, files: Dict[str, str]) -> None:
    """Refuse the bundle when one of these files (name -> sha256) is missing or changed."""
    problems = []
    for name, expected in files.items():
        path = os.path.join(folder, name)
        if os.path.islink(path) or not os.path.isfile(path):
            problems.append(name + ": missing or not a regular file")
        elif _sha256(path) != expected:
            problems.append(name + ": changed")
    if problems:
        fix = "copy or export it again; do not run it"
        raise Refused(6, "U03", "the bundle is not as it was written", folder, "; ".join(problems), fix)


def open_bundle(folder: str, threads: int) -> Any:
    """(manifest, session) of a bundle whose model file is as it was written, and is what the manifest says."""
    manifest = read_manifest(folder)
    if manifest["format"] not in ("onnx", "packed"):
        why = "the format is {}".format(manifest["format"])
        fix = "use a bundle of format onnx or packed"
        raise Refused(4, "E33", "this runner runs onnx and packed bundles only", folder, why, fix)
    path, model, facts = read_checked(folder, manifest)
    says = [manifest["input"][key] for key in ("height", "width", "channels")] + [len(manifest["labels"])]
    has = facts["input"][2][1:] + facts["output"][2][1:]
    pairs = zip(has, says)  # noqa: B905 - Python 3.6 knows no strict
    if len(has) != 4 or any(dim is not None and dim != said for dim, said in pairs):
        why = "height, width, channels, classes are {} in the manifest and {} in the model".format(says, has)
        raise Refused(6, "U02", "the manifest does not belong to the model", folder, why, "export the bundle again")
    return manifest, load_session(model, path, threads)


def read_checked(folder: str, manifest: Dict[str, Any]) -> Any:
    """(path, bytes, facts) of a bundle's ONNX file, unpacked where it is packed, as it was written and safe to open."""
    name = manifest["model_file"]
    check_files(folder, {name: manifest["files"][name]})
    path = os.path.join(folder, name)
    try:
        model = read_model(path)
        if manifest["format"] == "packed":
            model = unpacked(model, path)
        return path, model, check_model(model)
    except BadModel as problem:
        raise Refused(6, problem.code, problem.what, path, str(problem), "export it again; do not run it") from None


def unpacked(model: bytes, path: str) -> bytes:
    """The ONNX file of a packed one; `path` is only named."""
    from edgewise.device.packed import BadPacked, unpack

    try:
        return unpack(model)
    except BadPacked as problem:
        fix = "copy or export it again; do not run it"
        raise Refused(6, "U53", "this packed model is damaged", path, str(problem), fix) from None


def load_session(model: bytes, path: str, threads: int) -> Any:
    """Open a checked ONNX file for single-stream use on the CPU; `path` is only named."""
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # noqa: BLE001 - the runtime's errors share no base class but Exception
        why = str(problem).splitlines()[0]
        raise Refused(
            6, "U04", "onnxruntime refuses this model file", path, why, "use a newer onnxruntime, or export again"
        ) from None
    _collect_again()
    return session


def _collect_again() -> None:
    """Turn garbage collection on again where the start turned it off.

    What was imported stays until the end. The first collection would look at all of it for garbage, which took a
    tenth of a cold start, so it is set aside where Python can do that.
    """
    if not gc.isenabled():
        if hasattr(gc, "freeze"):
            gc.freeze()  # novermin - from Python 3.7 on
        gc.enable()


def runtime() -> Any:
    """onnxruntime, imported when it is needed."""
    try:
        import onnxruntime
    except ImportError as problem:
        raise Refused(
            4, "E10", "onnxruntime cannot be imported", sys.executable, str(problem), "pip install onnxruntime"
        ) from None
    return onnxruntime


def _sha256(path: str) -> str:
    """The sha256 of a file. OpenSSL is the faster, but loading it takes longer than a small file with Python alone."""
    digest = None
    if os.path.getsize(path) <= SMALL_FILE:
        for name in ("_sha2", "_sha256"):  # Python's own, from 3.12 on and before
            try:
                digest = __import__(name).sha256()
                break
            except ImportError:
                continue
    if digest is None:
        import hashlib

        digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
