"""The model of a finished run that further plans start from: found, checked against what is asked, and told.

No torch here, so that all that can be refused is refused at once. The run is only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewise import runs
from edgewise.compress import TECHNIQUES, TRAITS, check_plan
from edgewise.errors import ConfigError
from edgewise.models.store import STRUCTURE, WEIGHTS
from edgewise.recipe import Recipe, Variant, differences, load_recipe
from edgewise.variants import BASE, plan_of

FREE = (
    *("name", "variants", "controls", "explain"),
    *("train.", "augment.", "export.", "measure.", "goal.", "data.download"),
)
"""Beginnings of the recipe keys that may differ from those of the run; all others made its images and its base."""


@dataclass(frozen=True)
class Source:
    """A model of a finished run.

    recipe: that of the run. plan: what made the model of the run's base, "" for the base itself. known: `run.json`.
    """

    run: Path
    model: str
    recipe: Recipe
    plan: str
    known: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Of the model."""
        return runs.Run(self.run).model_dir / self.model

    @property
    def splits(self) -> Path:
        """Where each image stood in the run."""
        return self.run / "splits.csv"

    @property
    def explained(self) -> Path:
        """Where the run explains the model, if it does."""
        return runs.Run(self.run).explain_dir / self.model

    def facts(self, recipe: Recipe) -> dict[str, Any]:
        """The lineage of what is made of it under a recipe, as `run.json` keeps it.

        Keys: run, model, plan, weights_sha256, name, ended, versions, threads and amp (of its training; None where they
        are not known), changed (lines of what the recipe changed of its training), and source (the same of the run it
        was found in) where that run did not train its base either.
        """
        changed = differences(self.recipe, recipe)
        facts = {
            "run": str(self.run),
            "model": self.model,
            "plan": self.plan,
            "weights_sha256": runs.file_sha256(self.folder / WEIGHTS),
            "name": self.recipe.name,
            **{key: self.known.get(key) for key in ("ended", "versions")},
            "threads": self.known.get("train_threads", {}).get(self.model),
            "amp": self.known.get("train_amp", {}).get(self.model),
            "changed": [line for key, line in changed.items() if key.startswith(("train.", "augment."))],
        }
        return {**facts, "source": self.known["source"]} if "source" in self.known else facts


def find_source(place: Path, model: str | None = None) -> Source:
    """A model of a finished run.

    Args:
        place: the folder of the run, or of one of its models.
        model: which of its models; default: the one whose folder it is, else the base.

    Raises:
        ConfigError: no run (C25), one that did not finish (C81), one without such a model (C80) or of folds (C52).
    """
    run, its_model = runs.run_and_model(place)
    name = model or its_model or BASE
    known = runs.read_run(run)
    recipe = load_recipe(run / "recipe.yaml")
    check_one_model(recipe)
    runs.finished(run, (name,))
    return Source(run, name, recipe, plan_of(recipe, name), known)


def check_one_model(recipe: Recipe) -> None:
    """Refuse a recipe that trains several nets on several parts of the images.

    Raises:
        ConfigError: C52.
    """
    if recipe.train.folds:
        raise ConfigError(
            "folds judge a recipe and leave no one model to compress",
            code="C52",
            where={"key": "train.folds"},
            fix="`edgewise train ... --folds K`, then `edgewise run` without them",
        )


def check_further(source: Source, recipe: Recipe, out: Path) -> None:
    """Check a recipe for further plans, and the place for the new run.

    Raises:
        ConfigError: C71 the recipe changes what made the images or the base, C72 it has no plan, C12 a plan undoes what
            made the model, C74 the place is the run itself or in it.
    """
    changed = [line for key, line in differences(source.recipe, recipe).items() if not key.startswith(FREE)]
    if changed:
        raise ConfigError(
            "this belongs to the images or to the base model, which stay as they are",
            code="C71",
            where={"run": source.run},
            why="\n".join(changed),
            fix="leave it out, or start a new run with it: edgewise run --data DATA --plan ...",
        )
    if not recipe.variants:
        raise ConfigError(
            "no plan", code="C72", where={"run": source.run}, fix='add --plan "prune(0.7) > distill", once for each'
        )
    check_plans(recipe.variants, source.folder)
    check_apart(source.run, out)


def check_apart(run: Path, out: Path) -> None:
    """See that a new run does not touch the one it starts from.

    Raises:
        ConfigError: C74.
    """
    old, new = run.resolve(), out.resolve()
    if old == new or old in new.parents or new in old.parents:
        raise ConfigError(
            "the run that is compressed stays as it is: what is made of it gets a folder of its own",
            code="C74",
            where={"run": run, "folder": out},
            fix="choose another place with --out; the default is beside the run",
        )


def check_kind(facts: Mapping[str, Any], out: Path, *, compresses: bool) -> None:
    """Refuse to go on with a run by the wrong command.

    Raises:
        ConfigError: C73.
    """
    if compresses and "source" not in facts:
        raise ConfigError(
            "this run trains its base itself",
            code="C73",
            where={"folder": out},
            fix=f"edgewise run --resume {out}; with --plan it makes further variants in its own folder",
        )
    if "source" in facts and not compresses:
        raise ConfigError(
            "this run compresses a model of another run and does not train it",
            code="C73",
            where={"folder": out, "model": f"{facts['source']['model']} of {facts['source']['run']}"},
            fix=f"edgewise compress --resume {out}",
        )


def check_plans(variants: Iterable[Variant], folder: Path) -> None:
    """See that each plan can be carried out, and does not undo what was made of the weights of the model in `folder`.

    Raises:
        ConfigError: as `edgewise.compress.check_plan`; C12 a step undoes what made the model.
    """
    made = [(mark, trait) for mark in _marks(folder) if mark in TECHNIQUES for trait in sorted(TECHNIQUES[mark].leaves)]
    for variant in variants:
        for name, technique, _ in check_plan(variant.plan):
            for mark, trait in made:
                if trait not in technique.keeps:
                    raise ConfigError(
                        f'"{name}" cannot follow "{mark}"',
                        code="C12",
                        where={"plan": variant.plan, "model": folder},
                        why=f'"{mark}" made {TRAITS[trait]}, and "{name}" would undo that',
                        fix="start from another model of the run with --model, or take another technique",
                    )


def _marks(folder: Path) -> Sequence[str]:
    """The edits in a model's structure; none where the file is damaged, which is told when the model is opened."""
    try:
        edits = json.loads((folder / STRUCTURE).read_text(encoding="utf-8"))
        return [str(edit["edit"]) for edit in edits]
    except (OSError, ValueError, TypeError, KeyError):
        return []
