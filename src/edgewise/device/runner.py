"""Runs one edgewise bundle: classify pictures or a camera, verify the files, time it.

    python runner.py classify IMAGE... [--top K] [--threshold C] [--threads N]
    python runner.py camera [SOURCE] [--every N] [--frames N] [--top K] [--threshold C] [--threads N]
    python runner.py bench [IMAGE] [--runs N] [--threads N]
    python runner.py verify
    python runner.py tensorrt FILE.onnx
    python runner.py probe [--runs N] [--threads N] [--baseline]

Answers are JSON, one line each, on standard output; words go to standard error. A confidence below the bundle's
threshold makes the label null, which is "unknown"; the guesses stay under "top". Needs Python 3.6 or newer, numpy and
onnxruntime 1.10 or newer. PNG, PPM, BMP and .npy are read with that alone; Pillow 8 or newer reads JPEG, GIF, WebP and
TIFF too and is faster, OpenCV reads JPEG and cameras. Exit codes: 0 ok, 2 usage, 3 a picture cannot be decoded, 4
something is not installed or the camera is gone, 6 the bundle is damaged or was changed, 130 Ctrl-C.
"""

import gc
import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

_FIRST_LINE = time.monotonic()  # before the slow imports: they are part of a cold start
if __name__ == "__main__":
    gc.disable()  # importing makes many objects and no garbage; see `load_session`
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime 1.32 writes a device id and may report it unless told before

import numpy as np  # noqa: E402

from edgewise.device.decode import MAX_PIXELS, BadImage, NoDecoder  # noqa: E402
from edgewise.device.onnxfile import BadModel, check_model, read_model, with_float_input  # noqa: E402
from edgewise.device.preprocess import open_image, open_small, prepare, softmax  # noqa: E402

try:
    import PIL
except ImportError:  # a board without it
    PIL = None  # type: ignore[assignment]

INSTALL_CV2 = "pip install opencv-python-headless, or: sudo apt install python3-opencv"
P90_RUNS = 44  # fewer cannot hold a 90th percentile with its 95 % interval
WARM_UP = 10
SMALL_FILE = 1 << 20


class Refused(Exception):
    """An expected failure: what, where, why and how to mend it."""

    def __init__(self, exit_code: int, code: str, what: str, where: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.exit_code = exit_code
        self.message = "error[{}]: {}\n  where: {}\n  why: {}\n  fix: {}".format(code, what, where, why, fix)


# --- The bundle -------------------------------------------------------------------------------------------------


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
    ort = _runtime()
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


def read_picture(path: str) -> Any:
    """What `prepare` takes: a decoded picture file, or a .npy array, uint8 (height, width[, 1 or 3]), gray or RGB."""
    if not path.endswith(".npy"):
        small = open_small(path)
        return open_image(path) if small is None else small
    if not os.path.isfile(path):
        raise BadImage("not a regular file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.size > 3 * MAX_PIXELS:
            raise ValueError("{} values, more than {}".format(array.size, 3 * MAX_PIXELS))
        return np.array(array)
    except (OSError, ValueError, SyntaxError, EOFError) as problem:
        raise BadImage("not an array of pixels: {}".format(problem)) from None


def answer(
    manifest: Dict[str, Any], session: Any, image: Any, top: int, threshold: Optional[float] = None
) -> Dict[str, Any]:
    """The labels of a decoded picture: from its pixels to the best `top`, with the time that took.

    The label is None, for unknown, where its confidence is below the threshold; that of the bundle unless one is given.
    """
    start = time.perf_counter()
    pixels = prepare(image, **_preprocessing(manifest))
    temperature, chosen = thresholds_of(manifest)
    scores = softmax(session.run(None, {session.get_inputs()[0].name: pixels[np.newaxis]})[0], temperature)[0]
    best = [int(index) for index in np.argsort(-scores, kind="stable")[: max(1, top)]]
    ms = (time.perf_counter() - start) * 1e3
    ranked = [{"label": manifest["labels"][index], "confidence": round(float(scores[index]), 6)} for index in best]
    known = float(scores[best[0]]) >= (chosen if threshold is None else threshold)
    return dict(ranked[0], label=ranked[0]["label"] if known else None, top=ranked, ms=round(ms, 3))


# --- Commands ---------------------------------------------------------------------------------------------------


def classify(folder: str, images: List[str], top: int, threshold: Optional[float], threads: int) -> int:
    """Print one line for each picture; 4 when one needs a package that is missing, 3 when one is damaged, else 0."""
    _check_pillow()
    manifest, session = open_bundle(folder, threads)
    code = 0
    for path in images:
        try:
            line = answer(manifest, session, read_picture(path), top, threshold)
        except BadImage as problem:
            code = max(code, 4 if isinstance(problem, NoDecoder) else 3)
            line = {"error": str(problem)}
        _say(dict(file=path, **line))
    return code


def camera(
    folder: str, source: str, every: int, frames: int, top: int, threshold: Optional[float], threads: int
) -> int:
    """Classify every n-th frame of a camera, a GStreamer pipeline or a video file, one line each, and a last line.

    Ends with 0 at the end of a file or after `frames` answers, with 4 when the camera is lost, with 130 after Ctrl-C.
    """
    try:
        import cv2
    except ImportError as problem:
        raise Refused(4, "E34", "camera needs OpenCV", sys.executable, str(problem), INSTALL_CV2) from None
    manifest, session = open_bundle(folder, threads)
    capture = _open_camera(cv2, source)
    read = answered = 0
    ended = "lost"
    try:
        while not frames or answered < frames:
            there, frame = capture.read()
            if not there or frame is None:
                ended = "end" if os.path.isfile(source) else "lost"
                break
            read += 1
            if (read - 1) % every == 0:
                picture = frame if frame.ndim == 2 else np.ascontiguousarray(frame[..., 2::-1])  # BGR to RGB
                _say(dict(frame=read - 1, **answer(manifest, session, picture, top, threshold)))
                answered += 1
        else:
            ended = "enough"
    except KeyboardInterrupt:
        ended = "interrupted"
    finally:
        capture.release()
    _say({"camera": source, "frames": read, "answered": answered, "ended": ended})
    if ended == "lost":
        why = "no frame came after {} frames".format(read)
        raise Refused(
            4, "E36", "the camera is lost", source, why, "plug it in again and start anew; `dmesg` tells more"
        )
    return 130 if ended == "interrupted" else 0


def bench(folder: str, image: Optional[str], runs: int, threads: int) -> int:
    """Time this machine: one line for each clock, from this one process, on nothing but this bundle.

    Clocks: load (start of this file to a ready session), first (the first inference), model (an inference on pixels
    that are ready) and, with an image, e2e (from the decoded picture to its labels).
    """
    if image is not None:
        _check_pillow()
    manifest, session = open_bundle(folder, threads)
    _say({"clock": "load", "n": 1, "ms": (time.monotonic() - _FIRST_LINE) * 1e3})
    name = session.get_inputs()[0].name
    picture = _noise(manifest) if image is None else read_picture(image)
    ready = prepare(picture, **_preprocessing(manifest))[np.newaxis]
    first = _timed(lambda: session.run(None, {name: ready}), 1)
    _say({"clock": "first", "n": 1, "ms": first[0]})
    _say(_summary("model", _timed(lambda: session.run(None, {name: ready}), runs + WARM_UP)[WARM_UP:]))
    if image is not None:
        _say(_summary("e2e", _timed(lambda: answer(manifest, session, picture, 1), runs + WARM_UP)[WARM_UP:]))
    _say({"bundle": manifest["name"], "threads": threads, "peak_rss_bytes": peak_rss(), "versions": _versions()})
    return 0


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


def tensorrt(folder: str, out: str) -> int:
    """Write the model with float32 pixels (0..255), which TensorRT 8.2 reads; it takes no uint8."""
    path, model, facts = read_checked(folder, read_manifest(folder))
    try:
        changed = with_float_input(model)
    except BadModel as problem:
        raise Refused(6, problem.code, problem.what, path, str(problem), "give the fp32 bundle's folder") from None
    try:
        with open(out, "xb") as stream:
            stream.write(changed)
    except OSError as problem:
        raise Refused(4, "E37", "the file cannot be written", out, str(problem), "give a new name") from None
    _say({"file": out, "input": facts["input"][0], "shape": [1, *facts["input"][2][1:]], "type": "float32"})
    return 0


def probe(folder: str, runs: int, threads: int, baseline: bool, started: float) -> int:
    """Print what a cold start costs this fresh process: time to a ready session, first run, memory.

    `baseline_rss_bytes` is the peak before the model is touched: Python, numpy and the runtime. `started` is
    the `time.monotonic()` at which the process was launched.
    """
    _runtime()
    facts = {"baseline_rss_bytes": peak_rss(), "versions": _versions()}  # type: Dict[str, Any]
    if not baseline:
        manifest, session = open_bundle(folder, threads)
        facts["load_ms"] = (time.monotonic() - started) * 1e3
        pixels = _noise(manifest)[np.newaxis]
        name = session.get_inputs()[0].name
        taken = _timed(lambda: session.run(None, {name: pixels}), runs)
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


COMMANDS = {
    "classify": (
        "IMAGE...",
        {"--top": 3, "--threshold": None, "--threads": 1},
        "say what is on pictures (or .npy, uint8 height x width [x 3]), one JSON line each",
    ),
    "camera": (
        "[SOURCE]",
        {"--every": 1, "--frames": 0, "--top": 3, "--threshold": None, "--threads": 1},
        "say what a camera (number, GStreamer pipeline or video file; default: 0) sees, one JSON line a frame",
    ),
    "bench": ("[IMAGE]", {"--runs": 100, "--threads": 1}, "time it here, one JSON line a clock; e2e needs an image"),
    "verify": ("", {}, "check that no file was changed"),
    "tensorrt": ("FILE", {}, "write the fp32 model as TensorRT 8.2 takes it; FILE must not exist"),
    "probe": (
        "",
        {"--runs": 20, "--threads": 1, "--baseline": False, "--started": _FIRST_LINE},
        "time a cold start and read its memory",
    ),
}  # type: Dict[str, Any]  # command -> its words, its options with their defaults, what it does
OPTIONS = {
    "--bundle": "folder with manifest.json (default: where this file is)",
    "--threads": "threads of the runtime",
    "--top": "how many labels to list",
    "--threshold": "label null below this confidence, 0 to 1 (default: the bundle's)",
    "--every": "classify every n-th frame",
    "--frames": "stop after so many answers, 0 never",
    "--runs": "inferences to time",
    "--baseline": "stop once the runtime is imported",
    "--started": "time.monotonic() at the launch",
}


def main(argv: Optional[List[str]] = None) -> int:
    """The command line; returns the exit code."""
    command, words, options = read_words(sys.argv[1:] if argv is None else argv)
    bundle, threads = options["--bundle"], options.get("--threads", 1)
    first = words[0] if words else None
    try:
        if command == "classify":
            return classify(bundle, words, options["--top"], options["--threshold"], threads)
        if command == "camera":
            every, frames = options["--every"], options["--frames"]
            return camera(bundle, first or "0", every, frames, options["--top"], options["--threshold"], threads)
        if command == "bench":
            return bench(bundle, first, options["--runs"], threads)
        if command == "verify":
            return verify(bundle)
        if command == "tensorrt":
            return tensorrt(bundle, str(first))
        return probe(bundle, options["--runs"], threads, options["--baseline"], options["--started"])
    except Refused as problem:
        print(problem.message, file=sys.stderr)
        return problem.exit_code
    except BadImage as problem:
        print("error: {}: {}".format(first, problem), file=sys.stderr)
        return 4 if isinstance(problem, NoDecoder) else 3
    except KeyboardInterrupt:
        return 130


def read_words(argv: List[str]) -> Any:
    """(command, words, options) of a command line; ends the program with 2 where it is wrong, with 0 after --help.

    argparse would take a tenth of a cold start.
    """
    if argv[:1] in (["-h"], ["--help"]):
        _help(0, "")
    if not argv or argv[0] not in COMMANDS:
        _help(2, "no command {!r}".format(argv[0]) if argv else "a command is missing")
    command, rest = argv[0], list(argv[1:])
    words = []  # type: List[str]
    options = dict(COMMANDS[command][1], **{"--bundle": os.path.dirname(os.path.abspath(__file__))})
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word == "--":
            words, rest = words + rest, []
        elif not word.startswith("-") or word == "-":
            words.append(word)
        elif word in ("-h", "--help"):
            _help(0, "", command)
        elif name not in options:
            _help(2, "{} has no option {} (a file of that name is ./{})".format(command, name, word), command)
        elif COMMANDS[command][1].get(name) is False and not equals:
            options[name] = True
        elif not equals and not rest:
            _help(2, "{} needs a value".format(name), command)
        else:
            options[name] = _converted(command, name, value if equals else rest.pop(0))
    least, most = {"IMAGE...": (1, None), "FILE": (1, 1), "": (0, 0)}.get(COMMANDS[command][0], (0, 1))
    if len(words) < least or (most is not None and len(words) > most):
        _help(2, "{} takes {}, not {} words".format(command, COMMANDS[command][0] or "none", len(words)), command)
    return command, words, options


def _converted(command: str, name: str, text: str) -> Any:
    try:
        if name == "--bundle":
            return text
        if name == "--baseline":
            raise ValueError("takes no value")
        value = float(text) if name in ("--threshold", "--started") else int(text)
        if name == "--threshold" and not 0 <= value <= 1:
            raise ValueError("0 to 1, not {}".format(text))
        if name in ("--threads", "--top", "--every", "--runs") and value < 1:
            raise ValueError("1 or more, not {}".format(text))
        return value
    except ValueError as problem:
        return _help(2, "{}: {}".format(name, problem), command)


def _help(code: int, problem: str, command: str = "") -> None:
    """Say how it is used, and what was wrong, and end the program."""
    lines = []
    for name in [command] if command else COMMANDS:
        words, defaults, about = COMMANDS[name]
        lines.append("usage: runner.py {} {} [options]\n    {}".format(name, words, about))
        for option in [*defaults, "--bundle"] if command else []:
            default = defaults.get(option)
            shown = "" if default is None or option in ("--started", "--baseline") else " (default: {})".format(default)
            lines.append("    {:12} {}{}".format(option, OPTIONS[option], shown))
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    if problem:
        print("error: " + problem, file=sys.stderr)
    raise SystemExit(code)


def _open_camera(cv2: Any, source: str) -> Any:
    if source.isdigit():
        capture = cv2.VideoCapture(int(source))
    elif "!" in source:
        capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
    else:
        capture = cv2.VideoCapture(source)
    if capture.isOpened():
        return capture
    capture.release()
    if "!" in source:
        has = "GStreamer: YES" in " ".join(cv2.getBuildInformation().split())
        why = "the pipeline does not start" if has else "this OpenCV was built without GStreamer"
        fix = "try it with gst-launch-1.0; it ends in appsink" if has else "sudo apt install python3-opencv"
    else:
        found = sorted(name for name in os.listdir("/dev") if name.startswith("video")) if os.path.isdir("/dev") else []
        why = "cameras here: {}".format(", ".join("/dev/" + name for name in found) or "none")
        fix = "is another program using it, and are you in the group video?"
    raise Refused(4, "E35", "the camera cannot be opened", source, why, fix)


def _check_pillow() -> None:
    if PIL is not None and int(PIL.__version__.split(".")[0]) < 8:
        why = "version 8 or newer is needed, or none"
        raise Refused(4, "E32", "Pillow is too old", PIL.__version__, why, "pip install -U Pillow")


def _preprocessing(manifest: Dict[str, Any]) -> Dict[str, Any]:
    return {key: manifest["input"][key] for key in ("height", "width", "channels", "fit", "interpolation")}


def _noise(manifest: Dict[str, Any]) -> Any:
    shape = [manifest["input"][key] for key in ("height", "width", "channels")]
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def _timed(work: Any, runs: int) -> List[float]:
    """Milliseconds of each of so many calls."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def _summary(clock: str, taken: List[float]) -> Dict[str, Any]:
    line = {"clock": clock, "n": len(taken), "p50_ms": round(float(np.percentile(taken, 50)), 6)}  # type: Dict[str, Any]
    if len(taken) >= P90_RUNS:
        line["p90_ms"] = round(float(np.percentile(taken, 90)), 6)
    return line


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as problem:
        raise Refused(
            4, "E10", "onnxruntime cannot be imported", sys.executable, str(problem), "pip install onnxruntime"
        ) from None
    return onnxruntime


def _versions() -> Dict[str, Optional[str]]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    pillow = None if PIL is None else str(PIL.__version__)
    return {"python": python, "numpy": np.__version__, "Pillow": pillow, "onnxruntime": _runtime().__version__}


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


def _say(line: Dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
