"""What a technique is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgewise.recipe import Strict

if TYPE_CHECKING:
    from edgewise.compress.intime import Speeds
    from edgewise.data import Dataset
    from edgewise.models import Model
    from edgewise.train.losses import Loss


def _unheard(text: str) -> None:
    """Says nothing."""


class Fit(Protocol):
    """Trains a copy of a model and returns it with its best weights."""

    def __call__(
        self, model: Model, *, epochs: int | None = None, loss: Loss | None = None, lr: float | None = None
    ) -> Model:
        """Train for `epochs` at the peak rate `lr` (defaults: the recipe's) with `loss` (default: cross entropy)."""
        ...


@dataclass(frozen=True)
class Context:
    """All a technique may use besides the model and its options.

    dataset: `train` and `val` may be used; `test` never chooses anything.
    fit: trains from fresh weights, with the recipe's epochs and learning rate.
    finetune: trains on, with the recipe's shorter schedule.
    teacher: the trained base model.
    seed: of everything that draws.
    augmented: whether `fit` and `finetune` change the training images at random, so that what a model answers to the
        stored images is not what it answers in training.
    mixed: whether training may compute in bfloat16 where that is faster, so that teachers may too.
    say: takes one line of news for the user, such as a layer that is left as it was.
    speeds: times models beside one another on this machine; None where nothing can.
    """

    dataset: Dataset
    fit: Fit
    finetune: Fit
    teacher: Model
    seed: int
    augmented: bool = False
    mixed: bool = False
    say: Callable[[str], None] = _unheard
    speeds: Speeds | None = None


Trait = Literal["levels", "zeros", "ranges"]
"""Something about weights that a later step can undo; `edgewise.compress.TRAITS` says what each means."""


@dataclass(frozen=True)
class Technique:
    """One way to make a model smaller: a pure function with typed options.

    options: a pydantic model; its field docstrings are the docs of flags, YAML keys and errors. In plans, a single
        positional argument is its first field.
    apply: (model, options, context) -> a new model; the given one is not changed.
    summary: one line for `--help` and the docs.
    paper: where it comes from.
    leaves: what it makes of the weights that must not be undone. keeps: which of these it leaves as they are when
        another technique made them. A plan in which a step undoes what an earlier one made is refused, so that
        whatever trains weights freely needs to name neither.
    """

    options: type[Strict]
    apply: Callable[[Model, Any, Context], Model]
    summary: str
    paper: str
    leaves: frozenset[Trait] = frozenset()
    keeps: frozenset[Trait] = frozenset()
