"""Each tracker, read back by its own means, has what metrics.jsonl has; none opens a connection or ends a training."""

from __future__ import annotations

import json
import math
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgewise import pipeline
from edgewise.errors import UnavailableError
from edgewise.progress import Silent
from edgewise.recipe import Recipe
from edgewise.train import trackers
from edgewise.train.trackers import TRACKERS, Mirror, mirrored, numbers

RECORDS = [
    {"epoch": 1, "lr": 0.01, "train_loss": 1.5, "val_macro_f1": 0.25, "seconds": 0.5},
    {"epoch": 2, "lr": 0.005, "train_loss": 1.25, "val_macro_f1": 0.75, "seconds": 0.5},
]

Found = dict[tuple[str, int], float]
"""(metric, epoch) -> value."""


def from_tensorboard(run: Path) -> tuple[Found, dict[str, float], str]:
    """Metrics by epoch, final figures, parameters as text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found, final = {}, {}
    for key in events.Tags()["scalars"]:
        for event in events.Scalars(key):
            if event.step:
                assert (key, event.step) not in found
                found[key, event.step] = event.value
            else:
                final[key] = event.value
    (text,) = events.Tensors("recipe/text_summary")
    return found, final, text.tensor_proto.string_val[0].decode()


def from_mlflow(run: Path) -> tuple[Found, dict[str, float], str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run / "mlflow").absolute().as_uri())
    experiment = client.get_experiment_by_name("edgewise")
    (mine,) = client.search_runs([experiment.experiment_id])
    found, final = {}, {}
    for key in mine.data.metrics:
        for metric in client.get_metric_history(mine.info.run_id, key):
            if metric.step:
                assert (key, metric.step) not in found
                found[key, metric.step] = metric.value
            else:
                final[key] = metric.value
    assert mine.info.status == "FINISHED"
    return found, final, "".join(f"{key}: {value}\n" for key, value in mine.data.params.items())


def chunks_of(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format (blocks of 32 KiB, a header of crc, length and type)."""
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in {1, 4}:  # full, last
            yield whole
            whole = b""


def from_wandb(run: Path) -> tuple[Found, dict[str, float], str]:
    from wandb.proto import wandb_internal_pb2 as messages

    (folder,) = (run / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    found: Found = {}
    summary: dict[str, float] = {}
    config, ended = "", False
    for chunk in chunks_of(file.read_bytes()):
        record = messages.Record()
        record.ParseFromString(chunk)
        ended = ended or record.WhichOneof("record_type") == "exit"
        config += "".join(f"{item.key}: {json.loads(item.value_json)}\n" for item in record.run.config.update)
        row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        named = {key: value for key, value in row.items() if not key.startswith("_")}
        for key, value in named.items():
            epoch = named[f"{key.partition('/')[0]}/epoch"]
            assert (key, epoch) not in found
            found[key, epoch] = value
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    assert ended
    return found, {key: summary[key] for key in summary if key.startswith(("validation/", "test/"))}, config


READERS = {"tensorboard": from_tensorboard, "mlflow": from_mlflow, "wandb": from_wandb}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A training with all trackers, told twice: once straight, once resumed with more epochs."""
    from tests.conftest import draw_shape

    images = tmp_path_factory.mktemp("shapes")
    for label in ("disc", "square"):
        (images / label).mkdir()
        for index in range(16):
            draw_shape(label, index).save(images / label / f"{index:02}.png")
    out = tmp_path_factory.mktemp("runs") / "with space"
    raw: dict[str, Any] = {
        "data": {"source": str(images), "size": 16},
        "model": "convnet(4, 4)",
        "train": {"epochs": 2, "batch_size": 8, "threads": 1, "trackers": list(TRACKERS)},
    }
    pipeline.train_model(Recipe.model_validate(raw), out)
    raw["train"]["epochs"] = 3
    summary = pipeline.train_model(Recipe.model_validate(raw), out, opening=pipeline.Opening(resume=True))
    return out, summary


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_what_metrics_jsonl_has(trained: tuple[Path, dict[str, Any]], name: str) -> None:
    run, summary = trained
    found, final, parameters = READERS[name](run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    expected = {(f"base/{key}", line["epoch"]): value for line in lines for key, value in numbers(line).items()}
    assert found == pytest.approx(expected, rel=1e-6)
    for split in ("validation", "test"):
        for figure in ("accuracy", "macro_f1"):
            value = summary[split][figure]["value"]
            assert final[f"{split}/{figure}/value"] == pytest.approx(value, rel=1e-6)
    assert "train.epochs: 3" in parameters
    assert "model: convnet(4, 4)" in parameters


class Trap:
    """A proxy that counts who comes; the proxy variables send every client of HTTP here, whatever it is written in."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.visits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._server.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    @property
    def environment(self) -> dict[str, str]:
        place = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        return {**dict.fromkeys(names, place), "NO_PROXY": "", "no_proxy": ""}

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


WATCHED = """
import socket, sys
outward = []
plain = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        outward.append(address)
    return plain(self, address)
socket.socket.connect = connect
"""


def python(code: str, trap: Trap, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    import os

    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    environment |= trap.environment | {"HOME": str(home)}
    words = (sys.executable, "-c", WATCHED + textwrap.dedent(code), *words)
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_opens_no_connection_and_writes_nothing_outside_the_run(
    name: str, trap: Trap, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "run").mkdir()
    code = f"""
        from pathlib import Path
        from edgewise.train.trackers import mirrored
        said = []
        with mirrored([{name!r}], Path(sys.argv[1]), "title", {{"a": {{"b": 1}}}}, said.append) as mirror:
            for record in {RECORDS!r}:
                mirror.record("base", record)
            mirror.figures({{"validation": {{"accuracy": 0.5}}}})
        assert not said, said
        assert not outward, outward
    """
    done = python(code, trap, tmp_path / "home", str(tmp_path / "run"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert trap.visits == 0
    assert list((tmp_path / "home").rglob("*")) == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    found, final, _ = READERS[name](tmp_path / "run")
    assert found["base/train_loss", 2] == pytest.approx(1.25)
    assert name == "wandb" or final["validation/accuracy"] == pytest.approx(0.5)


def test_the_trap_catches_who_goes_out(trap: Trap, tmp_path: Path) -> None:
    code = """
        import urllib.request
        try:
            urllib.request.urlopen("http://example.invalid/", timeout=10)
        except OSError:
            pass
    """
    done = python(code, trap, tmp_path)
    assert done.returncode == 0, done.stderr
    assert trap.visits > 0


def of_shapes(source: Path, *names: str) -> Recipe:
    train = {"epochs": 2, "batch_size": 8, "threads": 1, "trackers": names}
    return Recipe.model_validate({"data": {"source": str(source), "size": 16}, "model": "convnet(4)", "train": train})


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_told_before_anything_is_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Callable[..., Path]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError) as caught:
        pipeline.train_model(of_shapes(shapes(8), name), tmp_path / "run")
    assert (caught.value.code, caught.value.exit_code) == ("E71", 4)
    assert caught.value.fix == f'pip install "edgewise[{name}]"'
    assert not (tmp_path / "run").exists()


class Failing:
    """A tracker whose disk is full from a certain call on."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.calls: list[str] = []
        self._do("open")

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if what == self.at:
            raise OSError(28, "No space left on device")

    def record(self, variant: str, record: Mapping[str, Any]) -> None:
        self._do("record")

    def figures(self, values: Mapping[str, float]) -> None:
        self._do("figures")

    def close(self, *, finished: bool) -> None:
        self._do("close")


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["open", "record", "figures", "close"])
def test_a_tracker_that_fails_is_one_warning_and_nothing_else(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Callable[..., Path]
) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", lambda run, name, parameters: Failing(at))
    heard = Heard()
    pipeline.train_model(of_shapes(shapes(8), "wandb", "tensorboard"), tmp_path / "run", progress=heard)
    told = [text for text in heard.said if "wandb" in text]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2
    found, final, _ = from_tensorboard(tmp_path / "run")
    assert {epoch for _, epoch in found} == {1, 2}
    assert final


def test_a_failed_tracker_is_not_called_again() -> None:
    made = Failing("record")
    said: list[str] = []
    mirror = Mirror(said.append)
    mirror.open("mine", lambda: made)
    for record in RECORDS:
        mirror.record("base", record)
    mirror.close(finished=True)
    assert made.calls == ["open", "record"]
    assert len(said) == 1


def test_an_interrupted_run_is_not_called_finished(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    def interrupted() -> None:
        with mirrored(["mlflow"], tmp_path, "title", {}, print) as mirror:
            mirror.record("base", {"epoch": 1, "val_loss": math.nan})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    (mine,) = client.search_runs([client.get_experiment_by_name("edgewise").experiment_id])
    assert mine.info.status == "KILLED"


def test_numbers_are_taken_out_of_nested_facts() -> None:
    facts = {"a": 1, "b": {"c": 0.5, "d": "word", "e": {"f": 2}}, "g": True, "h": None, "i": [1]}
    assert numbers(facts) == {"a": 1, "b/c": 0.5, "b/e/f": 2}
    assert trackers.TRACKERS.keys() == {"tensorboard", "mlflow", "wandb"}
