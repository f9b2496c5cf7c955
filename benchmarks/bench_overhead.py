"""What `edgewise bench` and `runner.py` cost beyond onnxruntime itself: paired ratios with 95 % intervals.

    python -m benchmarks.bench_overhead BUNDLE [--pairs 16]

1. The `model` clock of a bench against a bare loop around `session.run` on the same file and images. Each is a process
   of its own, in ABBA order; the figure of a process is the median of its runs.
2. A cold `runner.py classify PICTURE` (process start to its first line) and its peak memory, against a bare `import
   onnxruntime`, and against the least that gives a label: import, open the file, run it once, print. The first of the
   two counts as overhead what the runtime itself takes to open and run a model; the second is the overhead of our code.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from edgewise.bundle import read_manifest
from edgewise.measure.channel import Channel, connect
from edgewise.measure.intervals import ratio_estimate
from edgewise.measure.session import Candidate, TestImages, _subject, send, unpack

SECONDS = 1.0
BARE_LOOP = """
import sys, time
import numpy as np, onnxruntime as ort
model, images, seconds = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name, out = session.get_inputs()[0].name, [session.get_outputs()[0].name]
batches = [images[index : index + 1].copy() for index in range(len(images))]
taken, start = [], time.perf_counter()
while time.perf_counter() - start < 2 * seconds:
    batch = batches[len(taken) % len(batches)]
    before = time.perf_counter_ns()
    session.run(out, {name: batch})
    taken.append(time.perf_counter_ns() - before)
print(float(np.median(taken[len(taken) // 2 :])))
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


def alternate(one: Callable[[], float], other: Callable[[], float], pairs: int) -> str:
    """The paired ratio of two figures, each taken twice a pair in ABBA order."""
    left, right = [], []
    for turn in range(2 * pairs):
        for is_one in (True, False) if turn % 2 == 0 else (False, True):
            (left if is_one else right).append(one() if is_one else other())
    found = ratio_estimate(np.array(left)[:, None], np.array(right)[:, None], np.random.default_rng(0))
    medians = f"{statistics.median(left):.4g} against {statistics.median(right):.4g}"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}], n = {2 * pairs} each, medians {medians}"


def bench_ns(channel: Channel, candidate: Candidate) -> float:
    """The median of a model clock as a bench takes it."""
    job = {
        "subjects": [{**_subject(candidate), "reference": False}],
        "orders": [[0], [0]],
        "block": {"least": 10, "ns": SECONDS * 5e8, "most": 1 << 40},
        "warm": {"least_ns": SECONDS * 1e9, "cap_ns": SECONDS * 1e9},
        **{"e2e": False, "stream": False, "root": "/", "threads": 1, "pin": False},
    }
    channel.put("job.json", json.dumps(job).encode())
    lines, ended = channel.run(["measure", "job.json"])
    assert ended["code"] == 0, ended["stderr"]
    blocks = next(line["blocks"] for line in lines if "blocks" in line)
    return float(np.median(np.concatenate([unpack(block) for _, _, block in blocks])))


def cold(words: list[str]) -> tuple[float, float]:
    """Milliseconds from the start of a process to its first line, and its peak memory in MB."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = (time.perf_counter() - start) * 1e3
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert line, words
    assert process.returncode == 0, words
    return taken, usage.ru_maxrss / 1024


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pairs", type=int, default=16)
    given = parser.parse_args()
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
            words = [sys.executable, "-c", BARE_LOOP, model, images, str(SECONDS)]
            return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

        pairs = max(2, given.pairs)
        print("model clock / bare loop:", alternate(lambda: bench_ns(channel, candidate), bare_ns, pairs), "ns")
        classify = [str(given.bundle / "runner.py"), "classify", picture]
        others = {"import onnxruntime": ["-c", BARE_IMPORT], "import, open, run once": ["-c", BARE_RUN, model]}
        for name, words in others.items():
            for what, figure in (("ms", 0), ("MB", 1)):
                shown = alternate(lambda i=figure: cold(classify)[i], lambda w=words, i=figure: cold(w)[i], pairs)  # type: ignore[misc]
                print(f"runner.py classify / {name}: {shown} {what}")


if __name__ == "__main__":
    main()
