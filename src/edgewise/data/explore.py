"""A look at labelled images before anything is trained: can the classes be told apart, and which labels look wrong?"""

from __future__ import annotations

import base64
import dataclasses
import importlib
import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgewise.bundle import CENTER, InputSpec
from edgewise.data import Dataset, defaults, load_data
from edgewise.data.scan import PARTS
from edgewise.data.separability import (
    NEIGHBOURS,
    ClassFacts,
    Clusters,
    Doubt,
    Space,
    cluster,
    doubts,
    neighbours,
    principal,
    separability,
    votes,
)
from edgewise.errors import ConfigError, UntrustedError
from edgewise.measure.machine import available_bytes
from edgewise.progress import Progress, Silent
from edgewise.recipe import DataOptions
from edgewise.report.explore import write_page
from edgewise.report.files import write_rows

PIXELS_SIZE = 32
"""Side of the images whose pixels are the features, when no model is named."""
DRAWN = 4000
"""Most images in the picture of the page, drawn with the seed; all doubts are among them."""
PICTURED = 60
"""Doubts that the page shows as pictures."""
THUMBNAIL = 96
BYTES_PER_VALUE = 28
"""Peak memory of an exploration for each feature of each image: they are kept as float32, twice while they are joined,
and the components are computed on float64 copies."""


@dataclass(frozen=True, eq=False)
class Exploration:
    """What was found; every sequence over images is in the order train, val, test.

    source: of the images. features: what was compared, in words. seed: of everything that draws.
    classes: names by number. names, parts, labels: of the images; parts are train, val, test.
    space: principal components. umap: (N, 2) where umap-learn is installed. clusters: KMeans beside the labels.
    facts: per class. suspects: labels that look wrong, most suspicious first. notes: what else is to be known.
    thumbnails: row -> PNG as a data URI, for the first suspects.
    """

    source: str
    features: str
    seed: int
    classes: tuple[str, ...]
    names: tuple[str, ...]
    parts: tuple[str, ...]
    labels: NDArray[np.int64]
    space: Space
    umap: NDArray[np.float64] | None
    clusters: Clusters
    facts: tuple[ClassFacts, ...]
    suspects: tuple[Doubt, ...]
    notes: tuple[str, ...] = ()
    thumbnails: dict[int, str] = field(default_factory=dict)

    @property
    def recall(self) -> float:
        """Mean over the classes of the share that nearest neighbours put right, 0..1."""
        return float(np.mean([one.recall for one in self.facts]))

    def as_dict(self) -> dict[str, Any]:
        """Facts as plain data; of the images only the suspects."""
        return {
            "source": self.source,
            "features": self.features,
            "seed": self.seed,
            "images": len(self.names),
            "neighbours": min(NEIGHBOURS, len(self.names) - 1),
            "explained_variance": [float(share) for share in self.space.explained[:2]],
            "mean_recall": self.recall,
            "adjusted_rand_index": self.clusters.ari,
            "silhouette": self.clusters.silhouette,
            "silhouette_clusters": self.clusters.silhouette_clusters,
            "classes": [dataclasses.asdict(one) for one in self.facts],
            "suspects": [self._suspect(one) for one in self.suspects],
            "notes": list(self.notes),
        }

    def _suspect(self, one: Doubt) -> dict[str, Any]:
        return {
            "name": self.names[one.row],
            "split": self.parts[one.row],
            "label": self.classes[one.label],
            "suggested": self.classes[one.suggested],
            "score": one.score,
        }

    def write_csv(self, path: Path) -> None:
        """Write one row per image, the suspects first.

        Raises:
            UnavailableError: the file cannot be written.
        """
        doubted = {one.row: one for one in self.suspects}
        order = [*doubted, *(row for row in range(len(self.names)) if row not in doubted)]
        rows = []
        for row in order:
            x, y = self.plane[row]
            one = doubted.get(row)
            rows.append(
                {
                    "name": self.names[row],
                    "split": self.parts[row],
                    "label": self.classes[self.labels[row]],
                    "suggested": self.classes[one.suggested] if one else None,
                    "score": one.score if one else None,
                    "cluster": int(self.clusters.rows[row]),
                    "pc1": x,
                    "pc2": y,
                }
            )
        write_rows(rows, path)

    @property
    def plane(self) -> list[tuple[float, float]]:
        """Each image by its first two principal components (0 where there is only one)."""
        values = self.space.values[:, :2]
        return [(float(row[0]), float(row[1]) if len(row) > 1 else 0.0) for row in values]

    def write_html(self, path: Path) -> None:
        """Write one offline page with the picture, the classes and the suspects.

        Raises:
            UnavailableError: plotly or Jinja2 is missing, or the file cannot be written.
        """
        rows = self._drawn()
        plane = self.plane
        points = {
            "names": [self.names[row] for row in rows],
            "parts": [self.parts[row] for row in rows],
            "labels": [int(self.labels[row]) for row in rows],
            "clusters": [int(self.clusters.rows[row]) for row in rows],
            "pca": [plane[row] for row in rows],
            "umap": None if self.umap is None else [[float(value) for value in self.umap[row]] for row in rows],
        }
        pictures = [
            {**self._suspect(one), "picture": self.thumbnails[one.row]}
            for one in self.suspects
            if one.row in self.thumbnails
        ]
        write_page(self.as_dict(), list(self.classes), points, pictures, path)

    def _drawn(self) -> list[int]:
        suspects = [one.row for one in self.suspects][:DRAWN]
        others = np.setdiff1d(np.arange(len(self.names)), suspects)
        room = DRAWN - len(suspects)
        if len(others) > room:
            others = np.random.default_rng(self.seed).choice(others, room, replace=False)
        return sorted([*suspects, *others.tolist()])


def explore(
    options: DataOptions,
    *,
    model: str | None = None,
    weights: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Exploration:
    """Look at all images of a source, those of every split.

    Args:
        options: where they are; `size` and `channels` count for the features.
        model: whose penultimate features are compared: a name, a model folder, or a run folder. None compares the
            pixels of the images, scaled to 32 x 32 unless `options.size` says otherwise.
        weights: for a model by name.
        seed: of weights, clusters and draws.
        progress: where to show how far it is.

    Raises:
        ConfigError: `weights` without `model` (C63), too little memory (C48), or as `load_data` and `open_extractor`.
        DataError: the images cannot be used.
    """
    if weights and not model:
        raise ConfigError(
            "weights were given, but no model to put them into",
            code="C63",
            where={"weights": weights},
            fix="add --model NAME",
        )
    progress = progress or Silent()
    dataset, features, words = _features(options, model, weights, seed, progress)
    splits = (dataset.train, dataset.val, dataset.test)
    labels = np.concatenate([split.labels for split in splits])
    space = principal(features, seed)
    near = neighbours(space)
    shares = votes(near, labels, len(dataset.classes))
    suspects = doubts(space, near, labels, shares)
    umap, note = _umap(space, seed)
    return Exploration(
        source=options.source,
        features=words,
        seed=seed,
        classes=dataset.classes,
        names=tuple(name for split in splits for name in split.names),
        parts=tuple(part for part, split in zip(PARTS, splits, strict=True) for _ in split.names),
        labels=labels,
        space=space,
        umap=umap,
        clusters=cluster(space, labels, len(dataset.classes), seed),
        facts=separability(space, labels, shares, dataset.classes),
        suspects=suspects,
        notes=(*dataset.summary["warnings"], *([note] if note else [])),
        thumbnails={one.row: _thumbnail(_image(dataset, one.row)) for one in suspects[:PICTURED]},
    )


def _features(
    options: DataOptions, model: str | None, weights: str | None, seed: int, progress: Progress
) -> tuple[Dataset, NDArray[np.float32], str]:
    """The images, their features (N, D), and what these are in words."""
    size, channels = defaults(options.source)
    size, channels = options.size or size, options.channels or channels
    if model is None:
        side, depth = size or PIXELS_SIZE, 1 if channels == 1 else 3
        spec = InputSpec(side, side, 1 if depth == 1 else 3, options.fit, mean=(CENTER,) * depth, std=(0.5,) * depth)
        dataset = load_data(options, spec, seed=seed)
        from edgewise.models.features import pixels

        images = [split.images for split in (dataset.train, dataset.val, dataset.test)]
        require_memory(sum(map(len, images)), side * side * depth)
        return dataset, np.concatenate([pixels(part) for part in images]), f"pixels, {side} x {side}"
    from edgewise.models.features import features, open_extractor

    net = open_extractor(model, weights=weights, size=options.size, channels=channels, seed=seed)
    spec = dataclasses.replace(net.input, fit=options.fit)
    dataset = load_data(options, spec, seed=seed)
    splits = (dataset.train, dataset.val, dataset.test)
    with progress.task("features", sum(map(len, splits))) as advance:
        parts = [features(net, split.images, advance) for split in splits if len(split)]
    found = np.concatenate(parts)
    require_memory(*found.shape)
    if not np.isfinite(found).all():
        raise UntrustedError(
            "the features of this model are not finite numbers",
            code="U30",
            where={"model": model},
            why="its weights hold NaN or infinite values, or blow up on these images",
            fix="take a model from before it diverged, or leave --model out to compare pixels",
        )
    start = f"weights {weights}" if weights else "trained" if Path(model).expanduser().is_dir() else "untrained"
    return dataset, found, f"{found.shape[1]} features of {net.architecture}, {start}, {spec.height} x {spec.width}"


def require_memory(images: int, values: int) -> None:
    """Refuse what would be killed for want of memory.

    Args:
        images: how many.
        values: features of each.

    Raises:
        ConfigError: C48, the features and the working copies of their analysis are larger than the memory that is free.
    """
    needed, free = images * values * BYTES_PER_VALUE, available_bytes()
    if free is not None and needed > free:
        raise ConfigError(
            "these images are too many to be compared in the memory that is free",
            code="C48",
            where={"images": f"{images:,}, {values:,} values each"},
            why=f"that takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            fix="use a smaller --size, fewer images (--set data.limit_train=N), or the features of a --model",
        )


def _umap(space: Space, seed: int) -> tuple[NDArray[np.float64] | None, str]:
    """A second picture (McInnes, Healy, Melville: UMAP, arXiv:1802.03426) where umap-learn is there."""
    if importlib.util.find_spec("umap") is None:
        return None, 'there is no UMAP picture: pip install "edgewise[umap]" for one'
    umap = importlib.import_module("umap")
    return np.asarray(umap.UMAP(n_components=2, random_state=seed).fit_transform(space.values), dtype=np.float64), ""


def _image(dataset: Dataset, row: int) -> NDArray[np.uint8]:
    for split in (dataset.train, dataset.val):
        if row < len(split):
            return np.asarray(split.images[row])
        row -= len(split)
    return np.asarray(dataset.test.images[row])


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
