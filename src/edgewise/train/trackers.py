"""Mirrors of metrics.jsonl in the formats of trackers, all in the run folder; none of them opens a connection.

A tracker may fail: it is then dropped with one warning, and the training goes on. metrics.jsonl does not depend on it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edgewise.errors import UnavailableError


class Tracker(Protocol):
    """Takes what a run has to tell."""

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        """An epoch of a training; the keys are those of metrics.jsonl."""
        ...

    def figures(self, values: Mapping[str, float]) -> None:
        """What the run found in the end."""
        ...

    def close(self, *, finished: bool) -> None:
        """Write what is left; `finished` is False when the run failed or was interrupted."""
        ...


class TensorBoard:
    """Event files in RUN/tensorboard: scalars VARIANT/KEY over epochs, the recipe as text. float32, as they are."""

    def __init__(self, run: Path, name: str, parameters: Mapping[str, str]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(run / "tensorboard", ignore_errors=True)
        self._writer = SummaryWriter(str(run / "tensorboard"))
        lines = "\n".join(f"    {key}: {value}" for key, value in parameters.items())
        self._writer.add_text("recipe", f"{name}\n\n{lines}")

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        """Scalars of an epoch."""
        for key, value in numbers(record).items():
            self._writer.add_scalar(f"{variant}/{key}", value, record["epoch"])

    def figures(self, values: Mapping[str, float]) -> None:
        """Scalars without a step."""
        for key, value in values.items():
            self._writer.add_scalar(key, value)

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - event files have no status
        """Flush and close the file."""
        self._writer.close()


class MLflow:
    """A file store in RUN/mlflow with one run: parameters, metrics VARIANT/KEY by epoch, figures as metrics."""

    def __init__(self, run: Path, name: str, parameters: Mapping[str, str]) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the only store that mlflow-skinny brings
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        place = (run / "mlflow").absolute().as_uri()
        self._metric = Metric
        self._client = MlflowClient(tracking_uri=place, registry_uri=place)
        known = self._client.get_experiment_by_name("edgewise")
        experiment = known.experiment_id if known else self._client.create_experiment("edgewise")
        for earlier in self._client.search_runs([experiment]):
            self._client.delete_run(earlier.info.run_id)  # not the folder: a store stays open as long as the process
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        self._client.log_batch(self._run, params=[Param(key, value[:6000]) for key, value in parameters.items()])

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        """Metrics of an epoch."""
        self._log({f"{variant}/{key}": value for key, value in numbers(record).items()}, record["epoch"])

    def figures(self, values: Mapping[str, float]) -> None:
        """Metrics of step 0."""
        self._log(values, 0)

    def close(self, *, finished: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._client.log_batch(self._run, [self._metric(key, value, 0, step) for key, value in values.items()])


class WandB:
    """An offline run in RUN/wandb, for `wandb sync` by hand: no console, machine facts, code or git are captured."""

    def __init__(self, run: Path, name: str, parameters: Mapping[str, str]) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        for kind in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str(run.absolute() / "wandb" / "home"))
        import wandb

        shutil.rmtree(run / "wandb", ignore_errors=True)
        quiet = {f"x_{what}": True for what in ("disable_stats", "disable_meta", "disable_machine_info")} | {
            "x_save_requirements": False
        }
        settings = wandb.Settings(
            mode="offline",
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            save_code=False,
            host="",
            **quiet,
        )
        self._run = wandb.init(
            dir=str(run), project="edgewise", name=name, config=dict(parameters), settings=settings, reinit="create_new"
        )

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        """A row of the history."""
        self._run.log({f"{variant}/{key}": value for key, value in numbers(record).items()})

    def figures(self, values: Mapping[str, float]) -> None:
        """Entries of the summary."""
        self._run.summary.update(dict(values))

    def close(self, *, finished: bool) -> None:
        """Finish the offline run."""
        self._run.finish(exit_code=0 if finished else 1)


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, str]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
"""Name in a recipe, which is also the extra, the module and the folder in the run -> what opens it."""


class Mirror:
    """All trackers of a run as one. A tracker that fails is dropped."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, make: Callable[[], Tracker]) -> None:
        """Add a tracker."""
        with self._guarded(name):
            self._open[name] = make()

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        """See `Tracker.record`."""
        self._tell(lambda tracker: tracker.record(variant, record))

    def figures(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.figures`; numbers are taken out of nested facts, their keys joined by a slash."""
        self._tell(lambda tracker: tracker.figures(numbers(values)))

    def close(self, *, finished: bool) -> None:
        """See `Tracker.close`."""
        self._tell(lambda tracker: tracker.close(finished=finished))

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._guarded(name):
                tell(tracker)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as problem:  # noqa: BLE001 - whatever goes wrong in a tracker, the training does not end by it
            self._open.pop(name, None)
            first = (str(problem).splitlines() or [""])[0]
            self._say(
                f"warning: {name} failed and is not written to any more ({type(problem).__name__}: {first}); "
                "metrics.jsonl has it all"
            )


def check_trackers(names: Sequence[str]) -> None:
    """Find trackers that are not installed before anything is done.

    Raises:
        UnavailableError: E71.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UnavailableError(
                f"{name} is not installed",
                code="E71",
                where={"key": "train.trackers"},
                fix=f'pip install "edgewise[{name}]"',
            )


@contextlib.contextmanager
def mirrored(
    names: Sequence[str], run: Path, title: str, parameters: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Mirror]:
    """Open trackers for a run and close them however it ends.

    Args:
        names: of TRACKERS. What an earlier part of a resumed run left is replaced, as metrics.jsonl is: all finished
            epochs are told again.
        run: the run folder.
        title: of the run.
        parameters: nested options; keys are joined by dots.
        say: where warnings go.
    """
    mirror = Mirror(say)
    for name in dict.fromkeys(names):
        make = TRACKERS[name]
        mirror.open(name, lambda make=make: make(run, title, dict(_flat(parameters))))  # type: ignore[misc]
    finished = False
    try:
        yield mirror
        finished = True
    finally:
        mirror.close(finished=finished)


def numbers(facts: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested facts by their keys, joined by slashes; truth values are none."""
    found: dict[str, float] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + key] = value
    return found


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)
