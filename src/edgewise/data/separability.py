"""Whether classes can be told apart by given features, and which labels look wrong. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 50
"""Principal components that distances are taken in: they hold nearly all of the variance, without the noise."""
NEIGHBOURS = 10
SILHOUETTE_IMAGES = 2000
"""Most images the silhouette is taken over, drawn with the seed: it compares all pairs."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Space:
    """Images in the space of their principal components.

    values: (N, up to 50), centred, the components by falling variance.
    explained: share of the variance of the features that each component holds.
    """

    values: Floats
    explained: Floats


@dataclass(frozen=True)
class ClassFacts:
    """How far one class stands apart from the others.

    images: how many there are.
    recall: share of them, 0..1, that their nearest neighbours put into their own class (leave one out).
    fisher: squared distance of the means of the class and of all other images, over the sum of their variances
        (Fisher's ratio, Duda, Hart, Stork: Pattern Classification, 3.8.2); from 0 up, larger is farther apart.
    confused_with: the class that most of the others are put into, "" if none is.
    """

    name: str
    images: int
    recall: float
    fisher: float
    confused_with: str


@dataclass(frozen=True)
class Doubt:
    """A label that the nearest neighbours speak against.

    row: of the image. label, suggested: class numbers. score: share of the neighbours with the suggested label minus
    the share with the given one, above 0 up to 1.
    """

    row: int
    label: int
    suggested: int
    score: float


@dataclass(frozen=True)
class Clusters:
    """KMeans with as many clusters as classes, beside the labels.

    rows: the cluster of each image. ari: adjusted Rand index of clusters and labels, 1 when they agree, about 0 by
    chance. silhouette: of the labels, -1..1; silhouette_clusters: of the clusters.
    """

    rows: Labels
    ari: float
    silhouette: float
    silhouette_clusters: float


def principal(features: NDArray[np.float32], seed: int) -> Space:
    """Centre features (N, D) and turn them into their first principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=min(COMPONENTS, *features.shape), random_state=seed)
    values = pca.fit_transform(features.astype(np.float64))
    return Space(values, np.nan_to_num(pca.explained_variance_ratio_))


def cluster(space: Space, labels: Labels, classes: int, seed: int) -> Clusters:
    """Cluster without the labels, then compare.

    Twenty starts: with a few, the best one, and so the index, hangs on the order of the images.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    found = KMeans(n_clusters=min(classes, len(labels)), n_init=20, random_state=seed).fit_predict(space.values)
    rows = found.astype(np.int64)
    return Clusters(
        rows,
        float(adjusted_rand_score(labels, rows)),
        _silhouette(space, labels, seed),
        _silhouette(space, rows, seed),
    )


def _silhouette(space: Space, labels: Labels, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    rows = np.random.default_rng(seed).permutation(len(labels))[:SILHOUETTE_IMAGES]
    if not 2 <= len(np.unique(labels[rows])) < len(rows):
        return 0.0
    return float(silhouette_score(space.values[rows], labels[rows]))


def neighbours(space: Space) -> Labels:
    """The rows of the nearest other images of each image, (N, up to 10), nearest first; Euclidean distance."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(space.values) - 1)
    index = NearestNeighbors(n_neighbors=count).fit(space.values)
    return np.asarray(index.kneighbors(return_distance=False), dtype=np.int64)  # leaves out the image itself


def votes(near: Labels, labels: Labels, classes: int) -> Floats:
    """The share of each image's neighbours in each class, (N, classes)."""
    counts = np.zeros((len(labels), classes))
    np.add.at(counts, (np.arange(len(labels))[:, None], labels[near]), 1)
    shares: Floats = counts / near.shape[1]
    return shares


def separability(space: Space, labels: Labels, shares: Floats, classes: Sequence[str]) -> tuple[ClassFacts, ...]:
    """The facts of each class; `shares` are the `votes`."""
    called = shares.argmax(1)
    facts = []
    for number, name in enumerate(classes):
        own = labels == number
        wrong = np.bincount(called[own & (called != number)], minlength=len(classes))
        facts.append(
            ClassFacts(
                name=name,
                images=int(own.sum()),
                recall=float((called[own] == number).mean()) if own.any() else 0.0,
                fisher=_fisher(space.values[own], space.values[~own]),
                confused_with=classes[int(wrong.argmax())] if wrong.any() else "",
            )
        )
    return tuple(facts)


def _fisher(own: Floats, others: Floats) -> float:
    if not len(own) or not len(others):
        return 0.0
    spread = float(own.var(axis=0).sum() + others.var(axis=0).sum())
    distance = float(((own.mean(axis=0) - others.mean(axis=0)) ** 2).sum())
    return distance / spread if spread else 0.0


def doubts(space: Space, near: Labels, labels: Labels, shares: Floats) -> tuple[Doubt, ...]:
    """The images whose neighbours favour another class than their label, most suspicious first.

    This is Wilson's editing rule (Asymptotic properties of nearest neighbor rules using edited data, 1972) with a
    ranking: by the margin of the votes, and among equals the image whose neighbours are closest, for which they speak
    loudest.
    """
    rows = np.arange(len(labels))
    given = shares[rows, labels]
    rivals = shares.copy()
    rivals[rows, labels] = -1
    suggested = rivals.argmax(1)
    margin = rivals[rows, suggested] - given
    distance = np.linalg.norm(space.values[near] - space.values[:, None], axis=2).mean(axis=1)
    ranked = sorted(np.flatnonzero(margin > 0), key=lambda row: (-margin[row], distance[row], row))
    return tuple(Doubt(int(row), int(labels[row]), int(suggested[row]), float(margin[row])) for row in ranked)
