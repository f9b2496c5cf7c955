"""Marks: edits that say what was made of the weights, for whoever stores or trains them, and change no structure."""

from __future__ import annotations

from collections.abc import Iterable

from edgewise.models.base import Edit

MARKS = frozenset({"palettize", "sparsify", "qat"})


def structural(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits without the marks: what a net with fresh weights has in common with the edited one."""
    return tuple(edit for edit in edits if edit["edit"] not in MARKS)
