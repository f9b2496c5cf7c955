"""The live loop against the straightforward one: ``python -m benchmarks.live [--rounds 6] [--frames 300]``.

1. The loop of two published projects, one step after another in one thread: grab, gray, Haar
   `detectMultiScale(1.1, 5, minSize 30)` on the full frame, crop, resize, classify each face by torch, draw. Against
   `edgewise live --detector haar` with its defaults, drawing each frame. Same video, same weights, same cores, in
   turns (ABBA); the interval is over rounds. Rate, time from frame to drawn result, and whether both saw the same.
   Once with fp32 in onnxruntime, and once with the bundle that `edgewise export --to auto` picks of ONNX and OpenVINO
   in fp32 and int8.
2. `--detector none` against a bare loop of the same runtime and preprocessing, over frames in memory, fp32.
3. `--minutes M`: only a soak of the command itself on the synthetic camera: resident memory, and the age of each frame
   at its line.

The net is the mask net of the first project, `convnet(32,64,128)` at 128 x 128, trained for a minute to tell crops in
full light from dim ones, which the light of the video changes between.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.formats import Torch, crops, faces
from benchmarks.live_video import write_video
from edgewise.bundle import InputSpec
from edgewise.data import Dataset, Split
from edgewise.device import Pixels
from edgewise.device.preprocess import prepare, softmax
from edgewise.export.desk import Order
from edgewise.export.status import pick, time_all, try_all
from edgewise.live.base import Box
from edgewise.live.boxes import iou, pair
from edgewise.live.classify import Classifier, open_classifier
from edgewise.live.detect import open_detector
from edgewise.live.draw import draw
from edgewise.live.loop import LoopOptions, run
from edgewise.live.profile import Profile, Settings, lines
from edgewise.live.sources import open_source
from edgewise.live.testing import DIM, FRAMES, face
from edgewise.measure import machine
from edgewise.measure.intervals import ratio_of_launches, wilson
from edgewise.models import Model, create_model
from edgewise.progress import Silent
from edgewise.recipe import ExportOptions, MeasureOptions, TrainOptions
from edgewise.results import Estimate
from edgewise.train import Setup, fit

SIZE = 128
LABELS = ("lit", "dim")
EPOCHS = 8
SAME = 0.6
"""IoU from which two boxes are one detection."""
SETTLED_S = 60.0
"""Seconds of a soak before memory is fitted: what a first use loads is no growth."""


@dataclass(frozen=True)
class Pass:
    """One run over the video: seconds in all, milliseconds from frame to drawn result, and boxes with labels."""

    seconds: float
    ages_ms: list[float]
    seen: list[list[tuple[Box, str]]]


def make_net() -> tuple[Model, Dataset]:
    """Trained to tell faces and other things (LFW subset, crops of photographs) in full light from dim ones."""
    dataset = Dataset(
        *(_lit(count, seed) for seed, count in enumerate((384, 96, 96))), classes=LABELS, summary={"warnings": []}
    )
    model = create_model("convnet(32,64,128, dropout=0.2)", labels=LABELS, input=InputSpec(SIZE, SIZE), seed=0)
    with tempfile.TemporaryDirectory(prefix="edgewise-live-") as folder:
        options = TrainOptions(epochs=EPOCHS, batch_size=32, lr=0.003)
        return fit(model, dataset, Setup(options, 0, Path(folder), EPOCHS, options.lr)).model, dataset


def _lit(count: int, seed: int) -> Split:
    images = np.concatenate([faces(SIZE, count // 2, seed)[0], crops(SIZE, count // 2, seed)[0]])
    dim = np.arange(count) % 4 >= 2
    light = np.random.default_rng(seed).uniform(0.85, 1.15, count) * np.where(dim, DIM, 1.0)
    images = np.clip(images * light[:, None, None, None], 0, 255).astype(np.uint8)
    return Split(images, dim.astype(np.int64), tuple(f"{seed}/{index}" for index in range(count)))


def write(model: Model, dataset: Dataset, folder: Path) -> dict[str, Path]:
    """Bundles of the net: "fp32", the ONNX file, and "auto", what `edgewise export --to auto` takes."""
    options = ExportOptions(formats=("onnx", "openvino"), calibration_images=64, parity_images=96)
    order = Order("light", model, options.precisions, folder / "bundles", folder / "work", {})
    tried = try_all(order, dataset, options, seed=0, progress=Silent())
    time_all(tried, dataset, MeasureOptions(), seed=0, progress=Silent())
    picked = pick(tried.attempts, tried.noise)
    assert picked is not None
    return {"fp32": order.folder / "light-fp32", "auto": order.folder / picked.bundle}


def straightforward(video: Path, model: Model) -> Pass:
    """The loop of the two projects, as their scripts have it."""
    net = Torch(model).load(video)
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    capture = cv2.VideoCapture(str(video))
    torch.set_num_threads(os.cpu_count() or 1)
    ages: list[float] = []
    seen: list[list[tuple[Box, str]]] = []
    start = time.perf_counter()
    while True:
        there, frame = capture.read()
        taken = time.perf_counter()
        if not there:
            break
        gray = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        found = []
        for left, top, width, height in cascade.detectMultiScale(gray, 1.1, 5, minSize=(30, 30)):
            crop = cv2.cvtColor(frame[top : top + height, left : left + width], cv2.COLOR_BGR2RGB)
            scores = net.scores(cv2.resize(crop, (SIZE, SIZE))[np.newaxis])[0]
            label = LABELS[int(scores.argmax())]
            found.append((Box(float(left), float(top), float(width), float(height)), label))
        for box, label in found:
            corner = int(box.left), int(box.top)
            cv2.rectangle(frame, corner, (int(box.left + box.width), int(box.top + box.height)), (0, 255, 0), 2)
            cv2.putText(frame, label, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 255, 0), 2)
        ages.append((time.perf_counter() - taken) * 1e3)
        seen.append(found)
    seconds = time.perf_counter() - start
    capture.release()
    return Pass(seconds, ages, seen)


def edgewise(video: Path, classifier: Classifier, options: LoopOptions, width: int, profile: Profile) -> Pass:
    """`edgewise live --detector haar`, each frame drawn."""
    ages: list[float] = []
    seen: list[list[tuple[Box, str]]] = []
    source, detector = open_source(str(video)), open_detector("haar", width)
    start = time.perf_counter()
    for view in run(source, classifier, detector, options):
        if view.frame is None:
            continue
        started = time.perf_counter()
        draw(view)
        draw_ms = (time.perf_counter() - started) * 1e3
        ages.append(view.age_ms + draw_ms)
        profile.add(view, draw_ms)
        seen.append([(one.box, str(one.label)) for one in view.seen])
    return Pass(time.perf_counter() - start, ages, seen)


def agreement(base: Pass, ours: Pass) -> dict[str, Any]:
    """How far both saw the same: frames in which each box of the one has one of the other, and labels of these.

    Boxes that lie elsewhere than the face of the video are false alarms; a cascade has some that last for one frame.
    """
    strict = found = matched = alike = faces_found = 0
    alarms = [0, 0]
    for number, (theirs, mine) in enumerate(zip(base.seen, ours.seen, strict=True)):
        there = [[box for box, _ in seen if iou(box, face(number)) >= SAME / 2] for seen in (theirs, mine)]
        faces_found += len(pair(*there, SAME)) == len(there[0])
        alarms = [count + len(seen) - len(on) for count, seen, on in zip(alarms, (theirs, mine), there, strict=True)]
        pairs = pair([box for box, _ in theirs], [box for box, _ in mine], SAME)
        found += len(pairs) == len(theirs)
        strict += len(pairs) == len(theirs) == len(mine)
        matched += len(pairs)
        alike += sum(theirs[i][1] == mine[j][1] for i, j in pairs)
    frames = len(base.seen)
    return {
        "frames": frames,
        "the_face_found_where_the_baseline_found_it": wilson(faces_found, frames),
        "false_alarms": {"base": alarms[0], "ours": alarms[1]},
        "every_box_of_the_baseline_found": wilson(found, frames),
        "and_no_other_box": wilson(strict, frames),
        "matched": matched,
        "labels_alike": wilson(alike, matched) if matched else None,
        "boxes_of_the_baseline": sum(map(len, base.seen)),
        "boxes_of_edgewise": sum(map(len, ours.seen)),
    }


def in_turns(one: Callable[[int], float], other: Callable[[int], float], rounds: int) -> Estimate:
    """The paired ratio one / other over rounds in ABBA order, Student's interval of the rounds' log ratios."""
    ones: list[NDArray[np.float64]] = []
    others: list[NDArray[np.float64]] = []
    for number in range(rounds):
        for work, kept in ((one, ones), (other, others))[:: 1 if number % 2 == 0 else -1]:
            kept.append(np.array([work(number)]))
    return ratio_of_launches(ones, others)


def compare(video: Path, bundle: Path, model: Model, rounds: int, every: int, width: int) -> dict[str, Any]:
    """The first comparison of the top of this file."""
    classifier = open_classifier(bundle)
    options = LoopOptions(every=every)
    settings = Settings("haar", every, width, classifier.manifest.format, 1, live=False, window=False)
    passes: dict[str, list[Pass]] = {"base": [], "ours": []}
    profiles: list[Profile] = []

    def base(_: int) -> float:
        passes["base"].append(straightforward(video, model))
        return passes["base"][-1].seconds

    def ours(_: int) -> float:
        profiles.append(Profile(settings))
        passes["ours"].append(edgewise(video, classifier, options, width, profiles[-1]))
        return passes["ours"][-1].seconds

    edgewise(video, classifier, options, width, Profile(settings))
    ratio = in_turns(base, ours, rounds)
    budget = profiles[-1].budget()
    assert budget is not None
    ages = {name: np.concatenate([one.ages_ms for one in done]) for name, done in passes.items()}
    median = float(np.median(ages["base"]))
    p90 = float(np.percentile(ages["ours"], 90, method="inverted_cdf"))
    return {
        "bundle": bundle.name,
        "times_the_frame_rate": ratio,
        "rounds": rounds,
        "fps": {name: [round(len(one.seen) / one.seconds, 2) for one in done] for name, done in passes.items()},
        "latency_p90_of_edgewise_over_median_of_baseline": p90 / median,
        "latency_ms": {"baseline_p50": median, "edgewise_p50": float(np.median(ages["ours"])), "edgewise_p90": p90},
        "n_latency": {name: len(one) for name, one in ages.items()},
        "same": agreement(passes["base"][0], passes["ours"][0]),
        "edgewise_sees_the_same_each_time": all(one.seen == passes["ours"][0].seen for one in passes["ours"]),
        "profile_of_the_last_round": lines(budget),
    }


class Memory:
    """Frames in memory as a source."""

    name = "memory"
    live = False

    def __init__(self, frames: list[Pixels]) -> None:
        self._frames = iter(frames)

    def read(self) -> Pixels | None:
        return next(self._frames, None)

    def close(self) -> None:
        self._frames = iter(())


def without_detector(bundle: Path, frames: list[Pixels], rounds: int) -> dict[str, Any]:
    """The second comparison: our rate as a share of the bare loop's."""
    classifier = open_classifier(bundle)
    spec = classifier.spec.preprocessing()

    def bare(_: int) -> float:
        start = time.perf_counter()
        for frame in frames:
            softmax(classifier.session.scores(prepare(frame, **spec)[np.newaxis]))
        return time.perf_counter() - start

    def ours(_: int) -> float:
        start = time.perf_counter()
        count = sum(view.frame is not None for view in run(Memory(frames), classifier))
        assert count == len(frames)
        return time.perf_counter() - start

    bare(0), ours(0)
    return {"rate_as_a_share_of_the_bare_loop": in_turns(bare, ours, rounds), "rounds": rounds, "frames": len(frames)}


def soak(bundle: Path, minutes: float, every: int, width: int) -> dict[str, Any]:
    """The third one: `edgewise live --headless` itself; its memory over time, and the age of each frame it tells of."""
    words = [sys.executable, "-m", "edgewise", "live", str(bundle), "--source", "synthetic", "--headless"]
    words += ["--detector", "haar", "--every", str(every), "--detector-width", str(width)]
    memory: list[tuple[float, int]] = []
    ages: list[float] = []
    dropped = silent = 0
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            now = time.perf_counter() - start
            if now > minutes * 60:
                process.send_signal(signal.SIGINT)
                break
            row = json.loads(text)
            if row["state"] != "live":
                silent += 1
                continue
            ages.append(row["age_ms"])
            dropped += row["dropped"]
            if not memory or now - memory[-1][0] >= 1.0:
                memory.append((now, resident_bytes(process.pid)))
    kept = np.array([row for row in memory if row[0] >= min(SETTLED_S, minutes * 30)])
    slope, _ = np.polyfit(kept[:, 0], kept[:, 1], 1)
    stale = sum(age > 2 * 1e3 / 30 for age in ages[30:])
    return {
        "minutes": minutes,
        "frames": len(ages),
        "dropped": dropped,
        "no_signal": silent,
        "older_than_two_periods": stale,
        "age_ms_p50_p90_p99_max": [float(np.percentile(ages[30:], share)) for share in (50, 90, 99, 100)],
        "rss_mb_per_10_minutes": float(slope) * 600 / 1e6,
        "rss_mb_first_last": [float(kept[0, 1]) / 1e6, float(kept[-1, 1]) / 1e6],
    }


def resident_bytes(pid: int) -> int:
    """Of a process, now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--detector-width", type=int, default=320)
    parser.add_argument("--minutes", type=float, help="only the soak, of so many minutes")
    options = parser.parse_args()
    model, dataset = make_net()
    with tempfile.TemporaryDirectory(prefix="edgewise-live-") as name:
        folder = Path(name)
        bundles = write(model, dataset, folder)
        if options.minutes:
            found = {"soak": soak(bundles["auto"], options.minutes, options.every, options.detector_width)}
        else:
            video = folder / "video.mp4"
            write_video(video, options.frames)
            pictures = open_source(str(video))
            frames = [picture for _ in range(25) if (picture := pictures.read()) is not None]
            pictures.close()
            found = {
                **{
                    f"haar, {name}": compare(
                        video, bundle, model, options.rounds, options.every, options.detector_width
                    )
                    for name, bundle in bundles.items()
                },
                "none": without_detector(bundles["fp32"], frames, 60),
            }
    found["cpu"] = machine.describe().get("cpu")
    print(json.dumps(found, indent=1, default=dataclasses.asdict))


if __name__ == "__main__":
    main()
