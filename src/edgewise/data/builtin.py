"""Two small public sets that work without any data at hand: digits and fashion-mnist."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgewise.data.scan import Entry, Part, Scan
from edgewise.errors import DataError, UnavailableError
from edgewise.runs import cache_dir

DEFAULTS: dict[str, tuple[int, Literal[1, 3]]] = {"digits": (32, 1), "fashion-mnist": (28, 1)}
"""Built-in set -> (size, channels) that suit it."""

FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts its files."""

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class BuiltIn:
    """A built-in set: its scan, and its images, uint8 (N, height, width), in the order of the entries."""

    scan: Scan
    images: Images


def defaults(source: str) -> tuple[int | None, int | None]:
    """The (size, channels) that a built-in set is best read at; (None, None) for any other source."""
    return DEFAULTS.get(source, (None, None))


def load_builtin(name: str, *, download: bool) -> BuiltIn:
    """Load a set named in `DEFAULTS`.

    Raises:
        UnavailableError: E50, it is not on this computer, or the package that holds it is missing.
        DataError: D16, its files are damaged.
    """
    return _digits() if name == "digits" else _fashion(download)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes, gzipped when its name ends in .gz.

    The format is that of http://yann.lecun.com/exdb/mnist/: two zero bytes, 0x08 for unsigned bytes, the number of
    dimensions, each length as a big-endian 32-bit integer, then the values.

    Args:
        path: the file.
        dimensions: how many it must have, 3 for images and 1 for labels.

    Raises:
        DataError: D16, it cannot be read, another magic number, or another size than its header tells.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            magic = stream.read(4)
            if magic != bytes([0, 0, 8, dimensions]):
                raise ValueError(f"magic number {magic.hex()}, expected 000008{dimensions:02x}")
            shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
            expected = int(np.prod(shape, dtype=object))
            if expected > 2**30:
                raise ValueError(f"{expected} bytes, more than any set of this kind holds")
            values = stream.read(expected + 1)
        if len(values) != expected:
            raise ValueError(
                f"the header tells {expected} bytes, the file has {'more' if values[expected:] else 'fewer'}"
            )
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as problem:
        raise DataError(
            "a file of a built-in set is damaged",
            code="D16",
            where={"file": path},
            why=str(problem),
            fix="install dataset-fashion-mnist again, or remove the file and use --download",
        ) from problem
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _digits() -> BuiltIn:
    """Scikit-learn's copy of the UCI digits: 1,797 gray images of 8x8, values 0..16 brought to 0..255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as problem:
        raise UnavailableError(
            "the digits come with scikit-learn, which is not installed",
            code="E50",
            where={"data.source": "digits"},
            why=str(problem),
            fix='pip install "edgewise[host]"',
        ) from problem
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return _built_in("digits", [images], [[str(label) for label in bunch.target]], (None,))


def _fashion(download: bool) -> BuiltIn:
    folder = _fashion_folder(download)
    images, labels = [], []
    for prefix in ("train", "t10k"):
        pixels = read_idx(_idx_path(folder, f"{prefix}-images-idx3-ubyte"), 3)
        numbers = read_idx(_idx_path(folder, f"{prefix}-labels-idx1-ubyte"), 1)
        if len(pixels) != len(numbers) or int(numbers.max(initial=0)) >= len(FASHION_CLASSES):
            raise DataError(
                "images and labels of a built-in set do not fit together",
                code="D16",
                where={"folder": folder, "part": prefix},
                why=f"{len(pixels)} images, {len(numbers)} labels, largest label {numbers.max(initial=0)}",
                fix="install dataset-fashion-mnist again, or remove the folder and use --download",
            )
        images.append(pixels)
        labels.append([FASHION_CLASSES[number] for number in numbers])
    return _built_in("fashion-mnist", images, labels, ("train", "test"))


def _fashion_folder(download: bool) -> Path:
    own = cache_dir() / "fashion-mnist"
    raw = own / "FashionMNIST" / "raw"
    for folder in (FASHION_MNIST_DIR, raw, own):
        if any(folder.glob("train-images-idx3-ubyte*")):
            return folder
    if not download:
        raise UnavailableError(
            "Fashion-MNIST is not on this computer",
            code="E50",
            where={"looked in": f"{FASHION_MNIST_DIR}\n{raw}"},
            why="nothing is fetched from the network unless asked for",
            fix="apt-get install dataset-fashion-mnist, or add --download (data.download: true)",
        )
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(root=str(own), download=True)
    except (ImportError, OSError, RuntimeError) as problem:
        raise UnavailableError(
            "Fashion-MNIST cannot be fetched",
            code="E50",
            where={"folder": own},
            why=str(problem),
            fix='apt-get install dataset-fashion-mnist, or pip install "edgewise[host]" and try again with a network',
        ) from problem
    return raw


def _idx_path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def _built_in(name: str, images: list[Images], labels: list[list[str]], parts: Sequence[Part | None]) -> BuiltIn:
    entries = [
        Entry(f"{name}/{part + '/' if part else ''}{number:0{max(4, len(str(len(names) - 1)))}}", None, label, part)
        for names, part in zip(labels, parts, strict=True)
        for number, label in enumerate(names)
    ]
    return BuiltIn(Scan("built-in", tuple(entries)), np.concatenate(images))
