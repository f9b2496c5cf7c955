"""``runner.py bench`` and ``runner.py probe``: what this bundle costs on this machine. Python 3.6."""

import sys
import time
from typing import Any, Dict, List, Optional

import numpy as np

from edgewise.device.preprocess import prepare
from edgewise.device.shipped.answering import answer, check_pillow, preprocessing, read_picture
from edgewise.device.shipped.opening import open_bundle, runtime
from edgewise.device.shipped.refused import say

P90_RUNS = 44  # fewer cannot hold a 90th percentile with its 95 % interval
WARM_UP = 10


def bench(folder: str, image: Optional[str], runs: int, threads: int, started: float) -> int:
    """Time this machine: one line for each clock, from this one process, on nothing but this bundle.

    Clocks: load (from `started`, the `time.monotonic()` at the start of the file, to a ready session), first (the
    first inference), model (an inference on pixels that are ready) and, with an image, e2e (from the decoded picture to
    its labels).
    """
    if image is not None:
        check_pillow()
    manifest, session = open_bundle(folder, threads)
    say({"clock": "load", "n": 1, "ms": (time.monotonic() - started) * 1e3})
    name = session.get_inputs()[0].name
    picture = _noise(manifest) if image is None else read_picture(image)
    ready = prepare(picture, **preprocessing(manifest))[np.newaxis]
    first = _timed(lambda: session.run(None, {name: ready}), 1)
    say({"clock": "first", "n": 1, "ms": first[0]})
    say(_summary("model", _timed(lambda: session.run(None, {name: ready}), runs + WARM_UP)[WARM_UP:]))
    if image is not None:
        say(_summary("e2e", _timed(lambda: answer(manifest, session, picture, 1), runs + WARM_UP)[WARM_UP:]))
    say({"bundle": manifest["name"], "threads": threads, "peak_rss_bytes": peak_rss(), "versions": versions()})
    return 0


def probe(folder: str, runs: int, threads: int, baseline: bool, started: float) -> int:
    """Print what a cold start costs this fresh process: time to a ready session, first run, memory.

    `baseline_rss_bytes` is the peak before the model is touched: Python, numpy and the runtime. `started` is
    the `time.monotonic()` at which the process was launched.
    """
    runtime()
    facts = {"baseline_rss_bytes": peak_rss(), "versions": versions()}  # type: Dict[str, Any]
    if not baseline:
        manifest, session = open_bundle(folder, threads)
        facts["load_ms"] = (time.monotonic() - started) * 1e3
        pixels = _noise(manifest)[np.newaxis]
        name = session.get_inputs()[0].name
        taken = _timed(lambda: session.run(None, {name: pixels}), runs)
        facts.update(first_ms=taken[0], median_ms=float(np.median(taken)), runs=len(taken), peak_rss_bytes=peak_rss())
    say(facts)
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


def versions() -> Dict[str, Optional[str]]:
    """Of Python and the packages; None for a Pillow that is not there."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3]), "numpy": np.__version__}
    try:
        import PIL

        pillow = str(PIL.__version__)  # type: Optional[str]
    except ImportError:  # a board without it
        pillow = None
    return dict(found, Pillow=pillow, onnxruntime=runtime().__version__)
