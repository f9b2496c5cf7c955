"""Copies among the images: which are identical or look alike, and what follows for labels and splits.

Identical files have one sha256; what looks alike is decided by `edgewise.data.similar`. A copy under another label
makes one of the labels wrong; a copy on another side of the split is tested on what was learnt by heart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from edgewise.data.known_pairs import known_pairs
from edgewise.data.scan import PARTS, BadFile, Known, listed
from edgewise.data.similar import SIDE, clusters
from edgewise.errors import DataError

Mode = Literal["near", "exact", "off"]


class Labelled(Known, Protocol):
    """An image and its split."""

    @property
    def part(self) -> str | None:
        """Its split, where it has one."""
        ...


@dataclass(frozen=True)
class Copies:
    """Which files are copies of each other; files are named by their sha256, so that identical ones are one.

    Attributes:
        mode: "near" also knows what looks alike, "exact" only identical files, "off" nothing at all.
        near: sha256 -> the other sha256s that look like it.
        cluster: sha256 -> number of its cluster, for those that look like another.
    """

    mode: Mode
    near: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cluster: Mapping[str, int] = field(default_factory=dict)

    def unit(self, sha256: str) -> str | int | None:
        """What must stay on one side of a split shares this value; None shares with nothing."""
        return None if self.mode == "off" else self.cluster.get(sha256, sha256)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The sha256s of each pair that looks alike, once."""
        for one in sorted(self.near):
            yield from ((one, other) for other in sorted(self.near[one]) if one < other)


@dataclass(frozen=True)
class Leak:
    """An image of another split with a copy among the training images."""

    name: str
    part: str
    of: str
    exact: bool


def find_copies(looks: Mapping[str, bytes], mode: Mode) -> Copies:
    """Find what looks alike.

    Args:
        looks: sha256 -> look (`edgewise.data.similar.look`); b"" for what has none and is compared by sha256 only.
        mode: "near" to look for more than identical files.

    Raises:
        UnavailableError: E52, scipy is missing.
    """
    known = sorted(digest for digest, look in looks.items() if look)
    if mode != "near" or len(known) < 2:
        return Copies(mode)
    stacked = np.frombuffer(b"".join(looks[digest] for digest in known), dtype=np.uint8).reshape(-1, SIDE, SIDE)
    pairs = known_pairs(stacked)
    near = defaultdict(set)
    for one, other in pairs.tolist():
        near[known[one]].add(known[other])
        near[known[other]].add(known[one])
    numbers = clusters(len(known), pairs)
    return Copies(
        mode,
        {digest: frozenset(others) for digest, others in near.items()},
        {known[index]: int(numbers[index]) for index in np.unique(pairs).tolist()},
    )


def conflicts(items: Iterable[Labelled]) -> list[list[Labelled]]:
    """Identical images under several labels: the items of each."""
    return [group for group in _same(items) if len({item.label for item in group}) > 1]


def near_conflicts(items: Sequence[Labelled], copies: Copies) -> list[tuple[Labelled, Labelled]]:
    """Images that look alike, under two labels."""
    return [(one, other) for one, other in _near_pairs(items, copies) if one.label != other.label]


def excluded(torn: Sequence[Sequence[Labelled]]) -> list[BadFile]:
    """Every file of `conflicts`, with all its labels as the reason for leaving it out."""
    return [
        BadFile(item.name, "the same image stands in several classes: " + listed(labelled(group)))
        for group in torn
        for item in group
    ]


def leaks(items: Sequence[Labelled], copies: Copies) -> list[Leak]:
    """Images outside train with an identical or alike image in train."""
    if copies.mode == "off":
        return []
    train: dict[str, str] = {}
    for item in items:
        if item.part == "train":
            train.setdefault(item.sha256, item.name)
    found = []
    for item in items:
        if item.part not in PARTS[1:]:
            continue
        like = next((train[other] for other in sorted(copies.near.get(item.sha256, ())) if other in train), "")
        of = train.get(item.sha256, like)
        if of:
            found.append(Leak(item.name, str(item.part), of, item.sha256 in train))
    return found


def refuse_conflicts(torn: Sequence[Sequence[str]], place: str) -> None:
    """Stop when there are conflicts, given as names with their labels (`labelled`).

    Raises:
        DataError: D30, naming them.
    """
    if torn:
        raise DataError(
            f"{len(torn)} image(s) stand in several classes",
            code="D30",
            where={"folder": place},
            why=_lines(" = ".join(group) for group in torn),
            fix="keep each image under its true label only; without data.strict they are left out and named",
        )


def refuse_leaks(found: Sequence[Leak], place: str) -> None:
    """Stop when there are leaks.

    Raises:
        DataError: D31, naming them.
    """
    if found:
        raise DataError(
            f"{len(found)} validation or test image(s) are copies of training images",
            code="D31",
            where={"folder": place},
            why=_lines(f"{leak.name} {'=' if leak.exact else '~'} {leak.of}" for leak in found),
            fix="keep copies in one split only, or let the split be drawn; without data.strict the figures are also "
            "given on the images without copies",
        )


def warnings_of(items: Sequence[Labelled], copies: Copies, torn: Sequence[Sequence[Labelled]]) -> Iterator[str]:
    """What there is to say of copies, apart from leaks. `items` are those in use, `torn` those left out."""
    if torn:
        named = listed(" = ".join(item.name for item in group) for group in torn)
        yield (
            f"{len(torn)} image(s) stand in two classes, one of which is wrong; "
            f"all {sum(map(len, torn))} files of them are left out: {named}"
        )
    if copies.mode == "off":
        return
    groups = _same(items)
    if groups:
        extra = sum(len(group) - 1 for group in groups)
        named = listed((" = ".join(item.name for item in group[:3]) for group in groups), 3)
        yield f"{extra} image(s) are exact copies of others: {named}"
    pairs = _near_pairs(items, copies)
    if pairs:
        named = listed((f"{one.name} ~ {other.name}" for one, other in pairs), 3)
        count = len({item.name for pair in pairs for item in pair})
        yield f"{count} image(s) look like another (near copies): {named}"
    between = near_conflicts(items, copies)
    if between:
        named = listed((" ~ ".join(labelled(pair)) for pair in between), 3)
        yield f"{len(between)} pair(s) of near copies stand in two classes; they are used: {named}"


def leak_warnings(items: Sequence[Labelled], found: Sequence[Leak]) -> Iterator[str]:
    """The share of each split that leaks, in sentences."""
    for part in PARTS[1:]:
        own = [leak for leak in found if leak.part == part]
        if own:
            share = len(own) / sum(item.part == part for item in items)
            exact = sum(leak.exact for leak in own)
            named = listed((f"{leak.name} {'=' if leak.exact else '~'} {leak.of}" for leak in own), 3)
            yield (
                f"{len(own)} {part} image(s) ({share:.1%}) are copies of training images "
                f"({exact} exact, {len(own) - exact} near): {named}"
            )


def _near_pairs(items: Iterable[Labelled], copies: Copies) -> list[tuple[Labelled, Labelled]]:
    """Pairs that look alike, by name; identical files stand for each other."""
    first: dict[str, Labelled] = {}
    for item in sorted(items, key=lambda item: item.name):
        first.setdefault(item.sha256, item)
    pairs = [(first[one], first[other]) for one, other in copies.pairs() if one in first and other in first]
    ordered = [(one, other) if one.name < other.name else (other, one) for one, other in pairs]
    return sorted(ordered, key=lambda pair: (pair[0].name, pair[1].name))


def _same(items: Iterable[Labelled]) -> list[list[Labelled]]:
    same = defaultdict(list)
    for item in items:
        same[item.sha256].append(item)
    return [group for group in same.values() if len(group) > 1]


def labelled(group: Iterable[Labelled]) -> list[str]:
    """Names with their labels."""
    return [f"{item.name} ({item.label})" for item in group]


def _lines(words: Iterable[str], most: int = 10) -> str:
    every = list(words)
    return "\n".join(every[:most] + ([f"... and {len(every) - most} more"] if len(every) > most else []))
