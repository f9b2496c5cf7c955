"""The page of an exploration: pictures of the images by their features, the classes, and the labels that look wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.report import page
from edgewise.report.words import NONE, clean, plural, show_share


def write_page(
    facts: Mapping[str, Any],
    classes: Sequence[str],
    points: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
    path: Path,
) -> None:
    """Write the page as one offline file, atomically.

    Args:
        facts: `edgewise.data.explore.Exploration.as_dict`.
        classes: the names that the labels of `points` are numbers of.
        points: the images drawn: `names`, `parts`, `labels`, `clusters`, `pca` and `umap` (pairs, or None for all).
        pictures: the suspects shown as pictures: those of `facts` and `picture`, a PNG as a data URI.
        path: where the page goes.

    Raises:
        UnavailableError: plotly or Jinja2 is missing, or the file cannot be written.
    """
    context = {
        "title": facts["source"],
        "headline": _headline(facts),
        "features": facts["features"],
        "neighbours": facts["neighbours"],
        "tiles": _tiles(facts),
        "notes": facts["notes"],
        "drawn": f"{len(points['names']):,} of {facts['images']:,} images",
        "explained": [show_share(share) for share in facts["explained_variance"]],
        "umap": points["umap"] is not None,
        "rows": [
            {**one, "recall": show_share(one["recall"]), "fisher": f"{one['fisher']:.2f}"} for one in facts["classes"]
        ],
        "suspects": [{**one, "score": f"{one['score']:.1f}"} for one in pictures],
        "suspected": len(facts["suspects"]),
    }
    page.write_page(path, "explore.html", "explore.js", context, {"classes": list(classes), **points})


def _headline(facts: Mapping[str, Any]) -> str:
    weakest = min(facts["classes"], key=lambda one: one["recall"])
    told = (
        f"By these features, nearest neighbours put {show_share(facts['mean_recall'])} % of the images of a class right"
    )
    return f"{told}; the weakest class is {weakest['name']} with {show_share(weakest['recall'])} %."


def _tiles(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    counts = [one["images"] for one in facts["classes"]]
    return [
        {"label": "Images", "value": f"{facts['images']:,}", "about": f"{len(counts)} classes"},
        {"label": "Smallest class", "value": f"{min(counts):,}", "about": f"largest {max(counts):,}"},
        {
            "label": "Adjusted Rand index",
            "value": f"{facts['adjusted_rand_index']:.2f}",
            "about": "1: clusters are classes",
        },
        {"label": "Silhouette", "value": f"{facts['silhouette']:.2f}", "about": "of the classes, -1 to 1"},
        {
            "label": "Labels in doubt",
            "value": f"{len(facts['suspects']):,}",
            "about": f"{show_share(len(facts['suspects']) / facts['images'])} % of the images",
        },
    ]


def lines(facts: Mapping[str, Any], suspects: int = 10) -> list[str]:
    """The facts for a terminal: what was compared, a row per class, and the first suspects."""
    width = max(len("class"), *(len(clean(one["name"])) for one in facts["classes"]))
    told = [
        f"{facts['images']:,} images, {facts['features']}",
        f"adjusted Rand index of KMeans {facts['adjusted_rand_index']:.2f}, silhouette {facts['silhouette']:.2f}",
        "",
        f"{'class':{width}}  images  recall %  Fisher  most confused with",
    ]
    told += [
        f"{clean(one['name']):{width}}  {one['images']:6}  {show_share(one['recall']):>8}  {one['fisher']:6.2f}  "
        f"{clean(one['confused_with']) or NONE}"
        for one in facts["classes"]
    ]
    count = len(facts["suspects"])
    shown = f", the first {suspects}:" if count > suspects else ":" if count else ""
    told += ["", plural(f"{count:,}", "label") + " in doubt" + shown]
    told += [
        f"  {one['score']:.1f}  {clean(one['name'])}: {clean(one['label'])}, rather {clean(one['suggested'])}"
        for one in facts["suspects"][:suspects]
    ]
    return told + [f"note: {clean(note)}" for note in facts["notes"]]
