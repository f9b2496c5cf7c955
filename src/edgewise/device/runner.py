"""Runs one edgewise bundle: classify pictures, verify the files, probe the cost of a cold start.

    python runner.py classify IMAGE... [--top K] [--threads N]
    python runner.py verify
    python runner.py probe [--runs N] [--threads N] [--baseline]

Answers are JSON, one line each, on standard output; words go to standard error. Needs Python 3.6 or newer, numpy,
Pillow 8 or newer and onnxruntime 1.10 or newer, and nothing else. Exit codes: 0 ok, 2 usage, 3 a picture cannot be
decoded, 4 something is not installed, 6 the bundle is damaged or was changed.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

_FIRST_LINE = time.monotonic()  # before the slow imports: they are part of a cold start

import numpy as np  # noqa: E402
import PIL  # noqa: E402

from edgewise.device.packed import BadPacked, unpack  # noqa: E402
from edgewise.device.preprocess import BadImage, open_image, prepare, softmax  # noqa: E402


class Refused(Exception):
    """An expected failure: what, where, why and how to mend it."""

    def __init__(self, exit_code: int, code: str, what: str, where: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.exit_code = exit_code
        self.message = "error[{}]: {}\n  where: {}\n  why: {}\n  fix: {}".format(code, what, where, why, fix)


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
    except (OSError, ValueError, KeyError, TypeError) as problem:
        why = "{}: {}".format(type(problem).__name__, problem)
        raise Refused(6, "U02", "not an edgewise bundle", path, why, "copy the whole bundle folder again") from None
    return dict(manifest)


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


def load_session(path: str, threads: int) -> Any:
    """Open the ONNX file, packed or not, for single-stream use on the CPU; weights outside of it are never followed."""
    ort = _runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    with open(path, "rb") as stream:
        model = stream.read()
    if path.endswith(".packed"):
        try:
            model = unpack(model)
        except BadPacked as problem:
            fix = "copy or export it again; do not run it"
            raise Refused(6, "U53", "this packed model is damaged", path, str(problem), fix) from None
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # noqa: BLE001 - the runtime's errors share no base class but Exception
        why = str(problem).splitlines()[0]
        raise Refused(
            6, "U04", "onnxruntime refuses this model file", path, why, "use a newer onnxruntime, or export again"
        ) from None


def classify(folder: str, images: List[str], top: int, threads: int) -> int:
    """Print one line for each picture; 3 when one of them cannot be decoded, else 0."""
    if int(PIL.__version__.split(".")[0]) < 8:
        raise Refused(
            4, "E32", "Pillow is too old", PIL.__version__, "version 8 or newer is needed", "pip install -U Pillow"
        )
    manifest, session = _open(folder, threads)
    name = session.get_inputs()[0].name
    options = {key: manifest["input"][key] for key in ("height", "width", "channels", "fit", "interpolation")}
    failed = False
    for path in images:
        try:
            image = open_image(path)
            start = time.perf_counter()
            pixels = prepare(image, **options)
            scores = softmax(session.run(None, {name: pixels[np.newaxis]})[0])[0]
            best = [int(index) for index in np.argsort(-scores, kind="stable")[: max(1, top)]]
            ms = (time.perf_counter() - start) * 1e3
        except BadImage as problem:
            failed = True
            _say({"file": path, "error": str(problem)})
            continue
        ranked = [{"label": manifest["labels"][index], "confidence": round(float(scores[index]), 6)} for index in best]
        _say(dict(file=path, **ranked[0], top=ranked, ms=round(ms, 3)))
    return 3 if failed else 0


def verify(folder: str) -> int:
    """Compare every file of the bundle with its sha256; anything that does not belong there counts as a change."""
    manifest = read_manifest(folder)
    check_files(folder, manifest["files"])
    added = sorted(set(os.listdir(folder)) - set(manifest["files"]) - {"manifest.json"})
    if added:
        why = "not in the manifest: " + ", ".join(added)
        raise Refused(6, "U03", "the bundle is not as it was written", folder, why, "remove what was added")
    _say({"bundle": manifest["name"], "files": len(manifest["files"]), "unchanged": True})
    return 0


def probe(folder: str, runs: int, threads: int, baseline: bool, started: float) -> int:
    """Print what a cold start costs this fresh process: time to a ready session, first run, memory.

    `baseline_rss_bytes` is the peak before the model is touched: Python, numpy, Pillow and the runtime. `started` is
    the `time.monotonic()` at which the process was launched.
    """
    ort = _runtime()
    facts = {"baseline_rss_bytes": peak_rss(), "versions": _versions(ort)}  # type: Dict[str, Any]
    if not baseline:
        manifest, session = _open(folder, threads)
        facts["load_ms"] = (time.monotonic() - started) * 1e3
        height, width, channels = (manifest["input"][key] for key in ("height", "width", "channels"))
        pixels = np.random.RandomState(0).randint(0, 256, (1, height, width, channels)).astype(np.uint8)
        name = session.get_inputs()[0].name
        taken = []
        for _ in range(max(1, runs)):
            start = time.perf_counter()
            session.run(None, {name: pixels})
            taken.append((time.perf_counter() - start) * 1e3)
        facts.update(first_ms=taken[0], median_ms=float(np.median(taken)), runs=len(taken), peak_rss_bytes=peak_rss())
    _say(facts)
    return 0


def peak_rss() -> int:
    """The largest resident size of this process so far, in bytes.

    `VmHWM` starts anew with each program; `ru_maxrss` does not, it keeps the size of the process that launched this.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as stream:
            for line in stream:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(argv: Optional[List[str]] = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "classify":
            return classify(options.bundle, options.image, options.top, options.threads)
        if options.command == "verify":
            return verify(options.bundle)
        return probe(options.bundle, options.runs, options.threads, options.baseline, options.started)
    except Refused as problem:
        print(problem.message, file=sys.stderr)
        return problem.exit_code


def _parser() -> argparse.ArgumentParser:
    here = os.path.dirname(os.path.abspath(__file__))
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--bundle", default=here, help="folder with manifest.json (default: where this file is)")
    timed = argparse.ArgumentParser(add_help=False, parents=[common])
    timed.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: 1)")
    parser = argparse.ArgumentParser(description="Run an edgewise bundle.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.required = True
    one = commands.add_parser("classify", parents=[timed], help="say what is on pictures, one JSON line each")
    one.add_argument("image", nargs="+", help="picture file")
    one.add_argument("--top", type=int, default=3, help="how many labels to list (default: 3)")
    commands.add_parser("verify", parents=[common], help="check that no file was changed")
    one = commands.add_parser("probe", parents=[timed], help="time a cold start and read its memory")
    one.add_argument("--runs", type=int, default=20, help="inferences to run (default: 20)")
    one.add_argument("--baseline", action="store_true", help="stop once the runtime is imported")
    one.add_argument("--started", type=float, default=_FIRST_LINE, help="time.monotonic() at the launch")
    return parser


def _open(folder: str, threads: int) -> Any:
    manifest = read_manifest(folder)
    if manifest["format"] not in ("onnx", "packed"):
        why = "the format is {}".format(manifest["format"])
        fix = "use a bundle of format onnx or packed"
        raise Refused(4, "E33", "this runner runs onnx and packed bundles only", folder, why, fix)
    name = manifest["model_file"]
    check_files(folder, {name: manifest["files"][name]})
    session = load_session(os.path.join(folder, name), threads)
    says = [manifest["input"][key] for key in ("height", "width", "channels")] + [len(manifest["labels"])]
    has = list(session.get_inputs()[0].shape[1:]) + list(session.get_outputs()[0].shape[1:])
    pairs = zip(has, says)  # noqa: B905 - Python 3.6 knows no strict
    if len(has) != 4 or any(isinstance(dim, int) and dim != said for dim, said in pairs):
        why = "height, width, channels, classes are {} in the manifest and {} in the model".format(says, has)
        raise Refused(6, "U02", "the manifest does not belong to the model", folder, why, "export the bundle again")
    return manifest, session


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as problem:
        raise Refused(
            4, "E10", "onnxruntime cannot be imported", sys.executable, str(problem), "pip install onnxruntime"
        ) from None
    return onnxruntime


def _versions(ort: Any) -> Dict[str, str]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {"python": python, "numpy": np.__version__, "Pillow": PIL.__version__, "onnxruntime": ort.__version__}


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _say(line: Dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
