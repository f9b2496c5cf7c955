"""A last line that tells what a model file is and whether it is whole, for formats whose own reader cannot.

The readers of ncnn, LiteRT and ExecuTorch take a file as it comes: one flipped bit or a weights file of another model
ends in wrong answers, or in a crash of the process. Their files therefore end in one line of ours::

    # edgewise {"format": "ncnn", "input": ..., "labels": ..., "sha256": ..., "sidecars": {".bin": ...}}

All three readers stop before it, so the file opens in them without edgewise as well. The line finds damage and
mixed-up files; it is no signature. What a stranger may have changed is found by the hashes of the bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.device.base import Pixels
from edgewise.errors import UntrustedError

_MARK = b"\n# edgewise "
_LONGEST = 1 << 20
"""Bytes at the end of a file that are searched for the line; a thousand labels take a tenth of it."""


@dataclass(frozen=True)
class Sealed:
    """A model file that is as it was written.

    content: its bytes before our line. sidecars: the bytes of its further files, by ending. shape: (height, width,
    channels) of the pixels it takes. classes: how many logits it gives. facts: all that the line says.
    """

    path: Path
    content: bytes
    sidecars: dict[str, bytes]
    shape: tuple[int, int, int]
    classes: int
    facts: dict[str, Any]

    def check(self, batch: Pixels) -> None:
        """Refuse pixels that the model was not written for: these runtimes would read past their end.

        Raises:
            ValueError: another shape or type than uint8 (N, height, width, channels).
        """
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != self.shape:
            raise ValueError(f"uint8 (N, {', '.join(map(str, self.shape))}) wanted, got {batch.dtype} {batch.shape}")


def sidecar(path: Path, ending: str) -> Path:
    """The further file of a model: the same name with another ending."""
    return path.with_suffix(ending)


def seal(content: bytes, sidecars: Mapping[str, bytes], facts: Mapping[str, Any]) -> bytes:
    """The contents of a model file with the line at its end.

    Args:
        content: what the converter wrote.
        sidecars: ending -> contents of the further files.
        facts: `format`, `precision`, `input` (with height, width and channels), `labels`.
    """
    hashes = {ending: hashlib.sha256(data).hexdigest() for ending, data in sidecars.items()}
    line = {**facts, "sha256": hashlib.sha256(content).hexdigest(), "sidecars": hashes}
    return content + _MARK + json.dumps(line, ensure_ascii=False).encode() + b"\n"


def open_sealed(path: Path, format_: str, endings: tuple[str, ...] = ()) -> Sealed:
    """Read a model file and its further files, and check that they are as they were written.

    Raises:
        UntrustedError: U04, a file is missing or damaged, they do not belong together, or edgewise did not write them.
    """
    try:
        data = path.read_bytes()
        at = data.rfind(_MARK, max(0, len(data) - _LONGEST))
        if at < 0:
            raise ValueError("the line that edgewise writes at the end is missing: cut off, or not written by it")
        content, facts = data[:at], json.loads(data[at + len(_MARK) :])
        if facts["format"] != format_:
            raise ValueError(f"a file of format {facts['format']!r}")
        if facts["sha256"] != hashlib.sha256(content).hexdigest():
            raise ValueError(f"{path.name} was changed")
        sidecars = {ending: sidecar(path, ending).read_bytes() for ending in endings}
        for ending, expected in facts["sidecars"].items():
            if hashlib.sha256(sidecars[ending]).hexdigest() != expected:
                raise ValueError(f"{sidecar(path, ending).name} was changed, or belongs to another model")
        shape = tuple(int(facts["input"][key]) for key in ("height", "width", "channels"))
        height, width, channels = shape
        return Sealed(path, content, sidecars, (height, width, channels), len(facts["labels"]), facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        why = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise UntrustedError(
            f"not a whole {format_} model file",
            code="U04",
            where={"file": path},
            why=why,
            fix="export the model again; `edgewise verify BUNDLE` tells whether a file was changed",
        ) from problem
