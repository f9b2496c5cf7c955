"""What `edgewise bench` and `runner.py` cost beyond onnxruntime itself: paired ratios with 95 % intervals.

    python -m benchmarks.bench_overhead BUNDLE [--pairs 40]

1. The `model` clock of a bench against a bare loop around `session.run` on the same file and images. Each is a process
   of its own and short, so that there can be many; the figure of a process is the median of its runs.
2. A cold `runner.py classify PICTURE` against a bare `import onnxruntime`, and against the least that gives a label:
   import, open the file, run it once, print. The first of the two counts as overhead what the runtime itself takes to
   open and run a model; the second is the overhead of our code. Figures: time from the start of the process to its
   first line; processor time of its main thread until then, which other processes disturb less; peak memory until then.

The processes of a comparison take turns, first in one order and then in the other (ABBA). A pair of turns is the unit
of the interval: what a process has of luck, such as where its memory came to lie, all its runs share.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import read_manifest
from edgewise.measure.channel import Channel, connect
from edgewise.measure.intervals import LAUNCHES, ratio_of_launches
from edgewise.measure.session import Candidate, TestImages, _subject, send, unpack

WARM_S = 0.3
BLOCK_S = 0.3
POLL_S = 0.01
LONGEST_S = 60.0
Figures = dict[str, NDArray[np.float64]]
"""Name of a program -> float64 (turns, figures)."""

BARE_LOOP = """
import sys, time
import numpy as np, onnxruntime as ort
model, images, warm, seconds = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name, out = session.get_inputs()[0].name, [session.get_outputs()[0].name]
batches = [images[index : index + 1].copy() for index in range(len(images))]
for length in (warm, seconds):
    taken, start = [], time.perf_counter()
    while time.perf_counter() - start < length or len(taken) < 10:
        batch = batches[len(taken) % len(batches)]
        before = time.perf_counter_ns()
        session.run(out, {name: batch})
        taken.append(time.perf_counter_ns() - before)
print(float(np.median(taken)))
"""
BARE_IMPORT = "import onnxruntime; print(0, flush=True)"
BARE_RUN = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
pixels = numpy.zeros([1] + session.get_inputs()[0].shape[1:], numpy.uint8)
print(numpy.argmax(session.run(None, {session.get_inputs()[0].name: pixels})[0]), flush=True)
"""


def alternate(programs: Mapping[str, Callable[[], tuple[float, ...]]], pairs: int) -> Figures:
    """The figures of programs that take turns, each twice a pair: forwards, then backwards."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in programs}
    for turn in range(2 * pairs):
        for name in list(programs) if turn % 2 == 0 else list(programs)[::-1]:
            found[name].append(programs[name]())
    return {name: np.array(figures) for name, figures in found.items()}


def compared(one: NDArray[np.float64], other: NDArray[np.float64], within: float | None = None) -> str:
    """The paired ratio of two figures, float64 (turns,); and whether it is `within` that share of 1, if one is given.

    No more digits are shown than the interval leaves.
    """
    found = ratio_of_launches(list(one.reshape(-1, 2)), list(other.reshape(-1, 2)))
    half = (found.high - found.low) / 2
    digits = 3 if half <= 0 else min(3, max(1, math.ceil(-math.log10(half))))
    value, low, high = (f"{number:.{digits}f}" for number in (found.value, found.low, found.high))
    medians = " against ".join(f"{statistics.median(figures):.3g}" for figures in (one, other))
    shown = f"{value} [{low}, {high}], {len(one)} turns each, medians {medians}"
    if within is None:
        return shown
    inside = 1 - within <= found.low and found.high <= 1 + within
    outside = found.high < 1 - within or found.low > 1 + within
    verdict = "shown" if inside else "missed" if outside else "not decided: more pairs, or a quieter machine"
    return f"{shown}; within {within:.0%}: {verdict}"


def bench_ns(channel: Channel, candidate: Candidate) -> float:
    """The median of a model clock as a bench takes it."""
    job = {
        "subjects": [{**_subject(candidate), "reference": False}],
        "orders": [[0]],
        "block": {"least": 10, "ns": BLOCK_S * 1e9, "most": 1 << 40},
        "warm": {"least_ns": WARM_S * 1e9, "cap_ns": WARM_S * 1e9},
        **{"e2e": False, "stream": False, "root": "/", "threads": 1, "pin": False},
    }
    channel.put("job.json", json.dumps(job).encode())
    lines, ended = channel.run(["measure", "job.json"])
    assert ended["code"] == 0, ended["stderr"]
    blocks = next(line["blocks"] for line in lines if "blocks" in line)
    return float(np.median(np.concatenate([unpack(block) for _, _, block in blocks])))


def start_ms(words: Sequence[str]) -> float:
    """Milliseconds from the start of a Python process to its first line."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = (time.perf_counter() - start) * 1e3
        process.stdout.read()
    if not line or process.returncode != 0:
        raise RuntimeError(f"{words} ended with {process.returncode}")
    return taken


def until_line(words: Sequence[str]) -> tuple[float, float]:
    """Until a Python process writes its first line: processor time of its main thread in ms, its peak memory in MB.

    It writes into a pipe that is full, so that it has to wait there, where both are read; Linux only. Peak memory by
    `getrusage` would be no less than that of this process, which starts it.
    """
    reading, writing = os.pipe()
    fill(writing)
    process = subprocess.Popen([sys.executable, *words], stdout=writing)
    os.close(writing)
    thread = Path(f"/proc/{process.pid}/task/{process.pid}")
    try:
        end = time.monotonic() + LONGEST_S
        while "pipe_write" not in (thread / "wchan").read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{words} ended without a line, or took longer than {LONGEST_S:g} s to it")
            time.sleep(POLL_S)
        taken = int((thread / "schedstat").read_text().split()[0]) / 1e6
        peak = int((thread / "status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        while os.read(reading, 1 << 16):
            pass
        if process.wait() != 0:
            raise RuntimeError(f"{words} ended with {process.returncode}")
        return taken, peak
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def fill(pipe: int) -> None:
    """Write into a pipe until it takes no byte more."""
    os.set_blocking(pipe, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, bytes(size))
    os.set_blocking(pipe, True)


def at_least_launches(text: str) -> int:
    """A number of pairs that an interval can be made of."""
    if int(text) < LAUNCHES:
        raise argparse.ArgumentTypeError(f"{text} are too few for an interval: at least {LAUNCHES}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pairs", type=at_least_launches, default=40)
    given = parser.parse_args(argv)
    manifest = read_manifest(given.bundle)
    pixels = np.random.default_rng(0).integers(0, 256, (64, *manifest.input.shape), dtype=np.uint8)
    candidate = Candidate("one", given.bundle, manifest, TestImages(pixels, np.zeros(64, np.int64), (), 64))
    model = str(given.bundle / manifest.model_file)
    with tempfile.TemporaryDirectory() as folder, connect(None) as channel:
        images, picture = str(Path(folder) / "images.npy"), str(Path(folder) / "p.png")
        np.save(images, pixels)
        Image.fromarray(pixels[0].squeeze()).save(picture)
        send(channel, [candidate])

        def bare_ns() -> float:
            words = [sys.executable, "-c", BARE_LOOP, model, images, str(WARM_S), str(BLOCK_S)]
            return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

        found = alternate({"ours": lambda: (bench_ns(channel, candidate),), "bare": lambda: (bare_ns(),)}, given.pairs)
        print("model clock / bare loop, ns:", compared(found["ours"][:, 0], found["bare"][:, 0], 0.03), flush=True)
        starts = {
            "runner.py classify": [str(given.bundle / "runner.py"), "classify", picture],
            "import onnxruntime": ["-c", BARE_IMPORT],
            "import, open, run once": ["-c", BARE_RUN, model],
        }
        wall = alternate({name: lambda words=words: (start_ms(words),) for name, words in starts.items()}, given.pairs)  # type: ignore[misc]
        until = alternate({name: lambda words=words: until_line(words) for name, words in starts.items()}, given.pairs)  # type: ignore[misc]
        ours, *others = starts
        for what, figures, column in (
            ("start to first line, ms", wall, 0),
            ("processor time until then, ms", until, 0),
            ("peak memory until then, MB", until, 1),
        ):
            for other in others:
                print(f"{ours} / {other}, {what}:", compared(figures[ours][:, column], figures[other][:, column]))


if __name__ == "__main__":
    main()
