"""What ``edgewise bench`` measures on a device, each in a process of its own: ``python -m edgewise.device.jobs JOB``.

    runtime                  which packages there are, and that the runtime can be imported
    measure JOB.json         the interleaved timing of `edgewise.device.rounds`
    cold JOB.json STARTED    a cold start: time to a ready session, first run, peak memory
    answers JOB.json         the class of every test image
    pace JOB.json            run as fast as it goes, or at a fixed rate, while the power is read

Answers are lines of JSON. The syntax is that of Python 3.6; numpy and onnxruntime are all that is needed, and Pillow or
cv2 only for pictures that are neither PNG, PPM nor BMP. Formats besides onnx run where edgewise itself is installed.
"""

import base64
import gc
import importlib
import json
import os
import sys
import time
import zlib
from typing import Any, Callable, Dict, List, Optional, Tuple

ON_BOARD = ("onnx", "packed")  # the formats that need nothing of edgewise


def runtime() -> None:
    """The versions of the packages, or why they cannot be imported."""
    found = {}  # type: Dict[str, Any]
    for name in ("numpy", "PIL", "onnxruntime"):
        _say({"importing": name})  # the last word of a process that a missing instruction kills
        try:
            module = importlib.import_module(name)
            found[name] = {"version": str(module.__version__), "bytes": _package_bytes(module)}
        except ImportError as problem:
            found[name] = {"error": str(problem)}
    if "version" in found["onnxruntime"] and "version" in found["numpy"]:
        found["providers"] = importlib.import_module("onnxruntime").get_available_providers()
    _say({"packages": found})


def measure(job: Dict[str, Any]) -> None:
    """Time the series of a job in the rounds it says; see `edgewise.device.rounds`."""
    import numpy as np

    from edgewise.device.rounds import Length, Series, clock_ns, run_rounds, warm_up
    from edgewise.device.state import read_state

    _pin(job)
    series = []  # type: List[Series]
    why_no_e2e = ""
    described = {}  # type: Dict[str, Any]
    for subject in job["subjects"]:
        model = _load(subject, job["threads"])
        described[subject["name"]] = model.about
        runs, why_no_e2e = _runs(subject, model, job["e2e"])
        for again in (False, True) if subject["reference"] else (False,):
            length = Length(job["block"]["least"], job["block"]["ns"], job["block"]["most"])
            series.append(Series(subject["name"], again, runs[0], runs[1], length))
    for one in series:
        one.warm = warm_up(one.run_model, clock_ns, job["warm"]["least_ns"], job["warm"]["cap_ns"])
        if one.run_e2e is not None and not one.again:
            one.run_e2e(0)

    def flush() -> None:
        blocks = []
        for index, one in enumerate(series):
            for clock in ("model", "e2e"):
                blocks += [[index, clock, _packed(block)] for block in getattr(one, clock)]
                setattr(one, clock, [])
        _say({"blocks": blocks})

    def on_round() -> None:
        if job["stream"]:
            flush()
        else:
            _say({"round": True})

    gc.collect()
    gc.disable()
    _say({"began": time.monotonic(), "before": read_state(job["root"])})
    run_rounds(series, job["orders"], clock_ns, on_round, lambda taken: np.asarray(taken, dtype=np.int64))
    _say({"ended": time.monotonic(), "after": read_state(job["root"])})
    gc.enable()
    flush()
    _say({"warm": [_packed(np.asarray(one.warm, dtype=np.int64)) for one in series]})
    _say({"done": True, "described": described, "no_e2e": why_no_e2e, "affinity": _affinity()})


def cold(job: Dict[str, Any], started: float) -> None:
    """What a cold start costs this fresh process; `started` is the `time.monotonic()` of its launch."""
    _pin(job)
    subject = job["subjects"][0]
    if subject["format"] in ON_BOARD:
        importlib.import_module("onnxruntime")
    else:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it phones home else
        importlib.import_module(importlib.import_module("edgewise.device").RUNTIMES[subject["format"]].module)
    baseline = peak_rss()
    model = _load(subject, job["threads"])
    load_ms = (time.monotonic() - started) * 1e3
    images = _images(subject)
    start = time.perf_counter()
    model.run(model.feed(images[:1]))
    first_ms = (time.perf_counter() - start) * 1e3
    for turn in range(1, job["runs"]):
        model.run(model.feed(images[turn % len(images)][None]))
    _say({"baseline_rss_bytes": baseline, "load_ms": load_ms, "first_ms": first_ms, "peak_rss_bytes": peak_rss()})


def answers(job: Dict[str, Any]) -> None:
    """The class that each test image is called, one at a time as in use."""
    import numpy as np

    subject = job["subjects"][0]
    model = _load(subject, job["threads"])
    images = _images(subject)
    called = np.empty(len(images), dtype=np.int64)
    for index in range(len(images)):
        called[index] = int(np.argmax(model.run(model.feed(images[index : index + 1]))[0]))
    _say({"called": _packed(called)})


def pace(job: Dict[str, Any]) -> None:
    """Run for some seconds, at `per_second` inferences or as fast as it goes; says from when to when."""
    _pin(job)
    subject = job["subjects"][0]
    model = _load(subject, job["threads"])
    images = _images(subject)
    feeds = [model.feed(images[index : index + 1]) for index in range(min(64, len(images)))]
    for turn in range(10):
        model.run(feeds[turn % len(feeds)])
    blocks = []
    for _ in range(job["blocks"]):
        start, count = time.monotonic(), 0
        while True:
            model.run(feeds[count % len(feeds)])
            count += 1
            now = time.monotonic()
            if job["per_second"]:
                due = start + count / job["per_second"]
                if due > start + job["seconds"]:
                    time.sleep(max(0.0, start + job["seconds"] - now))
                    now = time.monotonic()
                elif due > now:
                    time.sleep(due - now)
                    now = time.monotonic()
            if now - start >= job["seconds"]:
                break
        blocks.append([start, now, count])
    _say({"paced": blocks})


class Model:
    """A loaded model: `feed` makes the argument of `run` of a batch uint8 (1, height, width, channels)."""

    def __init__(self, feed: Callable[[Any], Any], run: Callable[[Any], Any], about: Dict[str, Any]) -> None:
        self.feed = feed
        self.run = run
        self.about = about


def _load(subject: Dict[str, Any], threads: int) -> Model:
    if subject["format"] not in ON_BOARD:
        from pathlib import Path

        runtimes = importlib.import_module("edgewise.device").RUNTIMES
        session = runtimes[subject["format"]].load(Path(subject["file"]), threads)
        return Model(lambda batch: batch, session.scores, session.describe())
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    with open(subject["file"], "rb") as stream:
        content = stream.read()
    if subject["format"] == "packed":
        from edgewise.device.packed import unpack

        content = unpack(content)
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.get_outputs()[0].name]
    about = {
        "runtime": "onnxruntime",
        "version": ort.__version__,
        "provider": session.get_providers()[0],
        "spinning": threads > 1,
    }
    return Model(lambda batch: {name: batch}, lambda feed: session.run(outputs, feed)[0], about)


def _runs(subject: Dict[str, Any], model: Model, e2e: bool) -> Tuple[Tuple[Any, Any], str]:
    """The functions of the two clocks, and why there is none for e2e."""
    images = _images(subject)
    count = min(len(images), subject["distinct"])
    feeds = [model.feed(images[index : index + 1].copy()) for index in range(count)]
    run = model.run

    def run_model(turn: int) -> None:
        run(feeds[turn % count])

    if not e2e:
        return (run_model, None), "this protocol takes the model clock only"
    try:
        import numpy as np

        from edgewise.device.preprocess import open_image, prepare, softmax

        pictures = [open_image(name) for name in subject["pictures"]]
        if not pictures:
            shown = [images[index] for index in range(count)]
            pictures = [one[:, :, 0] if one.shape[2] == 1 else one for one in shown]
    except (ImportError, ValueError) as problem:
        return (run_model, None), "no e2e clock: a picture cannot be decoded on this device ({})".format(problem)
    options = subject["preprocessing"]

    def run_e2e(turn: int) -> None:
        pixels = prepare(pictures[turn % len(pictures)], **options)
        int(np.argmax(softmax(run(model.feed(pixels[None])))[0]))

    return (run_model, run_e2e), ""


def _images(subject: Dict[str, Any]) -> Any:
    import numpy as np

    return np.load(subject["images"], mmap_mode="r", allow_pickle=False)


def peak_rss() -> int:
    """The largest resident size of this process so far, in bytes; 0 where the kernel does not tell."""
    try:
        with open("/proc/self/status", "rb") as stream:
            for line in stream:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _pin(job: Dict[str, Any]) -> None:
    if job.get("pin"):
        from edgewise.device.state import fastest_cores

        os.sched_setaffinity(0, fastest_cores(job["threads"], "/", os.sched_getaffinity(0)))


def _affinity() -> Optional[List[int]]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _package_bytes(module: Any) -> int:
    total = 0
    for folder, _, names in os.walk(os.path.dirname(module.__file__)):
        total += sum(os.path.getsize(os.path.join(folder, name)) for name in names if not name.endswith(".pyc"))
    return total


def _packed(values: Any) -> str:
    return base64.b64encode(zlib.compress(values.astype("<i8").tobytes(), 1)).decode("ascii")


def _say(line: Dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(words: List[str]) -> None:
    """Do the job that is named."""
    if words[0] == "runtime":
        return runtime()
    with open(words[1], encoding="utf-8") as stream:
        job = json.load(stream)
    if words[0] == "cold":
        return cold(job, float(words[2]))
    return {"measure": measure, "answers": answers, "pace": pace}[words[0]](job)


if __name__ == "__main__":
    main(sys.argv[1:])
