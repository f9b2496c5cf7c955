"""The labelled images that a finished model is measured on again: those a run kept for testing, or a folder's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgewise.bundle import InputSpec
from edgewise.data.cache import decode_images
from edgewise.data.pool import Content
from edgewise.data.read import Reading
from edgewise.data.saved import read_saved
from edgewise.data.sources import find
from edgewise.errors import ConfigError, DataError
from edgewise.recipe import DataOptions, load_recipe

LEAST = 500
"""Fewest test images that a sample holds; all where there are fewer."""

MOST_BYTES = 64 << 20
"""Pixels beyond this are sampled, down to `LEAST` images."""


@dataclass(frozen=True)
class Labelled:
    """Test images at a model's size: pixels uint8 (N, height, width, channels), labels int64 (N,), the files they came
    from (empty for built-in sets), and the number of images they were drawn from."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    paths: tuple[Path, ...]
    total: int


def labelled_images(source: Path, spec: InputSpec, classes: Sequence[str], *, seed: int = 0) -> Labelled:
    """Read the test images of a run, or all of a folder of class folders.

    Args:
        source: a run folder (its `splits.csv` tells which images are for testing), or a folder of images.
        spec: the pixels the model wants.
        classes: of the model; every label has to be one of them.
        seed: of the sample, where there are more than fit.

    Raises:
        ConfigError: C97, no test images, or labels that the model does not know.
        DataError: D32 a test image of the run was changed or damaged, and those of finding the images.
    """
    is_run = (source / "splits.csv").is_file()
    contents, labels, expected = _of_run(source) if is_run else _of_folder(source)
    number = {label: index for index, label in enumerate(classes)}
    unknown = sorted(set(labels) - set(number))
    if unknown or not labels:
        raise ConfigError(
            "these images do not fit the model" if unknown else "no test images here",
            code="C97",
            where={"images": source},
            why=f"the model knows no {', '.join(unknown[:5])}; it knows {', '.join(classes[:12])}" if unknown else "",
            fix="give --images RUN (the run that the bundle came from) or a folder with one folder for each class",
        )
    size = int(np.prod(spec.shape))
    chosen = np.arange(len(labels))
    most = max(LEAST, MOST_BYTES // size)
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:most])
    wanted = [contents[index] for index in chosen]
    with decode_images(wanted, spec.preprocessing()) as decoded:
        _check(source, decoded.readings, [expected[index] for index in chosen] if expected else [])
        pixels = decoded.arrange(range(len(wanted)))
    paths = tuple(content for content in wanted if isinstance(content, Path))
    return Labelled(pixels, np.array([number[labels[index]] for index in chosen], np.int64), paths, len(labels))


def _of_run(run: Path) -> tuple[list[Content], list[str], list[str]]:
    """Contents, labels and digests of the images that a run tested on."""
    found = find(load_recipe(run / "recipe.yaml").data)
    rows = {(row.name, row.label): row for row in read_saved(run / "splits.csv").rows if row.part == "test"}
    kept = [
        (content, rows[entry.name, entry.label])
        for entry, content in zip(found.scan.entries, found.contents, strict=True)
        if (entry.name, entry.label) in rows
    ]
    if len(kept) < len(rows):
        raise _changed(run, f"{len(rows) - len(kept)} of {len(rows)} test images are not there any more")
    return [one for one, _ in kept], [row.label for _, row in kept], [row.sha256 for _, row in kept]


def _of_folder(folder: Path) -> tuple[list[Content], list[str], list[str]]:
    found = find(DataOptions(source=str(folder)))
    pairs = list(zip(found.scan.entries, found.contents, strict=True))
    if any(entry.part == "test" for entry, _ in pairs):
        pairs = [(entry, content) for entry, content in pairs if entry.part == "test"]
    return [content for _, content in pairs], [entry.label for entry, _ in pairs], []


def _check(source: Path, readings: Sequence[Reading], expected: Sequence[str]) -> None:
    bad = [reading.problem for reading in readings if reading.problem]
    if bad:
        raise _changed(source, f"{len(bad)} images cannot be decoded; the first: {bad[0]}")
    changed = sum(reading.sha256 != digest for reading, digest in zip(readings, expected, strict=False))
    if changed:
        raise _changed(source, f"{changed} test images are not the ones the run was tested on")


def _changed(source: Path, why: str) -> DataError:
    return DataError(
        "the test images cannot be used",
        code="D32",
        where={"images": source},
        why=why,
        fix="bring the images back as they were, or give other ones with --images FOLDER",
    )
