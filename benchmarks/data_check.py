"""How long `edgewise data check` takes on 10,000 JPEGs, and which planted copies it finds.

``python -m benchmarks.data_check [IMAGES]`` draws the pictures into a temporary folder (not timed), plants copies of
each kind, checks the folder and prints seconds, images a second, recall per kind and the share of false pairs. A pair
is false when its two files were not made from the same picture.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.planted import COPIES, CROPS, Picture, picture
from edgewise.data.check import DataReport, check_data
from edgewise.recipe import DataOptions

IMAGES = 10_000

KINDS: dict[str, Callable[[Picture], Picture]] = {**COPIES, **CROPS}
CLASSES = 10


def draw(folder: Path, images: int, per_kind: int) -> None:
    """Write `images` JPEGs as ``folder/class/INDEX-KIND.jpg``; the first pictures have a copy of one kind each."""
    bases = images - per_kind * (len(KINDS) + 1)
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, ((folder, index, per_kind) for index in range(bases)), chunksize=100))


def _write(order: tuple[Path, int, int]) -> None:
    folder, index, per_kind = order
    made = picture(index)
    path = folder / f"class{index % CLASSES}" / f"{index:06}-base.jpg"
    made.save(path, "JPEG", quality=90)
    names = ["identical file", *KINDS]
    if index >= per_kind * len(names):
        return
    number = index // per_kind
    copy = path.with_name(f"{index:06}-copy{number}.jpg")
    if number == 0:
        copy.write_bytes(path.read_bytes())
    else:
        KINDS[names[number]](made).save(copy, "JPEG", quality=90)


def clusters_of(report: DataReport) -> Iterator[list[str]]:
    """Stems of the files of each cluster of copies."""
    groups = defaultdict(list)
    for image in report.images:
        if image.cluster:
            groups[image.cluster].append(Path(image.name).stem)
    yield from groups.values()


def recall(report: DataReport, per_kind: int) -> tuple[dict[str, float], float]:
    """Share of the planted copies of each kind that stand in a cluster with their picture, and the share of false
    pairs among all pairs that share a cluster."""
    found: dict[int, int] = defaultdict(int)
    pairs = false = 0
    for stems in clusters_of(report):
        for place, one in enumerate(stems):
            for other in stems[:place]:
                pairs += 1
                same = one.split("-")[0] == other.split("-")[0]
                false += not same
                if same:
                    found[int(one.split("-")[0]) // per_kind] += 1
    shares = {name: found[number] / per_kind for number, name in enumerate(["identical file", *KINDS])}
    return shares, false / max(1, pairs)


def main(images: int) -> None:
    """Draw, check, print."""
    with tempfile.TemporaryDirectory() as name:
        folder, per_kind = Path(name) / "images", max(1, images // 100)
        draw(folder, images, per_kind)
        started = time.perf_counter()
        report = check_data(DataOptions(source=str(folder)))
        seconds = time.perf_counter() - started
    shares, false = recall(report, per_kind)
    print(f"{len(report.images):,} JPEGs in {seconds:.1f} s, {len(report.images) / seconds:,.0f} images/s")
    for kind, share in shares.items():
        print(f"  {kind:24} recall {share:.1%}")
    print(f"  {'false pairs':24} {false:.2%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
