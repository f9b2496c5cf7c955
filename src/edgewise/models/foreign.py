"""Opening weights that somebody else wrote: a safetensors file, a torch state dict, or a model or run folder of ours.

No code of a file is ever run: pickles go through torch's restricted unpickler, which builds tensors and plain
containers and refuses everything else.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise.errors import ConfigError, UntrustedError

if TYPE_CHECKING:
    import torch

HOLDERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "network",
    "net",
    "module",
    "weights",
    "params",
)
"""Keys under which training scripts keep the weights, best first: an average over steps goes before the last step."""

_DEPTH = 4
_DAMAGE = (
    *(pickle.UnpicklingError, OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(AssertionError, ArithmeticError, MemoryError, ImportError),
)
"""What torch's reader raises on files that are damaged or of another kind; it is not choosy."""


@dataclass(frozen=True)
class Source:
    """Weights from outside.

    path: what was opened.
    state: name -> tensor, in the order of the file.
    inside: the keys of the dict they were found under, "" when the file holds nothing else.
    labels: of the logits, where they are known.
    """

    path: Path
    state: Mapping[str, torch.Tensor]
    inside: str = ""
    labels: tuple[str, ...] | None = None


def open_weights(path: Path) -> Source:
    """Read the weights of a file or folder.

    Args:
        path: a safetensors file; a file of `torch.save` that holds a state dict, alone or inside a checkpoint; a model
            folder; or a run folder, whose base model is taken.

    Raises:
        ConfigError: there is no such file, or it holds several sets of weights (C60).
        UntrustedError: it is damaged, or holds something else than tensors and plain containers (U30); or a model
            folder that `open_model` refuses.
    """
    if path.is_dir():
        from edgewise.models.store import open_model

        model = open_model(model_folder(path))
        return Source(path, model.module.state_dict(), labels=model.labels)
    try:
        if path.exists() and not path.is_file():
            raise OSError("a pipe or device, not a file")  # reading it could wait without end
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError as problem:
        raise ConfigError(
            "the weights cannot be opened",
            code="C60",
            where={"weights": path},
            why=problem.strerror or str(problem),
            fix="give a .safetensors or .pth file, a model folder or a run folder",
        ) from problem
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return Source(path, _safetensors(path))
    return _checkpoint(path, head)


def model_folder(path: Path) -> Path:
    """The model folder that a path stands for: itself, or that of the base model when it is a run folder."""
    if not (path / "config.json").exists() and (path / "run.json").exists():
        return path / "model" / "base"
    return path


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.offset_keys()}
    except (safetensors.SafetensorError, OSError, ValueError, LookupError, MemoryError) as problem:
        raise _refused(path, str(problem)) from problem


def _checkpoint(path: Path, head: bytes) -> Source:
    import torch

    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise _refused(path, "neither safetensors nor a file of torch.save" if head else "0 bytes")
    try:
        with warnings.catch_warnings():  # torch warns of old pickles, which it then reads or refuses
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as problem:
        raise _refused(path, (str(problem).splitlines() or [type(problem).__name__])[0]) from problem
    state, inside = _find_state(loaded, path, ())
    return Source(path, state, ".".join(inside))


def _find_state(loaded: Any, path: Path, inside: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a checkpoint, and the keys that lead to them."""
    import torch

    if isinstance(loaded, Mapping) and len(inside) < _DEPTH:
        held = {str(key): value for key, value in loaded.items() if isinstance(value, Mapping) and _has_tensors(value)}
        named = next((key for key in HOLDERS if key in held), None)
        if named:
            return _find_state(held[named], path, (*inside, named))
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors, inside
        if len(held) == 1:
            ((key, value),) = held.items()
            return _find_state(value, path, (*inside, key))
        if held:
            raise ConfigError(
                "the file holds several sets of weights",
                code="C60",
                where={"weights": path},
                why=f"under the keys {', '.join(held)}",
                fix="save the one you want as a state dict of its own",
            )
    raise _refused(path, f"it holds no dict of tensors but a {type(loaded).__name__}")


def _has_tensors(value: Any, depth: int = _DEPTH) -> bool:
    import torch

    if isinstance(value, Mapping):
        return depth > 0 and any(_has_tensors(inner, depth - 1) for inner in value.values())
    return isinstance(value, torch.Tensor)


def _refused(path: Path, why: str) -> UntrustedError:
    return UntrustedError(
        "this weights file is refused",
        code="U30",
        where={"weights": path},
        why=why,
        fix="get the file again; save a plain state dict, best as safetensors",
    )
